"""Lines of PDF pages → paragraphs: by gaps, indents, sizes and by whether the next word would have fitted.

Running heads and page numbers are dropped, hyphenation is undone, small print (foot-notes, captions) becomes notes.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

from indexer.types import Block, BlockKind

MAX_HEAD_LINES = 2
MIN_HEAD_PAGES = 3
INDENT_EMS = 0.8
MAX_GAP_LINES = 1.45
SAME_SIZE = 0.15
SMALL_PRINT = 0.82
HEADING_SIZE = 1.15
MAX_HEADING_CHARS = 200
COLUMN_WINDOW_LINES = 25

TERMINAL = re.compile(r"[.!?…:;][\"'”’»)\]]*$")
MARKER = re.compile(r"[—–•●▪*]\s?|-\s|\(?\w{1,3}[.)]\s|\d+(?:\.\d+)*\.?\s")
LEADERS = re.compile(r"\.{5,}|(?:\. ){5,}|…{3,}")
WORD = re.compile(r"[^\W\d_]+(?:-[^\W\d_]+)*")
LAST_PART = re.compile(r"(?:[^\W\d_]+-)*[^\W\d_]+$")
FIRST_PART = re.compile(r"[^\W\d_]+")
HYPHENATED = re.compile(
    r"(?:self|well|half|semi|cross|кое|вице|экс|северо|юго)-\w+$"
    r"|(?:по-\w+(?:ски|цки|ому|ему|ьи)|во-\w+ых|из-(?:за|под))$"
    r"|\w+-(?:то|либо|нибудь|таки|like|based|known)$"
)
"""Words that keep their hyphen at a line's end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TextLine:
    """A line; lengths in points, `bottom` grows upwards. is_hyphenated: its last word goes on in the next line."""

    text: str
    page: int
    left: float
    right: float
    bottom: float
    size: float
    is_hyphenated: bool = False


@dataclass(frozen=True, slots=True)
class Page:
    """A page's lines in reading order."""

    height: float
    lines: tuple[TextLine, ...]


def blocks_of_pages(pages: Sequence[Page]) -> tuple[Block, ...]:
    """Paragraphs in reading order; one may span pages."""
    kept = _without_running_heads(pages)
    lines = [line for page in kept for line in page]
    if not lines:
        return ()
    sizes: Counter[float] = Counter()
    for line in lines:
        sizes[round(line.size * 2) / 2] += len(line.text)
    body_size = sizes.most_common(1)[0][0]
    words = frozenset(word.lower() for line in lines for word in WORD.findall(line.text))
    return tuple(
        Block(_joined(group, words), _kind(group, body_size)) for group in _groups(kept) if group
    )


def _without_running_heads(pages: Sequence[Page]) -> list[list[TextLine]]:
    """Lines at a page's edge that come back on three pages, whatever the numbers in them, and page numbers."""
    edges = [_edge_lines(page) for page in pages]
    counts = Counter(
        key for page_edges in edges for key in {_head_key(line) for line in page_edges}
    )
    kept = []
    for page, page_edges in zip(pages, edges, strict=True):
        dropped = {
            id(line)
            for line in page_edges
            if counts[_head_key(line)] >= MIN_HEAD_PAGES or not _head_key(line)
        }
        kept.append([line for line in page.lines if id(line) not in dropped])
    return kept


def _edge_lines(page: Page) -> list[TextLine]:
    ordered = sorted(page.lines, key=lambda line: -line.bottom)
    return [*ordered[:MAX_HEAD_LINES], *ordered[MAX_HEAD_LINES:][-MAX_HEAD_LINES:]]


def _head_key(line: TextLine) -> str:
    """The letters alone: numbers differ from page to page and change sides; "" for a page number."""
    return "".join(character for character in line.text.lower() if character.isalpha())


def _groups(pages: Iterable[Sequence[TextLine]]) -> list[list[TextLine]]:
    groups: list[list[TextLine]] = []
    for lines in pages:
        pitch = _pitch(lines)
        for at, line in enumerate(lines):
            before = groups[-1][-1] if groups else None
            if before is None or (at == 0 and not _goes_on_elsewhere(before, line)):
                groups.append([line])
            elif at == 0 or not _starts_anew(before, line, _Column.around(lines, at), pitch):
                groups[-1].append(line)
            else:
                groups.append([line])
    return groups


def _pitch(lines: Sequence[TextLine]) -> float:
    """The usual distance of two lines."""
    gaps = [(a.bottom - b.bottom, a.size) for a, b in pairwise(lines)]
    usual = [gap for gap, size in gaps if 0.5 * size < gap < 3 * size]
    return median(usual) if usual else 0.0


@dataclass(frozen=True, slots=True)
class _Column:
    """The edges of the lines above and below that begin near the same place."""

    left: float
    right: float

    @staticmethod
    def around(lines: Sequence[TextLine], at: int) -> _Column:
        line = lines[at - 1]
        nearby = [
            other
            for other in lines[max(0, at - COLUMN_WINDOW_LINES) : at + COLUMN_WINDOW_LINES]
            if other.left < line.right and other.right > line.left
        ]
        return _Column(
            min((other.left for other in nearby), default=line.left),
            max((other.right for other in nearby), default=line.right),
        )


def _starts_anew(before: TextLine, line: TextLine, column: _Column, pitch: float) -> bool:
    """Whether a paragraph begins with `line`; both on one page."""
    if before.is_hyphenated:
        return False
    size = max(before.size, 1.0)
    gap = before.bottom - line.bottom
    if gap < -0.5 * size:  # the next column
        return not _goes_on_elsewhere(before, line)
    if gap < 0.5 * size:  # the same line, in two pieces: cells of a table if they are far apart
        return line.left - before.right > 2 * size
    if abs(line.size - before.size) > SAME_SIZE * size or (pitch and gap > MAX_GAP_LINES * pitch):
        return True
    is_item = bool(MARKER.match(line.text))
    if line.left > before.left + INDENT_EMS * size and not MARKER.match(before.text):
        return True
    ends = bool(TERMINAL.search(before.text))
    if is_item and ends:
        return True
    if _would_have_fitted(before, line, column):
        return ends or is_item or not line.text[0].islower()
    return False


def _would_have_fitted(before: TextLine, line: TextLine, column: _Column) -> bool:
    """Whether the first word of `line` had room after `before`: then the break there was meant."""
    character_width = (line.right - line.left) / max(1, len(line.text))
    first_word = line.text.split(None, 1)[0]
    return before.right + (len(first_word) + 1.5) * character_width < column.right


def _goes_on_elsewhere(before: TextLine, line: TextLine) -> bool:
    """Whether a paragraph goes on in the next column or page."""
    if before.is_hyphenated:
        return True
    if abs(line.size - before.size) > SAME_SIZE * max(before.size, 1.0):
        return False
    return not TERMINAL.search(before.text) and line.text[0].islower()


def _kind(lines: Sequence[TextLine], body_size: float) -> BlockKind:
    size = lines[0].size
    n_chars = sum(len(line.text) for line in lines)
    if any(LEADERS.search(line.text) for line in lines):
        return "heading"
    if size > HEADING_SIZE * body_size and n_chars <= MAX_HEADING_CHARS:
        return "heading"
    if size < SMALL_PRINT * body_size:
        return "note"
    return "paragraph"


def _joined(lines: Sequence[TextLine], words: frozenset[str]) -> str:
    """The lines as one text, words that were divided at line ends whole again."""
    text = lines[0].text
    for before, line in pairwise(lines):
        is_divided = before.is_hyphenated or _ends_with_hyphen(text, line.text)
        if is_divided:
            text = _rejoined(text.rstrip("-\u00ad"), line.text, words)
        else:
            text = f"{text} {line.text}"
    return text


def _ends_with_hyphen(text: str, following: str) -> bool:
    return (
        len(text) > 1
        and text[-1] in "-\u00ad"
        and text[-2].isalpha()
        and bool(following)
        and following[0].isalpha()
    )


def _rejoined(text: str, following: str, words: frozenset[str]) -> str:
    """`exam` + `ple` → `example`, but `well` + `known` → `well-known`: as the document writes it elsewhere."""
    last, first = LAST_PART.search(text), FIRST_PART.match(following)
    if last is None or first is None:
        return f"{text}-{following}"
    whole = f"{last[0]}{first[0]}".lower()
    hyphenated = f"{last[0]}-{first[0]}".lower()
    if hyphenated in words and whole not in words:
        return f"{text}-{following}"
    if whole in words:
        return f"{text}{following}"
    is_name = first[0][0].isupper() and not last[0].isupper()
    keeps_hyphen = is_name or HYPHENATED.match(hyphenated)
    return f"{text}-{following}" if keeps_hyphen else f"{text}{following}"
