"""Documents of every format made from paragraphs, for the extraction benchmark and the tests of the readers."""

from __future__ import annotations

import io
import textwrap
import zipfile
from collections.abc import Mapping, Sequence
from xml.sax.saxutils import escape

W = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
TYPES = (
    "http://schemas.openxmlformats.org/officeDocument/2006/relationships",
    "http://schemas.openxmlformats.org/package/2006/relationships",
)
CONTENT_TYPE = "application/vnd.openxmlformats-officedocument.wordprocessingml"
LINE_COLUMNS, LINES_A_PAGE, LEADING, FONT_SIZE = 80, 50, 14, 11


def zipped(parts: Mapping[str, str | bytes]) -> bytes:
    """A zip of these entries, deflated."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    return packed.getvalue()


def docx(body: str, *, styles: str = "", footnotes: str = "", before_root: str = "") -> bytes:
    """A Word document; `body`, `styles` and `footnotes` are WordprocessingML, prefix w."""

    def part(tag: str, inner: str) -> str:
        return f'<?xml version="1.0"?>{before_root}<w:{tag} xmlns:w="{W}">{inner}</w:{tag}>'

    overrides = "".join(
        f'<Override PartName="/word/{name}.xml" ContentType="{CONTENT_TYPE}.{kind}+xml"/>'
        for name, kind in (
            ("document", "document.main"),
            ("styles", "styles"),
            ("footnotes", "footnotes"),
        )
    )
    relations = "".join(
        f'<Relationship Id="r{n}" Type="{TYPES[0]}/{name}" Target="{name}.xml"/>'
        for n, name in enumerate(("styles", "footnotes"))
    )
    return zipped(
        {
            "[Content_Types].xml": '<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types">'
            '<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
            f'<Default Extension="xml" ContentType="application/xml"/>{overrides}</Types>',
            "_rels/.rels": f'<Relationships xmlns="{TYPES[1]}"><Relationship Id="r" Type="{TYPES[0]}/officeDocument" '
            'Target="word/document.xml"/></Relationships>',
            "word/_rels/document.xml.rels": f'<Relationships xmlns="{TYPES[1]}">{relations}</Relationships>',
            "word/styles.xml": part("styles", styles),
            "word/footnotes.xml": part("footnotes", footnotes),
            "word/document.xml": part("document", f"<w:body>{body}</w:body>"),
        }
    )


def word_paragraph(text: str, *, style: str = "") -> str:
    """A paragraph of one run."""
    properties = f'<w:pPr><w:pStyle w:val="{style}"/></w:pPr>' if style else ""
    return f'<w:p>{properties}<w:r><w:t xml:space="preserve">{escape(text)}</w:t></w:r></w:p>'


def rtf(paragraphs: Sequence[str], *, unicode: bool) -> bytes:
    """As Word writes it: `\\uN?`, or bytes of code page 1251 under a font that says so."""
    if unicode:
        texts = ["".join(c if c < "\x80" else f"\\u{ord(c)}?" for c in text) for text in paragraphs]
    else:
        texts = [
            "".join(chr(b) if b < 128 else f"\\'{b:02x}" for b in text.encode("cp1251", "replace"))
            for text in paragraphs
        ]
    head = "{\\rtf1\\ansi\\ansicpg1251\\uc1{\\fonttbl{\\f0\\fcharset204 Times New Roman;}}\\f0\n"
    return (head + "".join(f"\\pard {text}\\par\n" for text in texts) + "}").encode("ascii")


def pdf(pages: Sequence[Sequence[tuple[float, float, float, str]]]) -> bytes:
    """Pages of (x, y, size, text); a font that is not embedded, with a map to Unicode, so that any script can be read."""
    objects = [
        "<</Type/Catalog/Pages 2 0 R>>",
        f"<</Type/Pages/Count {len(pages)}/Kids[{' '.join(f'{6 + 2 * n} 0 R' for n in range(len(pages)))}]>>",
        "<</Type/Font/Subtype/Type0/BaseFont/Helvetica/Encoding/Identity-H/DescendantFonts[4 0 R]/ToUnicode 5 0 R>>",
        "<</Type/Font/Subtype/CIDFontType2/BaseFont/Helvetica/DW 500/CIDSystemInfo<</Registry(Adobe)/Ordering(Identity)"
        "/Supplement 0>>/FontDescriptor<</Type/FontDescriptor/FontName/Helvetica/Flags 4/FontBBox[0 -200 1000 800]"
        "/ItalicAngle 0/Ascent 800/Descent -200/CapHeight 700/StemV 80>>>>",
        _stream(
            "/CIDInit /ProcSet findresource begin 12 dict begin begincmap /CMapType 2 def 1 begincodespacerange <0000> "
            "<FFFF> endcodespacerange 1 beginbfrange <0000> <FFFF> <0000> endbfrange endcmap end end"
        ),
    ]
    for n, lines in enumerate(pages):
        drawn = "\n".join(
            f"BT /F {size} Tf {x} {y} Td <{text.encode('utf-16-be').hex()}> Tj ET"
            for x, y, size, text in lines
        )
        objects.append(
            f"<</Type/Page/Parent 2 0 R/MediaBox[0 0 595 842]/Resources<</Font<</F 3 0 R>>>>/Contents {7 + 2 * n} 0 R>>"
        )
        objects.append(_stream(drawn))
    return pdf_file(objects)


def pdf_file(objects: Sequence[str]) -> bytes:
    """A file of these objects, numbered from 1, the first being the catalogue."""
    content = b"%PDF-1.7\n"
    places = []
    for number, found in enumerate(objects, 1):
        places.append(len(content))
        content += f"{number} 0 obj\n{found}\nendobj\n".encode("latin-1")
    table = "".join(f"{place:010d} 00000 n \n" for place in places)
    return content + (
        f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n{table}"
        f"trailer<</Size {len(objects) + 1}/Root 1 0 R>>\nstartxref\n{len(content)}\n%%EOF\n"
    ).encode("latin-1")


def _stream(content: str) -> str:
    return f"<</Length {len(content)}>>stream\n{content}\nendstream"


def pdf_pages(
    paragraphs: Sequence[str], *, head: str = ""
) -> list[list[tuple[float, float, float, str]]]:
    """Paragraphs set as a book sets them: first lines indented, a running head and a number on each page."""
    lines: list[tuple[float, str]] = []
    for text in paragraphs:
        wrapped = textwrap.wrap(text, LINE_COLUMNS, initial_indent="   ")
        lines += [(75.0 if n == 0 else 60.0, line.strip()) for n, line in enumerate(wrapped)]
    pages: list[list[tuple[float, float, float, str]]] = []
    for start in range(0, len(lines), LINES_A_PAGE):
        shown = [
            (x, 770.0 - LEADING * n, float(FONT_SIZE), text)
            for n, (x, text) in enumerate(lines[start : start + LINES_A_PAGE])
        ]
        if head:
            number = len(pages) + 1
            shown = [
                (60.0, 810.0, 9.0, f"{head} {number}"),
                *shown,
                (290.0, 30.0, 9.0, str(number)),
            ]
        pages.append(shown)
    return pages
