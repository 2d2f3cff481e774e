"""The process that reads documents: `python -I -m indexer.extractor_child <limits as JSON>`, started by `extract.py`.

It imports all it needs, gives up everything else (`sandbox/lockdown.py`), and then answers one document after the other on
its pipes. It ends when the pipe closes, and after any document that left it in doubt.
"""

from __future__ import annotations

import codecs
import contextlib
import json
import os
import sys
from typing import BinaryIO

from indexer.errors import DocumentError, DocumentParseFailed, DocumentTooLarge
from indexer.extraction_wire import Answer, read_request, write_answer
from indexer.formats.readers import read_document
from indexer.formats.samples import sample_documents
from indexer.limits import ExtractionLimits
from sandbox.lockdown import (
    OUT_OF_MEMORY_STATUS,
    READY,
    MemoryWatch,
    allow_processor_time,
    limit_resources,
    lock_down,
)

CODECS = (
    *("utf-8", "utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be", "ascii", "latin-1", "cp437"),
    *("cp737", "cp775", "cp850", "cp852", "cp855", "cp857", "cp860", "cp861", "cp862", "cp863"),
    *("cp864", "cp865", "cp866", "cp869", "cp874", "cp932", "cp949", "cp950", "gbk", "big5"),
    *(f"cp{number}" for number in range(1250, 1259)),
    *("johab", "mac_roman", "mac_cyrillic", "koi8_r", "koi8_u", "iso8859_5", "shift_jis", "euc_jp"),
    *("gb18030", "gb2312", "iso8859_2", "iso8859_15"),
)


def main(argv: list[str]) -> int:
    """Serve documents until the pipe closes; the status is for the daemon only."""
    limits = ExtractionLimits(**json.loads(argv[1]))
    requests, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    # Nothing that a library prints may be taken for an answer.
    os.dup2(2, 1)
    _import_everything(limits)
    watch = MemoryWatch(limits.memory_bytes)
    limit_resources(limits.memory_bytes)
    lock_down()
    answers.write(READY)
    answers.flush()
    return _serve(requests, answers, limits, watch)


def _import_everything(limits: ExtractionLimits) -> None:
    """Codecs, splitters and parsers are imported when first used; after `lock_down` nothing can be."""
    for name in CODECS:
        codecs.lookup(name)
    for content in sample_documents():
        with contextlib.suppress(DocumentError):
            read_document(content, "", limits)


def _serve(
    requests: BinaryIO, answers: BinaryIO, limits: ExtractionLimits, watch: MemoryWatch
) -> int:
    while True:
        try:
            request = read_request(requests, limits.n_bytes)
        except MemoryError:
            return OUT_OF_MEMORY_STATUS
        if request is None:
            return 0
        allow_processor_time(limits.cpu_s)
        watch.start()
        try:
            answer = _answer(*request, limits)
            write_answer(answers, answer, limits.text_bytes)
        except MemoryError:
            return OUT_OF_MEMORY_STATUS
        watch.stop()
        if answer.is_last:
            return 1
        del request, answer


def _answer(content: bytes, suffix: str, limits: ExtractionLimits) -> Answer:
    """No message quotes the document. What no reader foresaw is the last thing that this process reads."""
    try:
        return Answer(read_document(content, suffix, limits))
    except DocumentError as error:
        return Answer(error)
    except MemoryError:
        failure: DocumentError = DocumentTooLarge(
            f"Reading the document takes more than {limits.memory_bytes:,} bytes of memory."
        )
    except RecursionError:
        failure = DocumentParseFailed("The document nests too deeply to be read.")
    except Exception as error:  # noqa: BLE001  # whatever a parser throws at broken input
        failure = DocumentParseFailed(
            f"The document is broken: its parser failed ({type(error).__name__})."
        )
    return Answer(failure, is_last=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv))
