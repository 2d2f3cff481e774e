"""OpenDocument text (.odt) of LibreOffice: paragraphs, lists, cells, notes, text boxes; tracked deletions left out."""

from __future__ import annotations

from collections.abc import Iterator

from indexer.errors import DocumentEncrypted, DocumentParseFailed
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

MEDIA_TYPE = "application/vnd.oasis.opendocument.text"
TAGS = (
    "style",
    "p",
    "h",
    "list-item",
    "table-cell",
    "note-body",
    *("tracked-changes", "annotation"),
)
SKIPPED_INSIDE = frozenset({"note", "annotation", "text-box", "ruby-text", "tracked-changes"})
SKIPPED = frozenset({"tracked-changes", "annotation"})
MAX_SPACES = 1_000
MAX_DEPTH = 16


def read_odt(content: bytes, limits: ExtractionLimits) -> ExtractedText:
    """Raises DocumentParseFailed, DocumentEncrypted or DocumentTooLarge."""
    with opened_archive(content, limits) as archive:
        if b"encryption-data" in (part_or_none(archive, "META-INF/manifest.xml") or b""):
            raise DocumentEncrypted("The document needs a password; save it without one.")
        body = part_or_none(archive, "content.xml")
        if body is None:
            raise DocumentParseFailed("The document has no content part; save it again as .odt.")
        styles = part_or_none(archive, "styles.xml")
        names = {} if styles is None else _style_parents(styles)
        blocks = _blocks(body, names)
    return ExtractedText(blocks=tuple(blocks), media_type=MEDIA_TYPE)


def _style_parents(styles: bytes) -> dict[str, tuple[str, str]]:
    return dict(_style(element) for element in parse_xml(styles).iter("{*}style"))


def _style(element: Element) -> tuple[str, tuple[str, str]]:
    """(name, (the name shown, the parent's name))."""
    attributes = local_attributes(element)
    name = attributes.get("name", "")
    return name, (attributes.get("display-name", name), attributes.get("parent-style-name", ""))


def _blocks(body: bytes, styles: dict[str, tuple[str, str]]) -> list[Block]:
    blocks: list[Block] = []
    depths = dict.fromkeys(TAGS, 0)
    for event, element in xml_events(body, TAGS):
        name = local_name(element.tag)
        depths[name] += 1 if event == "start" else -1
        if event == "start":
            continue
        if name == "style":
            styles.update([_style(element)])
        elif name in ("p", "h") and not any(depths[skipped] for skipped in SKIPPED):
            text = _text(element)
            if text.strip():
                blocks.append(Block(text, _kind(name, element, styles, depths)))
            tail = element.tail
            element.clear()
            element.tail = tail
    return sorted(blocks, key=lambda block: block.kind == "note")


def _kind(
    name: str, element: Element, styles: dict[str, tuple[str, str]], depths: dict[str, int]
) -> BlockKind:
    if depths["note-body"]:
        return "note"
    if name == "h":
        return "heading"
    at = local_attributes(element).get("style-name", "")
    for _ in range(MAX_DEPTH):
        shown, parent = styles.get(at, (at, ""))
        kind = kind_of_style(shown)
        if kind is not None:
            return kind
        at = parent
    if depths["table-cell"]:
        return "table_cell"
    return "list_item" if depths["list-item"] else "paragraph"


def _text(paragraph: Element) -> str:
    """The text of a paragraph in document order, without notes and boxes, which are blocks of their own."""
    return "".join(_pieces(paragraph))


def _pieces(element: Element) -> Iterator[str]:
    """libxml2 nests at most 256 elements, which bounds the recursion."""
    yield _mark(local_name(element.tag), element) or element.text or ""
    for child in element:
        if local_name(child.tag) not in SKIPPED_INSIDE:
            yield from _pieces(child)
        yield child.tail or ""


def _mark(name: str, element: Element) -> str:
    if name == "s":
        count = local_attributes(element).get("c", "1")
        return " " * min(int(count) if count.isdigit() else 1, MAX_SPACES)
    return {"tab": "\t", "line-break": "\n"}.get(name, "")
