"""What a paragraph style's name says about a paragraph: the names Word, LibreOffice, Pages and pandoc give, EN and RU."""

from __future__ import annotations

import re

from indexer.types import BlockKind

PATTERNS: dict[BlockKind, str] = {
    # A table of contents is made of headings; so are captions, titles, author and date lines.
    "heading": r"heading|title|subtitle|заголовок|название|подзаголовок|toc\b|contents|оглавление|содержание$"
    r"|caption|author$|date$|header\b|footer\b|index\b",
    "quote": r"(intense )?quot|block ?text|block ?quot|epigraph|цитата|эпиграф|выделенная цитата|citation",
    "code": r"html preformatted|preformatted|source ?code|code\b|verbatim|macro text|plain ?code|код\b",
    "note": r"footnote|endnote|сноска|текст сноски|bibliograph|references|литература|библиограф",
}
COMPILED = {kind: re.compile(pattern, re.IGNORECASE) for kind, pattern in PATTERNS.items()}


def kind_of_style(name: str) -> BlockKind | None:
    """The kind that a style of this name stands for; None for ordinary text."""
    spaced = name.replace("_20_", " ").replace("_", " ").strip()
    for kind, pattern in COMPILED.items():
        if pattern.match(spaced):
            return kind
    return None
