"""HTML → blocks: what a reader sees as text; scripts, navigation, forms and pictures left out."""

from __future__ import annotations

import re

from lxml import etree

from indexer.errors import DocumentParseFailed
from indexer.formats.encoding import decode
from indexer.formats.hardened_xml import Element, local_name
from indexer.types import Block, BlockKind, ExtractedText

MEDIA_TYPE = "text/html"
DECLARED = re.compile(
    rb"<meta[^>]{0,200}?charset\s*=\s*[\"']?\s*([A-Za-z0-9_-]{2,20})", re.IGNORECASE
)
HEAD_BYTES = 4096
SPACE = re.compile(r"[ \t\r\n\f]+")

SKIPPED = frozenset(
    {"script", "style", "head", "nav", "noscript", "template", "svg", "math", "button", "select"}
    | {"textarea", "iframe", "object", "form", "audio", "video", "canvas", "title"}
)
KINDS: dict[str, BlockKind] = {
    **dict.fromkeys(("h1", "h2", "h3", "h4", "h5", "h6", "caption", "figcaption"), "heading"),
    **dict.fromkeys(("blockquote", "cite"), "quote"),
    **dict.fromkeys(("pre", "code", "samp", "kbd"), "code"),
    **dict.fromkeys(("li", "dd", "dt"), "list_item"),
    **dict.fromkeys(("td", "th"), "table_cell"),
}
INLINE_KINDS = frozenset({"cite", "code", "samp", "kbd"})
BLOCKS = frozenset(KINDS) - INLINE_KINDS | {
    *("p", "div", "section", "article", "header", "footer", "main", "aside", "table", "tr", "ul"),
    *(
        "ol",
        "dl",
        "hr",
        "body",
        "html",
        "figure",
        "address",
        "tbody",
        "thead",
        "details",
        "summary",
    ),
}
STRONGEST: tuple[BlockKind, ...] = ("quote", "code", "heading", "table_cell", "list_item")


def read_html(content: bytes) -> ExtractedText:
    """Raises DocumentParseFailed."""
    text, encoding = _decoded(content)
    parser = etree.HTMLParser(
        encoding="utf-8", no_network=True, huge_tree=False, remove_comments=True, remove_pis=True
    )
    try:
        root = etree.fromstring(text.encode("utf-8"), parser)
    except etree.XMLSyntaxError as error:
        raise DocumentParseFailed(f"The HTML is broken (libxml2 error {error.code}).") from None
    blocks = () if root is None else _blocks(root)
    return ExtractedText(blocks=blocks, media_type=MEDIA_TYPE, encoding=encoding)


def _decoded(content: bytes) -> tuple[str, str]:
    """By mark, by strict UTF-8, by the declaration, by the letters: declarations lie most often about UTF-8."""
    declared = DECLARED.search(content[:HEAD_BYTES])
    if declared is not None:
        try:
            return content.decode("utf-8"), "utf-8"
        except UnicodeDecodeError:
            name = declared[1].decode("ascii").lower()
        try:
            return content.decode(name), name
        except (UnicodeDecodeError, LookupError):
            pass
    return decode(content)


def _blocks(root: Element) -> tuple[Block, ...]:
    blocks: list[Block] = []
    pieces: list[str] = []
    open_kinds: list[BlockKind] = []
    n_skipped = 0

    def end_block() -> None:
        lines = (SPACE.sub(" ", line).strip() for line in "".join(pieces).split("\v"))
        text = "\n".join(line for line in lines if line)
        pieces.clear()
        if text:
            strongest = [kind for kind in STRONGEST if kind in open_kinds]
            blocks.append(Block(text, strongest[0] if strongest else "paragraph"))

    for event, element in etree.iterwalk(root, events=("start", "end")):
        name = local_name(element.tag)
        if name in SKIPPED:
            n_skipped += 1 if event == "start" else -1
        elif name in BLOCKS and not n_skipped:
            end_block()
            if name in KINDS and event == "start":
                open_kinds.append(KINDS[name])
            elif name in KINDS and KINDS[name] in open_kinds:
                open_kinds.remove(KINDS[name])
        elif name == "br" and event == "start":
            pieces.append("\v")
        text = element.text if event == "start" else element.tail
        if text and not n_skipped:
            pieces.append(text)
    end_block()
    return tuple(blocks)
