"""Plain text → blocks: blank lines, indents and dialogue dashes part paragraphs; hard-wrapped lines are joined.

Whether a line break is a wrap is decided from the lines around it alone: an edit elsewhere changes nothing here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import pairwise

from indexer.formats.passages import Line, Passage, Span, blocks_of, lines_of
from indexer.types import Block

MIN_WRAP_COLUMNS = 40
MAX_WRAP_COLUMNS = 110
LONG_LINE_COLUMNS = 60
RAGGED_COLUMNS = 8
WINDOW_LINES = 5
NEW_PARAGRAPH_INDENT = 2

TERMINAL = re.compile(r"[.!?…:;][\"'”’»)\]*_]*$")
DIALOGUE_OR_ITEM = re.compile(r"[—–―•·*]\s?|-\s|\d{1,3}[.)]\s|\[?\w[.)]\s")
QUOTED = re.compile(r">\s?")
WRAP = re.compile(r"-?[ \t\u00a0]*(?:\r\n|[\n\r\v\f\x1c-\x1e\x85\u2028\u2029])[ \t\u00a0]*")
RULE = re.compile(r"[\W_]+$")
TITLE = re.compile(
    r"(?:chapter|part|book|act|scene|canto|prologue|epilogue|preface|introduction|contents"
    r"|глава|часть|книга|том|действие|явление|сцена|пролог|эпилог|предисловие|содержание|оглавление)\b.{0,60}$"
    r"|(?=[IVXLC\d])[IVXLC]{0,7}\d{0,3}\.?$",
    re.IGNORECASE,
)
MAX_TITLE_CHARS = 80


def plain_blocks(text: str, ai_spans: Sequence[Span] = ()) -> tuple[Block, ...]:
    """ai_spans: machine-written parts, (start, end) in code points."""
    return tuple(blocks_of(text, _passages(text), ai_spans, _joined))


def _joined(raw: str) -> str:
    """A passage without its line breaks: all of them are wraps. A hyphen at one is the word's own."""

    def joint(match: re.Match[str]) -> str:
        return (
            "-"
            if match[0].startswith("-") and match.start() and raw[match.start() - 1].isalpha()
            else " "
        )

    lines = WRAP.sub(joint, raw.replace("\u00ad\n", "").strip())
    return re.sub(r"(?:^|(?<=\s))>\s?", "", lines) if lines.startswith(">") else lines


def _passages(text: str) -> Iterator[Passage]:
    lines = lines_of(text)
    filled = [n for n, line in enumerate(lines) if line.text]
    wraps = _wraps([lines[n] for n in filled])
    first = 0
    for at, n in enumerate(filled):
        is_last = at + 1 == len(filled) or filled[at + 1] != n + 1 or not wraps[at]
        if is_last:
            yield _passage(lines[filled[first] : n + 1])
            first = at + 1


def _passage(lines: list[Line]) -> Passage:
    start, end = lines[0].start, lines[-1].end
    if QUOTED.match(lines[0].text):
        return Passage(start, end, "quote")
    if len(lines) == 1 and _is_title(lines[0].text):
        return Passage(start, end, "heading")
    return Passage(start, end)


def _is_title(line: str) -> bool:
    """Chapter headings and rules of asterisks; a line in capitals without an end."""
    if len(line) > MAX_TITLE_CHARS:
        return False
    is_shouted = (
        line.isupper() and len(line) > 3 and not line.endswith((".", "!", "?", "…", "»", "”"))
    )
    return bool(RULE.match(line) or TITLE.match(line)) or (is_shouted and " " in line)


def _wraps(lines: list[Line]) -> list[bool]:
    """For each filled line but the last: whether the text goes on in the next one."""
    pairs = list(pairwise(lines))
    widths = [len(line.text) + line.indent for line in lines]
    nearby = [
        max(widths[max(0, at - WINDOW_LINES) : at + WINDOW_LINES + 2]) for at in range(len(pairs))
    ]
    is_evident = [_goes_on(a, b, width) for (a, b), width in zip(pairs, nearby, strict=True)]
    joined = []
    for at, (a, b) in enumerate(pairs):
        both_quoted = bool(QUOTED.match(a.text)) and bool(QUOTED.match(b.text))
        among_wraps = any(is_evident[max(0, at - WINDOW_LINES) : at + WINDOW_LINES + 1])
        is_wrap = is_evident[at] or (among_wraps and _is_full(a, b, nearby[at]))
        joined.append(both_quoted or (is_wrap and not _starts_anew(a, b)))
    return joined


def _goes_on(a: Line, b: Line, width: int) -> bool:
    """A sentence that has not ended, and a line that begins none: only a wrap looks so, or a verse, which is short."""
    if TERMINAL.search(a.text) or DIALOGUE_OR_ITEM.match(b.text):
        return False
    if len(a.text) >= LONG_LINE_COLUMNS:
        return b.text[0].islower() or b.text[0].isdigit()
    return b.text[0].islower() and _is_full(a, b, width - RAGGED_COLUMNS)


def _is_full(a: Line, b: Line, width: int) -> bool:
    """Whether the first word of `b` would not have fitted on `a`, were the lines `width` wide."""
    if not MIN_WRAP_COLUMNS <= width <= MAX_WRAP_COLUMNS:
        return False
    columns = len(a.text) + a.indent
    first_word = b.text.split(None, 1)[0]
    return columns >= MIN_WRAP_COLUMNS and columns + 1 + len(first_word) > width


def _starts_anew(a: Line, b: Line) -> bool:
    if b.indent >= a.indent + NEW_PARAGRAPH_INDENT:
        return True
    if QUOTED.match(b.text):
        return True
    return bool(DIALOGUE_OR_ITEM.match(b.text)) and bool(TERMINAL.search(a.text))
