"""Rich Text Format (.rtf), as Word, WordPad, LibreOffice, TextEdit and Pages write it.

A reader of our own: striprtf drops foot-notes, keeps deleted and hidden text, halves characters outside the basic
plane, runs table cells together, and reads Russian bytes as Latin where the font table names no charset.
Kept: text, table cells, notes (as notes), field results, text boxes. Left out: every other destination.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace

from indexer.errors import DocumentParseFailed
from indexer.formats.encoding import is_cyrillic_cp1251
from indexer.formats.rtf_words import (
    CHARACTERS,
    CHARSET_ENCODINGS,
    CODE_PAGES,
    KEPT_DESTINATIONS,
    SKIPPED_DESTINATIONS,
)
from indexer.formats.style_names import kind_of_style
from indexer.types import Block, BlockKind, ExtractedText

MEDIA_TYPE = "application/rtf"
TOKEN = re.compile(
    r"((?:\\u-?\d{1,5} ?\??|\\'[0-9a-fA-F]{2}|[^\\{}\r\n\0])+)"
    r"|\\([a-zA-Z]{1,32})(-?\d{1,10})? ?"
    r"|\\(.)"
    r"|([{}])"
    r"|[\r\n\0]+",
    re.DOTALL,
)
"""The first alternative is text with its usual escapes, taken in one piece: Russian is nothing but escapes."""

UNICODE = re.compile(r"\\u(-?\d{1,5}) ?(\??)")
UNICODE_WITH_MARK = re.compile(r"\\u(-?\d{1,5}) ?\?")
UNICODE_ALONE = re.compile(r"\\u(-?\d{1,5}) ?")
MAX_DEPTH = 10_000
DEFAULT_ENCODING = "cp1252"

Piece = str | tuple[str | None, bytes]
"""Text, or bytes with their encoding; None: the document's own, decided when all of it is known."""


def read_rtf(content: bytes) -> ExtractedText:
    """Raises DocumentParseFailed for groups nested beyond reason. Truncated files give what is there."""
    reader = _Reader()
    reader.read(content.decode("latin-1"))
    return ExtractedText(blocks=reader.blocks(), media_type=MEDIA_TYPE)


@dataclass(frozen=True, slots=True)
class _Group:
    """What a group restores at its end.

    skipped_by: the outermost destination that is not read. skip_after_unicode: characters that stand in for a `\\u`.
    """

    destination: str = ""
    skipped_by: str = ""
    is_hidden: bool = False
    is_deleted: bool = False
    font: int | None = None
    skip_after_unicode: int = 1


@dataclass(slots=True)
class _Paragraph:
    pieces: list[Piece] = field(default_factory=list)
    style: int | None = None
    is_heading: bool = False
    is_list_item: bool = False
    is_in_table: bool = False
    is_note: bool = False

    def take(self, word: str, value: int | None) -> None:
        """Words that change the paragraph; `\\pard` resets its properties, the text stays."""
        match word:
            case "pard":
                self.style = None
                self.is_heading = self.is_list_item = self.is_in_table = False
            case "s":
                self.style = value
            case "intbl":
                self.is_in_table = True
            case "outlinelevel":
                self.is_heading = value is not None and value < 9
            case "ls":
                self.is_list_item = value != 0


class _Reader:
    """One pass over the tokens. Paragraphs are decoded at the end, when the default encoding is known."""

    def __init__(self) -> None:
        self._group = _Group()
        self._stack: list[tuple[_Group, _Paragraph | None]] = []
        self._paragraph = _Paragraph()
        self._finished: list[tuple[list[Piece], BlockKind | None, int | None]] = []
        self._styles: dict[int, BlockKind] = {}
        self._font_encodings: dict[int, str | None] = {}
        self._table_entry = 0  # the font or style that a table entry is about
        self._table_text = ""
        self._encoding = DEFAULT_ENCODING
        self._default_font: int | None = None
        self._n_to_skip = 0
        self._is_starred = False

    def read(self, text: str) -> None:
        at, end = 0, len(text)
        while at < end:
            match = TOKEN.match(text, at)
            if match is None:  # a lone backslash at the end
                break
            at = match.end()
            run, word, number, symbol, brace = match.groups()
            if run is not None:
                self._run(run)
            elif word == "u":
                self._unicode(int(number or 0))
            elif word == "bin":
                at += max(0, int(number or 0))
            elif word is not None:
                self._word(word, None if number is None else int(number))
            elif symbol is not None:
                self._symbol(symbol)
            elif brace == "{":
                self._open()
            elif brace == "}" and not self._close():
                break
        self._end_paragraph(None)

    def blocks(self) -> tuple[Block, ...]:
        unknown = b"".join(
            piece[1]
            for pieces, _, _ in self._finished
            for piece in pieces
            if not isinstance(piece, str) and piece[0] is None
        )
        encoding = self._encoding
        if encoding in ("cp1252", "mac_roman", "cp850", "cp437") and is_cyrillic_cp1251(unknown):
            encoding = "cp1251"
        found = []
        for pieces, kind, style in self._finished:
            text = "".join(
                piece
                if isinstance(piece, str)
                else piece[1].decode(piece[0] or encoding, "replace")
                for piece in pieces
            )
            # Characters outside the basic plane come as two `\u`: join the halves.
            text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
            if text.strip():
                own = self._styles.get(style) if style is not None else None
                found.append(Block(text, kind or own or "paragraph"))
        # A note ends before the paragraph that it stands in: all of them go to the end.
        return tuple(sorted(found, key=lambda block: block.kind == "note"))

    def _open(self) -> None:
        if len(self._stack) >= MAX_DEPTH:
            raise DocumentParseFailed(f"The document nests more than {MAX_DEPTH:,} RTF groups.")
        self._stack.append((self._group, None))
        self._n_to_skip = 0
        self._is_starred = False

    def _close(self) -> bool:
        """Restore what the group changed; False at the end of the document."""
        self._n_to_skip = 0
        self._is_starred = False
        if not self._stack:
            return False
        group, outer = self._stack.pop()
        if outer is not None:  # a note or a text box ends
            self._end_paragraph(None)
            self._paragraph = outer
        self._group = group
        return bool(self._stack)

    def _word(self, word: str, value: int | None) -> None:
        self._n_to_skip = 0
        starred, self._is_starred = self._is_starred, False
        skipped_by = self._group.skipped_by
        if word in KEPT_DESTINATIONS:
            if skipped_by in KEPT_DESTINATIONS[word]:
                self._enter_kept(word)
        elif word in SKIPPED_DESTINATIONS or starred:
            self._group = replace(self._group, destination=word, skipped_by=skipped_by or word)
        elif skipped_by:
            self._table_word(word, value)
        elif word in CHARACTERS:
            self._text(CHARACTERS[word])
        elif word in ("par", "sect", "page", "cell", "nestcell", "row", "nestrow"):
            in_table = "cell" in word or self._paragraph.is_in_table
            self._end_paragraph("table_cell" if in_table else None)
        else:
            self._property(word, value)

    def _enter_kept(self, word: str) -> None:
        """Notes and text boxes stand inside a paragraph, which goes on after them."""
        if word != "ud" and self._stack:
            group, _ = self._stack[-1]
            self._stack[-1] = (group, self._paragraph)
            self._paragraph = _Paragraph(is_note=word == "footnote")
        self._group = replace(self._group, destination=word, skipped_by="")

    def _property(self, word: str, value: int | None) -> None:
        """Words that change the state of characters or of the document."""
        is_on = value != 0
        match word:
            case "f":
                self._group = replace(self._group, font=value)
            case "deff":
                self._default_font = value
            case "v" | "webhidden":
                self._group = replace(self._group, is_hidden=is_on)
            case "deleted":
                self._group = replace(self._group, is_deleted=is_on)
            case "plain":
                self._group = replace(self._group, is_hidden=False, is_deleted=False, font=None)
            case "uc":
                self._group = replace(self._group, skip_after_unicode=max(0, value or 0))
            case "ansicpg":
                self._encoding = CODE_PAGES.get(value or 0, DEFAULT_ENCODING)
            case "mac":
                self._encoding = "mac_roman"
            case _:
                self._paragraph.take(word, value)

    def _table_word(self, word: str, value: int | None) -> None:
        """Words inside the font table and the style sheet; other skipped destinations say nothing."""
        destination = self._group.destination
        if destination == "fonttbl" and word == "f":
            self._table_entry, self._table_text = value or 0, ""
        elif destination == "fonttbl" and word == "fcharset":
            self._font_encodings[self._table_entry] = CHARSET_ENCODINGS.get(value or 0)
        elif destination == "stylesheet" and word == "s":
            self._table_entry, self._table_text = value or 0, ""

    def _table_run(self, text: str) -> None:
        self._table_text += text[:200]
        if not self._table_text.endswith(";") or len(self._table_text) > 1_000:
            return
        name = self._table_text.rstrip("; ").strip()
        if self._group.destination == "fonttbl" and name.endswith((" CYR", " Cyr")):
            self._font_encodings[self._table_entry] = "cp1251"
        elif self._group.destination == "stylesheet":
            kind = kind_of_style(name)
            if kind is not None:
                self._styles[self._table_entry] = kind
        self._table_text = ""

    def _symbol(self, symbol: str) -> None:
        if symbol == "*":
            self._is_starred = True
        elif symbol in "\\{}":
            self._bytes(symbol.encode())
        elif symbol == "~":
            self._text("\u00a0")
        elif symbol == "_":
            self._text("\u2011")
        elif symbol in "\r\n" and not self._group.skipped_by:
            self._end_paragraph("table_cell" if self._paragraph.is_in_table else None)

    def _unicode(self, value: int) -> None:
        self._is_starred = False
        self._text(chr(value & 0xFFFF))
        self._n_to_skip = self._group.skip_after_unicode

    def _run(self, run: str) -> None:
        """Text with `\\'xx` and `\\uN?` in it; the question mark is what N stands in for, if one is skipped."""
        self._is_starred = False
        if "\\u" in run and not self._n_to_skip and "\\'" not in run:
            text = self._plain_unicode(run)
            if text is not None:
                self._text(text)
                return
        at = 0
        for match in UNICODE.finditer(run) if "\\u" in run else ():
            if match.start() > at:
                self._bytes(_unescaped(run[at : match.start()]))
            self._unicode(int(match[1]))
            at = match.start(2)
            if self._n_to_skip == 1 and match[2]:
                self._n_to_skip, at = 0, match.end()
        if at < len(run):
            self._bytes(_unescaped(run[at:]))

    def _plain_unicode(self, run: str) -> str | None:
        """A run of nothing but ASCII and `\\uN`, at once: how Word (with `?`) and TextEdit (without) write Russian."""
        n_skipped = self._group.skip_after_unicode
        if n_skipped > 1:
            return None
        pattern = UNICODE_WITH_MARK if n_skipped else UNICODE_ALONE
        text, n_found = pattern.subn(_unicode_character, run)
        return text if n_found == run.count("\\u") and text.isprintable() else None

    def _bytes(self, run: bytes) -> None:
        if self._n_to_skip:
            n_skipped = min(self._n_to_skip, len(run))
            self._n_to_skip -= n_skipped
            run = run[n_skipped:]
        group = self._group
        if group.skipped_by:
            if group.destination in ("fonttbl", "stylesheet"):
                self._table_run(run.decode("latin-1"))
            return
        if not run or group.is_hidden or group.is_deleted:
            return
        font = self._default_font if group.font is None else group.font
        encoding = None if font is None else self._font_encodings.get(font)
        self._paragraph.pieces.append((encoding, run))

    def _text(self, text: str) -> None:
        group = self._group
        if not (group.skipped_by or group.is_hidden or group.is_deleted):
            self._paragraph.pieces.append(text)

    def _end_paragraph(self, kind: BlockKind | None) -> None:
        paragraph = self._paragraph
        if paragraph.is_note:
            kind = "note"
        elif paragraph.is_heading:
            kind = "heading"
        elif kind is None and paragraph.is_list_item and paragraph.style not in self._styles:
            kind = "list_item"
        if paragraph.pieces:
            self._finished.append((paragraph.pieces, kind, paragraph.style))
            paragraph.pieces = []


def _unicode_character(match: re.Match[str]) -> str:
    return chr(int(match[1]) & 0xFFFF)


def _unescaped(run: str) -> bytes:
    """`\\'xx` → the byte."""
    first, *escaped = run.split("\\'")
    return (first + "".join([chr(int(part[:2], 16)) + part[2:] for part in escaped])).encode(
        "latin-1"
    )
