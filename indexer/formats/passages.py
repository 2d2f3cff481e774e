"""Passages of one text and what becomes of them: shared by plain text and Markdown.

Marks of machine-written text come as (offset, length) in UTF-16 code units, as editors count. A sentence that such a
mark touches is not the author's: it becomes a block of its own with `is_ai`, the sentences around it stay.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from indexer.language import language_of
from indexer.sentences import sentence_spans
from indexer.types import Block, BlockKind

NEWLINE = re.compile(r"\r\n|[\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029]")
Span = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a text without its end; `text` without the white space at both ends, `indent` in columns."""

    start: int
    end: int
    text: str
    indent: int


@dataclass(frozen=True, slots=True)
class Passage:
    """Lines of a text that belong together."""

    start: int
    end: int
    kind: BlockKind = "paragraph"


def lines_of(text: str) -> list[Line]:
    """All lines, blank ones too."""
    found = []
    at = 0
    for newline in NEWLINE.finditer(text):
        found.append(_line(text, at, newline.start()))
        at = newline.end()
    found.append(_line(text, at, len(text)))
    return found


def _line(text: str, start: int, end: int) -> Line:
    raw = text[start:end]
    stripped = raw.strip("\ufeff \t\u00a0\u3000")
    indent = (
        len(raw.expandtabs(4)) - len(raw.expandtabs(4).lstrip(" \u00a0\u3000")) if stripped else 0
    )
    return Line(start, end, stripped, indent)


def code_point_spans(text: str, utf16_spans: Iterable[Span]) -> list[Span]:
    """(offset, length) in UTF-16 code units → sorted (start, end) in code points, clipped to the text."""
    # UTF-16 offsets of the characters that take two units there.
    astral = [at + n for n, at in enumerate(i for i, c in enumerate(text) if c > "\uffff")]
    spans = []
    for offset, length in utf16_spans:
        start, end = (at - bisect_left(astral, at) for at in (max(0, offset), offset + length))
        if start < min(end, len(text)):
            spans.append((start, min(end, len(text))))
    return sorted(spans)


def blocks_of(
    text: str,
    passages: Iterable[Passage],
    ai_spans: Sequence[Span],
    read: Callable[[str], str],
) -> Iterator[Block]:
    """The passages as blocks. read: raw text of a passage → its text (lines joined, marks of the format gone)."""
    for passage in passages:
        touched = [(s, e) for s, e in ai_spans if s < passage.end and e > passage.start]
        if not touched:
            found = read(text[passage.start : passage.end])
            if found.strip():
                yield Block(found, passage.kind)
            continue
        yield from _divided(text, passage, touched, read)


def _divided(
    text: str, passage: Passage, touched: Sequence[Span], read: Callable[[str], str]
) -> Iterator[Block]:
    raw = text[passage.start : passage.end]
    # One character for one: the offsets stay.
    flat = re.sub(r"\s", " ", raw)
    sentences = sentence_spans(flat, language_of(flat))

    def is_ai(sentence: Span) -> bool:
        start, end = sentence[0] + passage.start, sentence[1] + passage.start
        return any(s < end and e > start for s, e in touched)

    for machine, run in groupby(sentences, key=is_ai):
        spans = list(run)
        found = read(raw[spans[0][0] : spans[-1][1]])
        if found.strip():
            yield Block(found, passage.kind, is_ai=machine)
