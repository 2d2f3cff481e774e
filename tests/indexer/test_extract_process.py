"""The child that reads documents: what it cannot do, how it ends, and that nothing it saw is left anywhere."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from benchmarks.extraction_documents import docx, word_paragraph
from indexer.errors import (
    DocumentEmpty,
    DocumentError,
    DocumentParseFailed,
    DocumentTooLarge,
    DocumentUnsupported,
)
from indexer.extract import Extractor, read_text
from indexer.extraction_wire import LENGTH, Answer, WireError, read_answer, write_answer
from indexer.limits import ExtractionLimits
from indexer.types import Block

CANARY = "канарейка-CANARY-7f3a"
SLOW = b"{\\rtf1 " + b"\\b {\\i a\\u1103?}\\par\n" * 2_000_000 + b"}"


@pytest.fixture(scope="module")
def extractor() -> Iterator[Extractor]:
    found = Extractor()
    yield found
    found.close()


def children() -> set[int]:
    """Processes whose parent is this one."""
    import psutil

    return {child.pid for child in psutil.Process().children()}


def test_documents_share_a_child_until_it_has_read_enough() -> None:
    before = children()
    extractor = Extractor(ExtractionLimits(documents_per_child=2))
    seen = []
    for _ in range(3):
        extractor.extract(b"A sentence.")
        seen.append(children() - before)
    extractor.close()

    assert len(seen[0]) == 1
    assert seen[1] == set()
    assert len(seen[2]) == 1
    assert seen[2] != seen[0]
    assert children() == before
    with pytest.raises(RuntimeError):
        extractor.extract(b"A sentence.")


def test_threads_may_share_an_extractor(extractor: Extractor) -> None:
    texts = [f"Sentence number {n} of a thread." for n in range(24)]
    with ThreadPoolExecutor(6) as pool:
        found = pool.map(lambda text: extractor.extract(text.encode()).blocks, texts)

    assert list(found) == [(Block(text),) for text in texts]


def test_a_child_that_is_killed_fails_one_document_and_the_next_is_read() -> None:
    before = children()
    extractor = Extractor()
    extractor.extract(b"A sentence.")
    (pid,) = children() - before
    killer = threading.Timer(0.3, os.kill, (pid, signal.SIGSEGV))
    killer.start()
    with pytest.raises(DocumentParseFailed, match=r"crashed its parser|SIGSEGV"):
        extractor.extract(SLOW, file_name="x.rtf")

    assert extractor.extract(b"A sentence.").blocks == (Block("A sentence."),)
    extractor.close()


def test_a_document_that_takes_too_long_is_stopped() -> None:
    extractor = Extractor(ExtractionLimits(wall_s=0.2))
    started = time.monotonic()
    with pytest.raises(DocumentParseFailed, match=r"more than 0\.2 s"):
        extractor.extract(SLOW)
    took_s = time.monotonic() - started
    extractor.close()

    assert took_s < 30


def test_a_document_that_takes_too_much_processor_time_is_stopped() -> None:
    extractor = Extractor(ExtractionLimits(cpu_s=0))
    with pytest.raises(DocumentParseFailed, match="processor time"):
        extractor.extract(SLOW)
    extractor.close()


def test_a_document_that_takes_too_much_memory_is_stopped() -> None:
    # 280 MB are hardly more than the child needs to start.
    extractor = Extractor(ExtractionLimits(memory_bytes=280_000_000, start_s=60))
    try:
        with pytest.raises(DocumentTooLarge, match="memory"):
            extractor.extract(SLOW)
    finally:
        extractor.close()


def test_limits_on_what_goes_in_and_what_comes_out() -> None:
    extractor = Extractor(ExtractionLimits(n_bytes=1_000, text_bytes=400))
    with pytest.raises(DocumentTooLarge, match="1,001 bytes"):
        extractor.extract(b"x" * 1_001)
    with pytest.raises(DocumentTooLarge, match="over 400 bytes"):
        extractor.extract(b"word " * 180)
    with pytest.raises(DocumentEmpty):
        extractor.extract(b" \n")
    extractor.close()


def test_a_canary_is_found_in_the_answer_and_nowhere_else(
    extractor: Extractor, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    before = _files()
    broken = [
        docx(word_paragraph(CANARY)).replace(b"PK\x01\x02", b"PK\x01\x03"),
        docx(f"<w:p><w:t>{CANARY}</w:r></w:p>"),
        docx(f"<w:p>&{CANARY};</w:p>"),
        f"%PDF-1.7 {CANARY}".encode(),
        f"From: {CANARY}\nTo: x\nSubject: {CANARY}\nMIME-Version: 1.0\n\n{CANARY}".encode(),
        (CANARY + "\0\1\2\3" * 99).encode(),
    ]
    messages = []
    for content in broken:
        with pytest.raises(DocumentError) as failure:
            extractor.extract(content, file_name=f"../{CANARY}\0.docx")
        messages.append(repr(failure.value))
    answer = extractor.extract(docx(word_paragraph(CANARY)), file_name=f"{CANARY}.docx")
    written = b"".join(_content(path) for path in _files() - before)
    printed = "".join(capfd.readouterr())

    assert answer.blocks == (Block(CANARY),)
    for found in ("".join(messages), written.decode("utf-8", "replace"), printed, caplog.text):
        assert CANARY not in found
        assert "CANARY" not in found


def _files() -> set[Path]:
    return {path for path in Path(tempfile.gettempdir()).glob("*") if path.is_file()}


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"\0",
        LENGTH.pack(10) + b"short",
        LENGTH.pack(2**60),
        *(
            LENGTH.pack(len(body)) + body
            for body in (
                b"[]",
                b"null",
                b"{}",
                b"\xff\xfe",
                b"[" * 900,
                b'{"is_last": false, "error": "SystemExit", "message": "x"}',
                b'{"is_last": false, "blocks": [["paragraph", 1]], "media_type": "a", "encoding": null, "n_pages": null}',
                b'{"is_last": false, "blocks": [["evil", "a"]], "media_type": "a", "encoding": null, "n_pages": null}',
            )
        ),
    ],
)
def test_an_answer_that_is_none_is_noticed(answer: bytes) -> None:
    with pytest.raises((WireError, OSError)) as failure:
        read_answer(io.BytesIO(answer), 1_000)

    assert len(str(failure.value)) < 100


def test_half_a_surrogate_pair_survives_no_pipe() -> None:
    pipe = io.BytesIO()
    write_answer(pipe, Answer(read_text("a \ud83d b")), 1_000)
    pipe.seek(0)

    answer = read_answer(pipe, 1_000).document

    assert not isinstance(answer, DocumentError)
    assert answer.blocks == (Block("a ? b"),)


def test_strange_names_are_only_names(extractor: Extractor) -> None:
    for name in (
        "../../etc/passwd",
        "a\0b.pdf",
        "x" * 100_000,
        "CON.txt",
        "\u202etxt.exe",
        ".docx",
        "a.{}",
        "-rf",
    ):
        try:
            assert extractor.extract(b"A sentence.", file_name=name).blocks == (
                Block("A sentence."),
            )
        except DocumentParseFailed as error:
            assert "named .pdf" in str(error)  # noqa: PT017
    with pytest.raises(DocumentUnsupported):
        extractor.extract(bytes(range(256)), file_name="letter.txt")


def test_what_the_daemon_holds_in_memory_is_not_counted_as_the_childs() -> None:
    """Linux lets a child inherit the largest size of whoever forked it: a 4B model would have ended every document."""
    code = (
        "import sys; held = b'x' * (650 << 20)\n"
        "from indexer.extract import Extractor\n"
        "from indexer.limits import ExtractionLimits\n"
        "extractor = Extractor(ExtractionLimits(memory_bytes=600_000_000))\n"
        "found = extractor.extract(b'A sentence that is long enough.\\n\\n' * 60000, file_name='a.txt')\n"
        "extractor.close(); sys.exit(not found.blocks)"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0
