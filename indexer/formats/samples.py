"""The smallest documents of each format: reading them makes the libraries import all that they import late."""

from __future__ import annotations

import io
import zipfile

DOCX_PARTS = {
    "_rels/.rels": '<R><r Type="/officeDocument" Target="word/document.xml"/></R>',
    "word/_rels/document.xml.rels": '<R><r Type="/styles" Target="styles.xml"/></R>',
    "word/styles.xml": '<s><style type="paragraph" styleId="a"><name val="quote"/></style></s>',
    "word/document.xml": "<d><p><pPr><pStyle val='a'/></pPr><r><t>A sentence.</t></r></p></d>",
}
ODT_PARTS = {
    "mimetype": "application/vnd.oasis.opendocument.text",
    "styles.xml": "<s><style name='a' parent-style-name='b'/></s>",
    "content.xml": "<c><p style-name='a'>A <span>sentence</span>.</p></c>",
}
PDF = b"""%PDF-1.4
1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj
2 0 obj<</Type/Pages/Kids[3 0 R]/Count 1>>endobj
3 0 obj<</Type/Page/Parent 2 0 R/MediaBox[0 0 300 300]/Resources<</Font<</F 4 0 R>>>>/Contents 5 0 R>>endobj
4 0 obj<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>endobj
5 0 obj<</Length 78>>stream
BT /F 12 Tf 20 200 Td (A sentence that is long enough.) Tj 0 -14 Td (And one.) Tj ET
endstream endobj
trailer<</Root 1 0 R>>
%%EOF
"""


def sample_documents() -> tuple[bytes, ...]:
    """One for each reader, and broken ones for their errors."""
    return (
        _zipped(DOCX_PARTS),
        _zipped(ODT_PARTS),
        PDF,
        b"{\\rtf1\\ansi {\\fonttbl{\\f0\\fcharset204 A;}}A \\u1103?\\'ff sentence.\\par}",
        b"<html><body><p>A <b>sentence</b>.</p></body></html>",
        b"A plain sentence. And another.",
        "Простое предложение. И другое.".encode("koi8_r"),
        b"%PDF-1.4 broken",
        b"PK\x05\x06" + bytes(18),
        _zipped({**DOCX_PARTS, "word/document.xml": "<d>"}),
    )


def _zipped(parts: dict[str, str]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    return packed.getvalue()
