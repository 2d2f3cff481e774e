"""Documents → blocks, from the daemon's side: the parsers run in a child process that can be killed.

A child takes about a quarter of a second to start and a few thousandths a document, so one is kept and given
document after document. It is replaced after `documents_per_child`, and after any failure that leaves it in doubt.
"""

from __future__ import annotations

import contextlib
import json
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import PurePath
from typing import IO

from indexer.errors import DocumentEmpty, DocumentError, DocumentParseFailed, DocumentTooLarge
from indexer.extraction_wire import WireError, read_answer, write_request
from indexer.extractor_child import READY
from indexer.formats.markdown import markdown_blocks
from indexer.formats.passages import code_point_spans
from indexer.formats.plain import plain_blocks
from indexer.limits import ExtractionLimits
from indexer.sandbox import OUT_OF_MEMORY_STATUS
from indexer.types import ExtractedText

SUFFIX = re.compile(r"\.[a-z0-9]{1,10}$")
END_TIMEOUT_S = 5.0


def read_text(
    text: str, *, markdown: bool = False, ai_ranges: Sequence[tuple[int, int]] = ()
) -> ExtractedText:
    """Text that an editor pushed, in this process: there is nothing to parse but lines.

    ai_ranges: (offset, length) in UTF-16 code units of what a machine wrote. Raises DocumentEmpty.
    """
    spans = code_point_spans(text, ai_ranges)
    blocks = markdown_blocks(text, spans) if markdown else plain_blocks(text, spans)
    if not blocks:
        raise DocumentEmpty("There is no text in the document.")
    media_type = "text/markdown" if markdown else "text/plain"
    return ExtractedText(blocks=blocks, media_type=media_type)


class Extractor:
    """Reads documents in a child process. Any thread may call; documents are read one at a time."""

    def __init__(self, limits: ExtractionLimits | None = None) -> None:
        self._limits = limits or ExtractionLimits()
        self._lock = threading.Lock()
        self._child: _Child | None = None
        self._is_closed = False

    def extract(self, content: bytes, *, file_name: str | None = None) -> ExtractedText:
        """The blocks of a document. file_name: only its suffix is looked at, and only in doubt.

        Raises DocumentEncrypted, DocumentScanned, DocumentParseFailed, DocumentTooLarge, DocumentUnsupported or
        DocumentEmpty; RuntimeError after `close`.
        """
        limits = self._limits
        if not content.strip():
            raise DocumentEmpty("The document is empty.")
        if len(content) > limits.n_bytes:
            raise DocumentTooLarge(
                f"The document has {len(content):,} bytes, allowed are {limits.n_bytes:,}."
            )
        with self._lock:
            if self._is_closed:
                raise RuntimeError("The extractor is closed.")
            child = self._child or _Child(limits)
            self._child = None
            try:
                found = child.read(content, _suffix(file_name))
            finally:
                if child.is_usable:
                    self._child = child
                else:
                    child.end()
        if isinstance(found, DocumentError):
            raise found
        return found

    def rest(self) -> None:
        """End the child and give its memory back; the next document starts another."""
        with self._lock:
            self._end_child()

    def close(self) -> None:
        """End the child; waits for a document that is being read."""
        with self._lock:
            self._is_closed = True
            self._end_child()

    def _end_child(self) -> None:
        if self._child is not None:
            self._child.end()
            self._child = None


def _suffix(file_name: str | None) -> str:
    """`.docx` of a name, "" of a strange one: no more than this reaches the child."""
    suffix = PurePath(file_name or "").suffix.lower() if len(file_name or "") < 4096 else ""
    return suffix if SUFFIX.match(suffix) else ""


class _Child:
    """One extractor process and its pipes. is_usable: it may be given another document."""

    def __init__(self, limits: ExtractionLimits) -> None:
        self._limits = limits
        self._n_read = 0
        self.is_usable = True
        self._process = subprocess.Popen(
            # Isolated: no PYTHONPATH, no user site, no working directory in the path; nothing in its environment.
            [
                sys.executable,
                "-I",
                "-B",
                "-m",
                "indexer.extractor_child",
                json.dumps(asdict(limits)),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            # A parser's complaints may quote the document.
            stderr=subprocess.DEVNULL,
            cwd="/",
            env={},
            start_new_session=True,
        )
        self._stdin, self._stdout = _piped(self._process.stdin), _piped(self._process.stdout)
        self._is_ready = False

    def read(self, content: bytes, suffix: str) -> ExtractedText | DocumentError:
        """What the child found, or how it ended instead."""
        if not self._becomes_ready():
            return DocumentParseFailed(
                "The process that reads documents did not start; try again, then look at `pushkin doctor`."
            )
        self.is_usable = False
        with self._killed_after(self._limits.wall_s) as is_late:
            try:
                write_request(self._stdin, content, suffix)
                answer = read_answer(self._stdout, self._limits.text_bytes)
            except (WireError, OSError):
                return self._diagnosis(is_late.is_set())
        self._n_read += 1
        self.is_usable = not answer.is_last and self._n_read < self._limits.documents_per_child
        return answer.document

    def end(self) -> None:
        """Close the pipes; kill what does not end by itself at once."""
        self._process.kill()
        for pipe in (self._stdin, self._stdout):
            with contextlib.suppress(OSError):
                pipe.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(END_TIMEOUT_S)

    def _becomes_ready(self) -> bool:
        if not self._is_ready:
            with self._killed_after(self._limits.start_s):
                self._is_ready = self._stdout.read(len(READY)) == READY
            self.is_usable = self._is_ready
        return self._is_ready

    @contextlib.contextmanager
    def _killed_after(self, seconds: float) -> Iterator[threading.Event]:
        """Kill the process when the body takes longer; the event says that this happened."""
        is_late = threading.Event()

        def kill() -> None:
            is_late.set()
            self._process.kill()

        timer = threading.Timer(seconds, kill)
        timer.daemon = True
        timer.start()
        try:
            yield is_late
        finally:
            timer.cancel()

    def _diagnosis(self, is_late: bool) -> DocumentError:
        """What the document did to the process, as far as its end tells."""
        if is_late:
            return DocumentParseFailed(
                f"Reading the document took more than {self._limits.wall_s:g} s and was stopped."
            )
        self._process.kill()
        try:
            status = self._process.wait(END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            status = 0
        if status == -signal.SIGXCPU:
            return DocumentParseFailed(
                f"Reading the document took more than {self._limits.cpu_s} s of processor time and was stopped."
            )
        if status == OUT_OF_MEMORY_STATUS:
            return DocumentTooLarge(
                f"Reading the document takes more than {self._limits.memory_bytes:,} bytes of memory."
            )
        if status < 0 and status != -signal.SIGKILL:
            return DocumentParseFailed(
                f"The document crashed its parser ({signal.Signals(-status).name}); it is probably damaged."
            )
        return DocumentParseFailed(
            "The process that reads documents ended without an answer; the document is probably damaged."
        )


def _piped(pipe: IO[bytes] | None) -> IO[bytes]:
    assert pipe is not None
    return pipe
