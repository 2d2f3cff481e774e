"""Markdown → blocks: the prose without its marks. Front matter, code, link targets, images and rules are left out."""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Iterator, Sequence

from indexer.formats.passages import Line, Passage, Span, blocks_of, lines_of
from indexer.types import Block, BlockKind

MAX_FRONT_MATTER_LINES = 200
CODE_INDENT = 4
FENCE = re.compile(r"(`{3,}|~{3,})")
HEADING = re.compile(r"#{1,6}(\s|$)")
UNDERLINE = re.compile(r"(=+|-+)$")
RULE = re.compile(r"(?:([*_-])\s*)(?:\1\s*){2,}$")
ITEM = re.compile(r"(?:[-*+]|\d{1,9}[.)])\s+(?:\[[ xX]\]\s+)?")
TABLE_ROW = re.compile(r"\|.*\|$")
REFERENCE = re.compile(r"\[[^\]^\n]+\]:\s*\S+")
NOTE = re.compile(r"\[\^[^\]\n]+\]:\s*")
QUOTE = re.compile(r"(?:>\s?)+")
HTML_ONLY = re.compile(r"(?:<[^<>]*>\s*)+$")

INLINE: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"!\[[^\[\]]*\](?:\([^()]*\)|\[[^\[\]]*\])"), ""),
    (re.compile(r"\[\^[^\[\]\s]+\]"), ""),
    (re.compile(r"\[([^\[\]]+)\](?:\((?:[^()]|\([^()]*\))*\)|\[[^\[\]]*\])"), r"\1"),
    (re.compile(r"<(?:https?|mailto|ftp):[^<>\s]*>"), ""),
    (re.compile(r"</?[a-zA-Z][^<>]*>"), ""),
    (re.compile(r"`+"), ""),
    (re.compile(r"~~"), ""),
    (re.compile(r"(?<![\\\d])\*+(?=\S)|(?<=[^\s\\])\*+(?!\d)"), ""),
    (re.compile(r"(?<![\w\\])_+(?=\S)|(?<=[^\s\\])_+(?!\w)"), ""),
    (re.compile(r"(?: {2,}|\\)\r?\n[ \t]*"), "\v"),  # a hard line break
    (re.compile(r"[ \t]*(?:\r\n|[\n\r])[ \t]*"), " "),
    (re.compile(r"\v"), "\n"),
    (re.compile(r"\\([!-/:-@\[-`{-~])"), r"\1"),
)
MARKS: dict[BlockKind, re.Pattern[str]] = {
    "heading": re.compile(r"^\s*#{1,6}\s*|\s*#+\s*$"),
    "list_item": re.compile(r"^\s*" + ITEM.pattern),
    "quote": re.compile(r"^\s*(?:>\s?)+", re.MULTILINE),
    "note": re.compile(r"^\s*" + NOTE.pattern),
}


def markdown_blocks(text: str, ai_spans: Sequence[Span] = ()) -> tuple[Block, ...]:
    """ai_spans: machine-written parts, (start, end) in code points."""
    blocks = []
    for passage in _Lines(lines_of(text)).passages():
        if passage.kind == "table_cell":
            row = text[passage.start : passage.end].strip().strip("|")
            cells = (prose(cell).strip(" :-") for cell in row.split("|"))
            blocks += [Block(cell, "table_cell") for cell in cells if cell]
            continue
        kind = passage.kind

        def read(raw: str, kind: BlockKind = kind) -> str:
            return (
                raw if kind == "code" else prose(MARKS[kind].sub("", raw) if kind in MARKS else raw)
            )

        blocks += blocks_of(text, [passage], ai_spans, read)
    return tuple(blocks)


def prose(raw: str) -> str:
    """The text of a passage without the marks inside it, lines joined."""
    raw = _without_comments(raw)
    for pattern, replacement in INLINE:
        raw = pattern.sub(replacement, raw)
    return html.unescape(raw).strip()


def _without_comments(raw: str) -> str:
    """`<!-- -->` out; by search, since a pattern takes quadratic time over openings that never close."""
    pieces, at = [], 0
    while (start := raw.find("<!--", at)) >= 0 and (end := raw.find("-->", start + 4)) >= 0:
        pieces.append(raw[at:start])
        at = end + 3
    return "".join((*pieces, raw[at:]))


class _Lines:
    """The lines of a document, taken from the front."""

    def __init__(self, lines: list[Line]) -> None:
        self._lines = lines
        self._at = self._after_front_matter()

    def _after_front_matter(self) -> int:
        opener = self._lines[0].text
        if opener not in ("---", "+++"):
            return 0
        closers = ("---", "...") if opener == "---" else ("+++",)
        for n, line in enumerate(self._lines[1:MAX_FRONT_MATTER_LINES], 1):
            if line.text in closers:
                return n + 1
        return 0

    def passages(self) -> Iterator[Passage]:
        in_list = False
        while self._at < len(self._lines):
            line = self._lines[self._at]
            if not line.text:
                self._at += 1
                continue
            if line.indent >= CODE_INDENT and not in_list:
                yield self._take(
                    lambda found: not found.text or found.indent >= CODE_INDENT, "code"
                )
                continue
            passage = self._one(line)
            if passage is not None:
                in_list = passage.kind == "list_item" or (in_list and line.indent > 0)
                yield passage

    def _one(self, line: Line) -> Passage | None:
        """The passage that begins with this line; None for what has no text of the author's."""
        fence = FENCE.match(line.text)
        if fence is not None:
            return self._code(fence[1])
        if RULE.match(line.text) or REFERENCE.match(line.text) or HTML_ONLY.match(line.text):
            self._at += 1
            return None
        if HEADING.match(line.text):
            return self._take(lambda _: False, "heading")
        if TABLE_ROW.match(line.text):
            return self._take(lambda _: False, "table_cell")
        if QUOTE.match(line.text):
            return self._take(
                lambda found: bool(found.text) and not _opens(found, "quote"), "quote"
            )
        kind: BlockKind = "paragraph"
        if ITEM.match(line.text):
            kind = "list_item"
        elif NOTE.match(line.text):
            kind = "note"
        passage = self._take(lambda found: bool(found.text) and not _opens(found), kind)
        if (
            kind == "paragraph"
            and self._at < len(self._lines)
            and UNDERLINE.match(self._lines[self._at].text)
        ):
            self._at += 1
            return Passage(passage.start, passage.end, "heading")
        return passage

    def _take(self, goes_on: Callable[[Line], bool], kind: BlockKind) -> Passage:
        """This line and those after it for which `goes_on` holds."""
        first = last = self._at
        self._at += 1
        while self._at < len(self._lines) and goes_on(self._lines[self._at]):
            if self._lines[self._at].text:
                last = self._at
            self._at += 1
        return Passage(self._lines[first].start, self._lines[last].end, kind)

    def _code(self, fence: str) -> Passage:
        first = self._at
        self._at += 1
        while self._at < len(self._lines):
            line = self._lines[self._at].text
            self._at += 1
            if line.startswith(fence) and not line.strip(fence[0]):
                break
        return Passage(self._lines[first].start, self._lines[self._at - 1].end, "code")


def _opens(line: Line, inside: BlockKind | None = None) -> bool:
    """Whether a line begins something of its own, so that a paragraph before it ends."""
    if inside == "quote" and QUOTE.match(line.text):
        return False
    patterns = (FENCE, HEADING, RULE, UNDERLINE, QUOTE, ITEM, TABLE_ROW, NOTE, REFERENCE)
    return any(pattern.match(line.text) for pattern in patterns)
