"""Documents made to hurt: each ends soon, as text or as a typed error, in the real child."""

from __future__ import annotations

import contextlib
import random
import struct
import time
import zlib
from collections.abc import Iterator

import pytest

from benchmarks.extraction_documents import docx, pdf_file, word_paragraph, zipped
from indexer.errors import DocumentError, DocumentParseFailed, DocumentTooLarge, DocumentUnsupported
from indexer.extract import Extractor
from indexer.limits import ExtractionLimits
from indexer.paragraphs import segment

MOST_S = 20.0


@pytest.fixture(scope="module")
def extractor() -> Iterator[Extractor]:
    found = Extractor()
    yield found
    found.close()


@pytest.fixture(autouse=True)
def _soon() -> Iterator[None]:
    started = time.monotonic()
    yield
    assert time.monotonic() - started < MOST_S


def test_a_zip_bomb_is_not_inflated(extractor: Extractor) -> None:
    zeros = bytes(30_000_000)
    bomb = zipped({"word/document.xml": zeros})
    assert len(bomb) < 100_000

    with pytest.raises(DocumentTooLarge, match="times its size"):
        extractor.extract(bomb)


def test_a_zip_that_lies_about_its_sizes_gives_no_more_than_it_declares(
    extractor: Extractor,
) -> None:
    packed = bytearray(docx("<w:p/>" * 400_000))
    # The sizes of every entry, in its own header and in the directory, are set to ten bytes.
    for mark, at in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        place = packed.find(mark)
        while place >= 0:
            packed[place + at : place + at + 4] = struct.pack("<I", 10)
            place = packed.find(mark, place + 1)

    with pytest.raises(DocumentError):
        extractor.extract(bytes(packed))


def test_zips_within_zips_are_never_opened(extractor: Extractor) -> None:
    nested = zipped({"a.zip": zipped({"b.zip": zipped({"c": bytes(900_000)})})})

    with pytest.raises(DocumentUnsupported):
        extractor.extract(nested)


def test_a_zip_of_very_many_entries_is_refused(extractor: Extractor) -> None:
    with pytest.raises(DocumentTooLarge, match="20000 entries"):
        extractor.extract(zipped({str(n): "" for n in range(20_000)}))


def test_more_than_fifty_megabytes_are_refused_unread() -> None:
    limits = ExtractionLimits()
    with pytest.raises(DocumentTooLarge, match="50,000,001 bytes"):
        Extractor(limits).extract(b"a" * (limits.n_bytes + 1))


@pytest.mark.parametrize(
    "declaration",
    [
        "<!DOCTYPE a [<!ENTITY e 'lol'>"
        + "".join(
            f"<!ENTITY e{n} '{'&e' + (str(n - 1) if n else '') + ';'}{'&e;' * 9}'>"
            for n in range(9)
        )
        + "]>",
        "<!DOCTYPE a [<!ENTITY e8 SYSTEM 'file:///etc/passwd'>]>",
        "<!DOCTYPE a [<!ENTITY e8 SYSTEM 'http://127.0.0.1:9/x'>]>",
        "<!DOCTYPE a SYSTEM 'http://127.0.0.1:9/x.dtd'>",
        "<!DOCTYPE a [<!ENTITY % p SYSTEM 'file:///etc/passwd'> %p;]>",
    ],
)
def test_entities_are_neither_expanded_nor_fetched(extractor: Extractor, declaration: str) -> None:
    body = "<w:p><w:r><w:t>&e8;</w:t></w:r></w:p>"
    odt = zipped(
        {
            "mimetype": "application/vnd.oasis.opendocument.text",
            "content.xml": f"{declaration}<a xmlns:t='t'><t:p>&e8;</t:p></a>",
        }
    )

    for content in (docx(body, before_root=declaration), odt):
        with pytest.raises(DocumentParseFailed):
            extractor.extract(content)
    page = f"{declaration}<html><body><p>a &e8; b</p></body></html>".encode()
    with contextlib.suppress(DocumentError):
        assert "root:" not in str(extractor.extract(page, file_name="a.html").blocks)


def test_deeply_nested_xml_is_refused(extractor: Extractor) -> None:
    with pytest.raises(DocumentError):
        extractor.extract(docx("<w:p>" * 5_000 + "</w:p>" * 5_000))


def test_a_paragraph_of_ten_million_characters(extractor: Extractor) -> None:
    with pytest.raises(DocumentTooLarge, match="10,000,000 characters"):
        extractor.extract(
            docx(word_paragraph(random.randbytes(5_050_000).hex())), file_name="a.docx"
        )


def test_a_paragraph_of_a_million_characters_becomes_many(extractor: Extractor) -> None:
    noise = random.Random(1).randbytes(160_000).hex()
    text = " ".join(f"Слово {noise[at : at + 8]} за словом." for at in range(0, len(noise), 10))
    found = extractor.extract(docx(word_paragraph(text)))

    paragraphs = segment(found.blocks)

    assert len(found.blocks) == 1
    assert len(paragraphs) > 400
    assert max(len(paragraph.text) for paragraph in paragraphs) < 8_000


def test_a_pdf_of_ten_thousand_pages_is_refused(extractor: Extractor) -> None:
    n_pages = 10_000
    kids = " ".join(f"{3 + n} 0 R" for n in range(n_pages))
    page = "<</Type/Page/Parent 2 0 R/MediaBox[0 0 9 9]>>"
    tree = f"<</Type/Pages/Count {n_pages}/Kids[{kids}]>>"

    with pytest.raises(DocumentTooLarge, match="10,000 pages"):
        extractor.extract(pdf_file(["<</Type/Catalog/Pages 2 0 R>>", tree, *[page] * n_pages]))


@pytest.mark.parametrize(
    "objects",
    [
        ["<</Type/Catalog/Pages 1 0 R>>"],
        ["<</Type/Catalog/Pages 2 0 R>>", "<</Type/Pages/Count 3/Kids[2 0 R 2 0 R 2 0 R]>>"],
        ["<</Type/Catalog/Pages 2 0 R>>", "<</Type/Pages/Count 2147483647/Kids[3 0 R]>>", "3 0 R"],
        [
            "<</Type/Catalog/Pages 2 0 R>>",
            "<</Type/Pages/Count 1/Kids[3 0 R]>>",
            "<</Type/Page/Parent 2 0 R/MediaBox[0 0 9 9]/Resources<</XObject<</X 4 0 R>>>>/Contents 5 0 R>>",
            "<</Type/XObject/Subtype/Form/BBox[0 0 9 9]/Resources<</XObject<</X 4 0 R>>>>/Length 5>>stream\n/X Do\nendstream",
            "<</Length 5>>stream\n/X Do\nendstream",
        ],
        ["<</Type/Catalog/Pages " + "[" * 100_000 + ">>"],
    ],
)
def test_a_pdf_that_contains_itself(extractor: Extractor, objects: list[str]) -> None:
    with pytest.raises(DocumentError):
        extractor.extract(pdf_file(objects))


def test_a_pdf_stream_that_inflates_without_end(extractor: Extractor) -> None:
    packed = zlib.compress(b"BT (a) Tj ET " * 4_000_000, 9).decode("latin-1")
    objects = [
        "<</Type/Catalog/Pages 2 0 R>>",
        "<</Type/Pages/Count 1/Kids[3 0 R]>>",
        "<</Type/Page/Parent 2 0 R/MediaBox[0 0 9 9]/Contents 4 0 R>>",
        f"<</Filter/FlateDecode/Length {len(packed)}>>stream\n{packed}\nendstream",
    ]
    limits = ExtractionLimits(wall_s=5, cpu_s=4, memory_bytes=500_000_000)
    own = Extractor(limits)
    with pytest.raises(DocumentError):
        own.extract(pdf_file(objects))
    own.close()


@pytest.mark.parametrize(
    "content",
    [
        b"{\\rtf1 before\\bin2147483647 after",
        b"{\\rtf1 before\\bin9999999999 after",
        b"{\\rtf1 before\\bin-5 after}",
        b"{\\rtf1 before \\u99999999999 \\'zz \\uc2147483647 \\u1 after",
        b"{\\rtf1 before" + b"\\" * 200_001,
        b"{\\rtf1 before" + b"}" * 200_000,
        b"{\\rtf1{\\stylesheet" + b"{\\s1 x;}" * 50_000 + b"}before}",
        b"{\\rtf1{\\fonttbl{\\f0\\fcharset204 " + b"a" * 2_000_000 + b";}}before}",
    ],
)
def test_hostile_rtf_gives_what_is_there(extractor: Extractor, content: bytes) -> None:
    found = "".join(block.text for block in extractor.extract(content).blocks)

    assert "before" in found


def test_rtf_groups_without_end_are_refused(extractor: Extractor) -> None:
    with pytest.raises(DocumentParseFailed, match="nests more than"):
        extractor.extract(b"{\\rtf1" + b"{" * 1_000_000)


def test_markup_that_makes_slow_patterns_slow(extractor: Extractor) -> None:
    for piece in (
        b"[a](",
        b"<a ",
        b"*a",
        b"![",
        b"> ",
        b"`a",
        b"<!--",
        b"((",
        b"_a",
        b"|a",
        b"a\n",
    ):
        extractor.extract(b"Text. " + piece * (150_000 // len(piece)), file_name="a.md")
