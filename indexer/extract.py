"""Documents → blocks, from the daemon's side: the parsers run in a child process that can be killed.

A child takes about a quarter of a second to start and a few thousandths a document, so one is kept and given
document after document. It is replaced after `documents_per_child`, and after any failure that leaves it in doubt.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import PurePath

from indexer.errors import DocumentEmpty, DocumentError, DocumentParseFailed, DocumentTooLarge
from indexer.extraction_wire import WireError, read_answer, write_request
from indexer.formats.markdown import markdown_blocks
from indexer.formats.passages import code_point_spans
from indexer.formats.plain import plain_blocks
from indexer.limits import ExtractionLimits
from indexer.types import ExtractedText
from sandbox.child import Child, Ending

SUFFIX = re.compile(r"\.[a-z0-9]{1,10}$")


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
        self._reader: _Reader | None = None
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
            reader = self._reader or _Reader(limits)
            self._reader = None
            try:
                found = reader.read(content, _suffix(file_name))
            finally:
                if reader.is_usable:
                    self._reader = reader
                else:
                    reader.end()
        if isinstance(found, DocumentError):
            raise found
        return found

    def rest(self) -> None:
        """End the child and give its memory back; the next document starts another."""
        with self._lock:
            self._end_reader()

    def close(self) -> None:
        """End the child; waits for a document that is being read."""
        with self._lock:
            self._is_closed = True
            self._end_reader()

    def _end_reader(self) -> None:
        if self._reader is not None:
            self._reader.end()
            self._reader = None


def _suffix(file_name: str | None) -> str:
    """`.docx` of a name, "" of a strange one: no more than this reaches the child."""
    suffix = PurePath(file_name or "").suffix.lower() if len(file_name or "") < 4096 else ""
    return suffix if SUFFIX.match(suffix) else ""


class _Reader:
    """A child, and how many documents it has read. is_usable: it may be given another."""

    def __init__(self, limits: ExtractionLimits) -> None:
        self._limits = limits
        self._n_read = 0
        self.is_usable = True
        self._child = Child("indexer.extractor_child", json.dumps(asdict(limits)))

    def read(self, content: bytes, suffix: str) -> ExtractedText | DocumentError:
        """What the child found, or how it ended instead."""
        self.is_usable = False
        if not self._child.becomes_ready(self._limits.start_s):
            return DocumentParseFailed(
                "The process that reads documents did not start; try again, then look at `pushkin doctor`."
            )
        try:
            with self._child.killed_after(self._limits.wall_s):
                write_request(self._child.stdin, content, suffix)
                answer = read_answer(self._child.stdout, self._limits.text_bytes)
        except (WireError, OSError):
            return _failure(self._child.ending(), self._limits)
        self._n_read += 1
        self.is_usable = not answer.is_last and self._n_read < self._limits.documents_per_child
        return answer.document

    def end(self) -> None:
        """End the process."""
        self._child.end()


def _failure(ending: Ending, limits: ExtractionLimits) -> DocumentError:
    """What the document did to the process that read it."""
    match ending.cause:
        case "late":
            return DocumentParseFailed(
                f"Reading the document took more than {limits.wall_s:g} s and was stopped."
            )
        case "processor_time":
            return DocumentParseFailed(
                f"Reading the document took more than {limits.cpu_s} s of processor time and was stopped."
            )
        case "memory":
            return DocumentTooLarge(
                f"Reading the document takes more than {limits.memory_bytes:,} bytes of memory."
            )
        case "crash":
            return DocumentParseFailed(
                f"The document crashed its parser ({ending.signal_name}); it is probably damaged."
            )
        case "silence":
            return DocumentParseFailed(
                "The process that reads documents ended without an answer; the document is probably damaged."
            )
