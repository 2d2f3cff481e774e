"""Word documents (.docx), by one pass over the XML.

python-docx loses tracked insertions, table text and notes and is several times slower, so it is not used.
Kept: insertions, moved-to text, table cells, text boxes, foot- and endnotes (as notes), tabs and line breaks.
Left out: deletions, moved-from text, hidden runs, comments (others' words), headers and footers, field codes.
"""

from __future__ import annotations

import posixpath
import zipfile
from dataclasses import dataclass, field

from indexer.errors import DocumentParseFailed
from indexer.formats.archive import opened_archive, part_or_none
from indexer.formats.hardened_xml import (
    Element,
    local_attributes,
    local_name,
    parse_xml,
    xml_events,
)
from indexer.formats.style_names import kind_of_style
from indexer.limits import ExtractionLimits
from indexer.types import Block, BlockKind, ExtractedText

MEDIA_TYPE = "application/vnd.openxmlformats-officedocument.wordprocessingml.document"
REMOVED = frozenset({"del", "moveFrom", "Fallback", "rt"})
MARKS = {"tab": "\t", "br": "\n", "cr": "\n", "noBreakHyphen": "\u2011"}
FALSE = frozenset({"0", "false", "off"})
TAGS = (
    *("p", "r", "t", "tc", "footnote", "endnote", "pStyle", "outlineLvl", "numPr", "vanish"),
    *REMOVED,
    *MARKS,
)
MAX_STYLE_DEPTH = 16


def read_docx(content: bytes, limits: ExtractionLimits) -> ExtractedText:
    """Raises DocumentParseFailed, DocumentEncrypted or DocumentTooLarge."""
    with opened_archive(content, limits) as archive:
        main = _related(archive, "", "officeDocument") or "word/document.xml"
        body = part_or_none(archive, main)
        if body is None:
            raise DocumentParseFailed("The document has no main part; save it again as .docx.")
        styles = _style_kinds(_related_part(archive, main, "styles"))
        blocks = _Walk(styles).blocks_of(body)
        for notes in ("footnotes", "endnotes"):
            part = _related_part(archive, main, notes)
            if part is not None:
                blocks += _Walk(styles, within="note").blocks_of(part)
    return ExtractedText(blocks=tuple(blocks), media_type=MEDIA_TYPE)


def _related(archive: zipfile.ZipFile, part: str, kind: str) -> str | None:
    """The name of the part that `part` ("" is the package) points to as `kind`."""
    folder, name = posixpath.split(part)
    relations = part_or_none(archive, posixpath.join(folder, "_rels", f"{name}.rels"))
    if relations is None:
        return None
    for relation in parse_xml(relations):
        attributes = local_attributes(relation)
        is_ours = attributes.get("Type", "").endswith(f"/{kind}")
        if is_ours and attributes.get("TargetMode") != "External":
            return posixpath.normpath(
                posixpath.join("/", folder, attributes.get("Target", ""))
            ).lstrip("/")
    return None


def _related_part(archive: zipfile.ZipFile, main: str, kind: str) -> bytes | None:
    name = _related(archive, main, kind)
    return None if name is None else part_or_none(archive, name)


def _style_kinds(styles: bytes | None) -> dict[str, BlockKind]:
    """Style id → kind, for the paragraph styles whose own or inherited name says one."""
    if styles is None:
        return {}
    names: dict[str, str] = {}
    parents: dict[str, str] = {}
    for style in parse_xml(styles):
        attributes = local_attributes(style)
        if local_name(style.tag) != "style" or attributes.get("type") != "paragraph":
            continue
        style_id = attributes.get("styleId", "")
        for child in style:
            if local_name(child.tag) == "name":
                names[style_id] = local_attributes(child).get("val", "")
            elif local_name(child.tag) == "basedOn":
                parents[style_id] = local_attributes(child).get("val", "")
    kinds: dict[str, BlockKind] = {}
    for style_id in names:
        at, depth = style_id, 0
        while at in names and depth < MAX_STYLE_DEPTH:
            kind = kind_of_style(names[at])
            if kind is not None:
                kinds[style_id] = kind
                break
            at, depth = parents.get(at, ""), depth + 1
    return kinds


@dataclass(slots=True)
class _Paragraph:
    """A paragraph whose end has not come yet; a text box makes them nest."""

    style: str = ""
    is_heading: bool = False
    is_list_item: bool = False
    mark_is_deleted: bool = False
    pieces: list[str] = field(default_factory=list)


class _Walk:
    """One pass over a part. within: the kind that all of it has, None in the main part."""

    def __init__(self, styles: dict[str, BlockKind], *, within: BlockKind | None = None) -> None:
        self._styles = styles
        self._within = within
        self._open: list[_Paragraph] = []
        self._n_cells = 0
        self._n_removed = 0
        self._hidden_run = False
        self._carried: list[str] = []  # of paragraphs whose mark was deleted: part of the next one
        self._blocks: list[Block] = []

    def blocks_of(self, part: bytes) -> list[Block]:
        for event, element in xml_events(part, TAGS):
            name = local_name(element.tag)
            if event == "start":
                self._start(name, element)
            else:
                self._end(name, element)
        return self._blocks

    def _start(self, name: str, element: Element) -> None:
        if name in REMOVED:
            if name == "del" and _parent_name(element) == "rPr":
                self._mark_deleted()
            else:
                self._n_removed += 1
        elif name == "p":
            self._open.append(_Paragraph())
        elif name == "tc":
            self._n_cells += 1
        elif name in ("footnote", "endnote"):
            # Separators and continuation notices are notes with a type.
            self._n_removed += "type" in local_attributes(element)

    def _end(self, name: str, element: Element) -> None:
        if name in REMOVED:
            if not (name == "del" and _parent_name(element) == "rPr"):
                self._n_removed -= 1
        elif name == "p":
            self._close(self._open.pop())
            _forget(element)
        elif name == "tc":
            self._n_cells -= 1
        elif name in ("footnote", "endnote"):
            self._n_removed -= "type" in local_attributes(element)
        elif name == "r":
            self._hidden_run = False
        elif self._open:
            self._content(name, element, self._open[-1])

    def _content(self, name: str, element: Element, paragraph: _Paragraph) -> None:
        value = local_attributes(element).get("val", "")
        if name == "pStyle":
            paragraph.style = value
        elif name == "outlineLvl":
            paragraph.is_heading |= value in set("012345678")
        elif name == "numPr":
            paragraph.is_list_item = True
        elif name == "vanish":
            self._hidden_run |= _in_run_properties(element) and value not in FALSE
        elif self._n_removed or self._hidden_run or _parent_name(element) == "tabs":
            return
        else:
            paragraph.pieces.append(MARKS.get(name) or element.text or "")

    def _mark_deleted(self) -> None:
        if self._open:
            self._open[-1].mark_is_deleted = True

    def _close(self, paragraph: _Paragraph) -> None:
        text = "".join(paragraph.pieces)
        if paragraph.mark_is_deleted:
            self._carried.append(text)
            return
        text = "".join((*self._carried, text))
        self._carried.clear()
        if text.strip():
            self._blocks.append(Block(text, self._kind(paragraph)))

    def _kind(self, paragraph: _Paragraph) -> BlockKind:
        if self._within is not None:
            return self._within
        kind = self._styles.get(paragraph.style)
        if kind is None and not self._styles:
            kind = kind_of_style(paragraph.style)
        if kind is not None:
            return kind
        if paragraph.is_heading:
            return "heading"
        if self._n_cells:
            return "table_cell"
        return "list_item" if paragraph.is_list_item else "paragraph"


def _parent_name(element: Element) -> str:
    parent = element.getparent()
    return "" if parent is None else local_name(parent.tag)


def _in_run_properties(element: Element) -> bool:
    parent = element.getparent()
    return parent is not None and _parent_name(parent) == "r"


def _forget(element: Element) -> None:
    """Free a finished paragraph and what stands before it: memory stays flat over the document."""
    element.clear()
    while element.getprevious() is not None:
        del element.getparent()[0]
