"""What a document is, by its content. A name decides only between plain text and Markdown, and what a broken file was."""

from __future__ import annotations

import re
import zipfile
from typing import Literal

from indexer.errors import DocumentEncrypted, DocumentParseFailed, DocumentUnsupported
from indexer.formats.archive import opened_archive, part_or_none
from indexer.limits import ExtractionLimits

Format = Literal["docx", "odt", "pdf", "rtf", "html", "markdown", "text"]

HEAD_BYTES = 1024
OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
ENCRYPTED_PACKAGE = "EncryptedPackage".encode("utf-16-le")
HTML = re.compile(
    rb"\s*(?:<\?xml[^>]*>\s*)?(?:<!--.*?-->\s*)*<(?:!doctype\s+html|html|head|body)\b",
    re.IGNORECASE | re.DOTALL,
)
XML = re.compile(rb"\s*<\?xml\b")
MAIL = re.compile(rb"(?:[A-Za-z-]{2,40}:[ \t].*\r?\n(?:[ \t].*\r?\n)*){3,}")
MAIL_FIELDS = (b"message-id:", b"received:", b"mime-version:", b"return-path:")
MARKDOWN_SUFFIXES = frozenset({".md", ".markdown", ".mdown", ".mkd"})
CONTAINER_SUFFIXES = frozenset({".docx", ".odt", ".pdf", ".doc"})
"""Formats that no text editor writes: text under such a name is a broken document, not a text file."""

BINARY_MARKS = (
    (b"\x89PNG", "a picture"),
    (b"\xff\xd8\xff", "a picture"),
    (b"GIF8", "a picture"),
    (b"\x1f\x8b", "a packed file"),
    (b"7z\xbc\xaf", "a packed file"),
    (b"Rar!", "a packed file"),
    (b"SQLite format 3", "a database"),
    (b"\x7fELF", "a program"),
)


def detect(content: bytes, suffix: str, limits: ExtractionLimits) -> Format:
    """suffix: of the file name, lower case, with the dot; "" when there is none.

    Raises DocumentUnsupported, DocumentParseFailed or DocumentEncrypted.
    """
    head = content[:HEAD_BYTES].lstrip(b"\xef\xbb\xbf \t\r\n\0")
    if b"%PDF-" in content[:HEAD_BYTES]:
        return "pdf"
    if head.startswith(b"{\\rt"):
        return "rtf"
    if content.startswith(b"PK"):
        return _zipped(content, limits)
    if content.startswith(OLE):
        raise _ole(content)
    for mark, name in BINARY_MARKS:
        if content.startswith(mark):
            raise DocumentUnsupported(f"The document is {name}, which holds no text to learn from.")
    return _textual(content, head, suffix)


def _textual(content: bytes, head: bytes, suffix: str) -> Format:
    if HTML.match(head):
        return "html"
    if XML.match(head):
        raise DocumentUnsupported("The document is XML of a kind that is not read.")
    if suffix in CONTAINER_SUFFIXES:
        raise DocumentParseFailed(
            f"The document is named {suffix} but does not begin as one; save it again."
        )
    if MAIL.match(content[: 8 * HEAD_BYTES]) and any(
        field in content[: 8 * HEAD_BYTES].lower() for field in MAIL_FIELDS
    ):
        raise DocumentUnsupported(
            "The document is an e-mail; those are not read: most of one is others' words."
        )
    return "markdown" if suffix in MARKDOWN_SUFFIXES else "text"


def _zipped(content: bytes, limits: ExtractionLimits) -> Format:
    with opened_archive(content, limits) as archive:
        names = frozenset(archive.namelist())
        if "word/document.xml" in names:
            return "docx"
        media_type = _media_type(archive)
        if media_type.startswith("application/vnd.oasis.opendocument.text"):
            return "odt"
        if b"wordprocessingml" in (part_or_none(archive, "[Content_Types].xml") or b""):
            return "docx"
    if media_type == "application/epub+zip":
        raise DocumentUnsupported("The document is an e-book (.epub), which is not read.")
    raise DocumentUnsupported("The document is a zip, but neither .docx nor .odt.")


def _media_type(archive: zipfile.ZipFile) -> str:
    return (part_or_none(archive, "mimetype") or b"")[:100].decode("ascii", "replace").strip()


def _ole(content: bytes) -> DocumentEncrypted | DocumentUnsupported:
    if ENCRYPTED_PACKAGE in content:
        return DocumentEncrypted("The document needs a password; save it without one.")
    return DocumentUnsupported(
        "The document is of a kind from before 2007 (.doc); save it as .docx, .odt, .rtf or .txt."
    )
