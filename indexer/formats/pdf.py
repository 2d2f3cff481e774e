"""PDF: the text layer through PDFium, line by line with its geometry; `pdf_layout.py` makes paragraphs of the lines.

PDFium and not pypdf: on the real files it reads the same text some ten times faster, opens AES-encrypted ones with
an empty password without a further library, gives positions, and was built for hostile input. It is not
thread-safe, which a process of its own does not notice. There is no OCR: no text layer is `DocumentScanned`.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pypdfium2
import pypdfium2.raw as pdfium

from indexer.errors import (
    DocumentEmpty,
    DocumentEncrypted,
    DocumentParseFailed,
    DocumentScanned,
    DocumentTooLarge,
)
from indexer.formats.pdf_layout import Page, TextLine, blocks_of_pages
from indexer.limits import ExtractionLimits
from indexer.types import ExtractedText

MEDIA_TYPE = "application/pdf"
LINE_END = re.compile("\r\n|\n|\r|\ufffe|\x02")
HYPHENS = ("\ufffe", "\x02")
"""What PDFium puts for the hyphen of a word that goes on in the next line."""

WORD = re.compile(r"\S{3,}")
PLAUSIBLE = re.compile(
    r"\W*(?:[^\W\d_]?[a-zà-ÿœšžа-яёіїєґў]+|[A-ZÀ-ÞŒŠŽА-ЯЁІЇЄҐ]+|[^\W\d_]['’][^\W\d_]+)(?:[-–'’./][^\W\d_]+)*\W*$"
    r"|[\d\W]+$|[^\x00-\u052f]+$"
)
MIN_WORDS_TO_JUDGE = 20
MIN_PLAUSIBLE = 0.72
CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f]")
IMAGE, FORM = pdfium.FPDF_PAGEOBJ_IMAGE, pdfium.FPDF_PAGEOBJ_FORM


def read_pdf(content: bytes, limits: ExtractionLimits) -> ExtractedText:
    """Raises DocumentEncrypted, DocumentScanned, DocumentEmpty, DocumentParseFailed or DocumentTooLarge."""
    document = _opened(content)
    try:
        n_pages = len(document)
        if n_pages > limits.pdf_pages:
            raise DocumentTooLarge(
                f"The PDF has {n_pages:,} pages, allowed are {limits.pdf_pages:,}; split it."
            )
        pages, n_pictured, n_unreadable = _read_pages(document, n_pages)
    finally:
        document.close()
    if not pages:
        raise _without_text(n_pages, n_pictured, n_unreadable)
    blocks = blocks_of_pages(pages)
    return ExtractedText(blocks=blocks, media_type=MEDIA_TYPE, n_pages=n_pages)


def _opened(content: bytes) -> Any:
    try:
        return pypdfium2.PdfDocument(content)
    except pypdfium2.PdfiumError as error:
        if error.err_code in (pdfium.FPDF_ERR_PASSWORD, pdfium.FPDF_ERR_SECURITY):
            raise DocumentEncrypted("The PDF needs a password; save it without one.") from None
        raise DocumentParseFailed(
            f"The PDF is broken (PDFium error {error.err_code}); export it again."
        ) from None


def _without_text(n_pages: int, n_pictured: int, n_unreadable: int) -> Exception:
    if n_unreadable:
        return DocumentScanned(
            f"The PDF's text layer is unreadable on {n_unreadable} of {n_pages} pages: a poor scan, or fonts without a "
            "map to Unicode. There is no OCR here; export it from its source."
        )
    if n_pictured:
        return DocumentScanned(
            f"The PDF is {n_pages} page(s) of pictures without a text layer. There is no OCR here."
        )
    return DocumentEmpty(f"There is no text on the {n_pages} pages of the PDF.")


def _read_pages(document: Any, n_pages: int) -> tuple[list[Page], int, int]:
    """(pages with text, how many without have pictures, how many have a text layer that makes no sense)."""
    pages: list[Page] = []
    n_pictured = n_unreadable = n_failed = 0
    for index in range(n_pages):
        try:
            page = document[index]
            text_page = page.get_textpage()
        except pypdfium2.PdfiumError:
            n_failed += 1
            continue
        lines = list(_lines(text_page, index))
        if not lines:
            n_pictured += _has_picture(page)
        elif not _is_readable(lines):
            n_unreadable += 1
        else:
            pages.append(Page(page.get_height(), tuple(lines)))
        text_page.close()
        page.close()
    if n_failed == n_pages:
        raise DocumentParseFailed(f"None of the {n_pages} pages of the PDF can be read.")
    return pages, n_pictured, n_unreadable


def _lines(text_page: Any, index: int) -> Iterator[TextLine]:
    text = text_page.get_text_range()
    ends = [match.span() for match in LINE_END.finditer(text)]
    bounds = [0, *(at for span in ends for at in span), len(text)]
    for start, end in list(pairwise(bounds))[::2]:
        raw = text[start:end]
        stripped = raw.strip()
        if not stripped:
            continue
        first = start + len(raw) - len(raw.lstrip())
        last = start + len(raw.rstrip()) - 1
        box, end_box = _box(text_page, first), _box(text_page, last)
        yield TextLine(
            text=CONTROL.sub("", stripped),
            page=index,
            left=box.left,
            right=end_box.right,
            bottom=box.bottom,
            size=abs(box.top - box.bottom),
            is_hyphenated=text[end : end + 1] in HYPHENS,
        )


def _box(text_page: Any, text_index: int) -> Any:
    """The loose box of the character at this place of the text, which lacks some of the page's characters."""
    at = pdfium.FPDFText_GetCharIndexFromTextIndex(text_page, text_index)
    box = pdfium.FS_RECTF()
    pdfium.FPDFText_GetLooseCharBox(text_page, max(0, at), ctypes.byref(box))
    return box


def _has_picture(page: Any) -> bool:
    """A picture, or a form that may hold one."""
    n_objects = pdfium.FPDFPage_CountObjects(page)
    return any(
        pdfium.FPDFPageObj_GetType(pdfium.FPDFPage_GetObject(page, n)) in (IMAGE, FORM)
        for n in range(min(n_objects, 10_000))
    )


def _is_readable(lines: list[TextLine]) -> bool:
    """Whether most words look like words: fonts without a map to Unicode give letters and signs at random."""
    words = [word for line in lines for word in WORD.findall(line.text)]
    if len(words) < MIN_WORDS_TO_JUDGE:
        return True
    return sum(bool(PLAUSIBLE.match(word)) for word in words) >= MIN_PLAUSIBLE * len(words)
