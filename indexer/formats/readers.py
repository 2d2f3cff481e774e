"""Content → blocks, whatever the format: what the extractor child runs."""

from __future__ import annotations

from indexer.errors import DocumentEmpty
from indexer.formats.detect import detect
from indexer.formats.docx import read_docx
from indexer.formats.encoding import decode
from indexer.formats.hypertext import read_html
from indexer.formats.markdown import markdown_blocks
from indexer.formats.odt import read_odt
from indexer.formats.pdf import read_pdf
from indexer.formats.plain import plain_blocks
from indexer.formats.rtf import read_rtf
from indexer.limits import ExtractionLimits
from indexer.types import Block, ExtractedText


def read_document(content: bytes, suffix: str, limits: ExtractionLimits) -> ExtractedText:
    """Raises a DocumentError of the kind that fits; DocumentEmpty when all is well but there is no text."""
    found = _read(content, suffix, limits)
    if not any(_has_text(block) for block in found.blocks):
        raise DocumentEmpty("There is no text in the document.")
    return found


def _read(content: bytes, suffix: str, limits: ExtractionLimits) -> ExtractedText:
    match detect(content, suffix, limits):
        case "docx":
            return read_docx(content, limits)
        case "odt":
            return read_odt(content, limits)
        case "pdf":
            return read_pdf(content, limits)
        case "rtf":
            return read_rtf(content)
        case "html":
            return read_html(content)
        case "markdown":
            text, encoding = decode(content)
            return ExtractedText(
                blocks=markdown_blocks(text), media_type="text/markdown", encoding=encoding
            )
        case "text":
            text, encoding = decode(content)
            return ExtractedText(
                blocks=plain_blocks(text), media_type="text/plain", encoding=encoding
            )


def _has_text(block: Block) -> bool:
    return any(
        character.isalnum() or (character.isprintable() and not character.isspace())
        for character in block.text
    )
