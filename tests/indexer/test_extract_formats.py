"""What each reader keeps, marks and leaves out."""

from __future__ import annotations

import random
import textwrap
from pathlib import Path

import pytest

from benchmarks.extraction_documents import docx, pdf, pdf_file, pdf_pages, word_paragraph, zipped
from indexer.errors import (
    DocumentEmpty,
    DocumentEncrypted,
    DocumentParseFailed,
    DocumentScanned,
    DocumentUnsupported,
)
from indexer.formats.readers import read_document
from indexer.limits import ExtractionLimits
from indexer.types import Block, ExtractedText

DOCUMENTS = Path(__file__).parent / "documents"
WORDS = [
    "вечером",
    "она",
    "долго",
    "смотрела",
    "на",
    "тёмную",
    "воду",
    "и",
    "молчала",
    "потому",
    "что",
    "слова",
    "были",
    "лишними",
    "the",
    "old",
    "house",
    "by",
    "the",
    "river",
    "stood",
    "empty",
    "and",
    "nobody",
    "in",
    "town",
    "remembered",
    "who",
    "had",
    "built",
    "it",
]


def read(content: bytes, suffix: str = "") -> ExtractedText:
    return read_document(content, suffix, ExtractionLimits())


def shown(content: bytes, suffix: str = "") -> list[tuple[str, str]]:
    return [(block.kind, block.text) for block in read(content, suffix).blocks]


def prose(n_paragraphs: int, seed: int, n_words: tuple[int, int] = (30, 90)) -> list[str]:
    """Paragraphs of two languages whose sentences end and begin as sentences do."""
    rng = random.Random(seed)
    return [
        " ".join(
            " ".join(rng.choices(words, k=rng.randrange(6, 14))).capitalize() + "."
            for _ in range(rng.randrange(*n_words) // 10)
        )
        for words in (rng.choice((WORDS[:14], WORDS[14:])) for _ in range(n_paragraphs))
    ]


def test_word_keeps_insertions_and_drops_what_was_deleted_moved_away_or_hidden() -> None:
    body = (
        "<w:p><w:r><w:t>Kept, </w:t></w:r><w:ins><w:r><w:t>inserted</w:t></w:r></w:ins>"
        "<w:del><w:r><w:delText>DELETED</w:delText></w:r></w:del><w:r><w:tab/><w:t>tabbed</w:t><w:br/></w:r>"
        "<w:moveFrom><w:r><w:t>MOVED</w:t></w:r></w:moveFrom><w:moveTo><w:r><w:t>moved here</w:t></w:r></w:moveTo>"
        "<w:r><w:rPr><w:vanish/></w:rPr><w:t>HIDDEN</w:t></w:r><w:r><w:instrText>PAGE</w:instrText></w:r></w:p>"
        "<w:p><w:pPr><w:tabs><w:tab w:val='left'/></w:tabs><w:rPr><w:del/></w:rPr></w:pPr>"
        "<w:r><w:t>One paragraph, </w:t></w:r></w:p><w:p><w:r><w:t>its mark deleted.</w:t></w:r></w:p>"
    )

    assert shown(docx(body)) == [
        ("paragraph", "Kept, inserted\ttabbed\nmoved here"),
        ("paragraph", "One paragraph, its mark deleted."),
    ]


def test_word_marks_headings_quotes_lists_cells_and_notes() -> None:
    styles = (
        "<w:style w:type='paragraph' w:styleId='a1'><w:name w:val='heading 1'/></w:style>"
        "<w:style w:type='paragraph' w:styleId='Q'><w:name w:val='Выделенная цитата'/></w:style>"
        "<w:style w:type='paragraph' w:styleId='mine'><w:name w:val='Mine'/><w:basedOn w:val='Q'/></w:style>"
    )
    body = (
        word_paragraph("Глава", style="a1")
        + word_paragraph("Чужое", style="mine")
        + "<w:p><w:pPr><w:numPr/></w:pPr><w:r><w:t>Пункт</w:t></w:r></w:p>"
        + f"<w:tbl><w:tr><w:tc>{word_paragraph('Ячейка')}</w:tc></w:tr></w:tbl>"
        + "<w:p><w:r><w:t>Текст</w:t><w:footnoteReference w:id='2'/></w:r></w:p>"
    )
    notes = (
        f"<w:footnote w:type='separator'>{word_paragraph('SEPARATOR')}</w:footnote>"
        f"<w:footnote w:id='2'>{word_paragraph('Сноска')}</w:footnote>"
    )

    assert shown(docx(body, styles=styles, footnotes=notes)) == [
        ("heading", "Глава"),
        ("quote", "Чужое"),
        ("list_item", "Пункт"),
        ("table_cell", "Ячейка"),
        ("paragraph", "Текст"),
        ("note", "Сноска"),
    ]


def test_word_text_boxes_are_read_once() -> None:
    box = f"<w:txbxContent>{word_paragraph('In the box')}</w:txbxContent>"
    body = (
        "<w:p><w:r><w:t>Around</w:t><mc:AlternateContent xmlns:mc='urn:mc'><mc:Choice>"
        f"{box}</mc:Choice><mc:Fallback>{box}</mc:Fallback></mc:AlternateContent></w:r></w:p>"
    )

    assert shown(docx(body)) == [("paragraph", "In the box"), ("paragraph", "Around")]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        # The font table says Western, the bytes are Russian.
        (
            r"{\rtf1\ansi\ansicpg1252{\fonttbl{\f0\fcharset0 Arial;}}\f0 \'cf\'f0\'e8\'e2\'e5\'f2, \'ec\'e8\'f0\par}",
            [("paragraph", "Привет, мир")],
        ),
        (r"{\rtf1\ansi\ansicpg1252 caf\'e9 na\'efve}", [("paragraph", "café naïve")]),
        (
            r"{\rtf1\ansi{\fonttbl{\f0\fcharset204 A;}{\f1\fcharset0 B;}}\f0 \'e4\'e0{\f1  d\'e9j\'e0}}",
            [("paragraph", "да déjà")],
        ),
        (r"{\rtf1\uc1 \u1103?\u8212\'97 \uc0 \u1105  end}", [("paragraph", "я— ё end")]),
        (r"{\rtf1\uc1 \u-10179?\u-8704?}", [("paragraph", "\U0001f600")]),
        (
            r"{\rtf1 a{\pict\wmetafile8 0102ff}b{\object{\*\objdata 01}{\result R}}c}",
            [("paragraph", "abc")],
        ),
        ("{\\rtf1 a{\\pict\\bin4 }{\\x}b}", [("paragraph", "ab")]),
        (r"{\rtf1 a{\*\unknown x{y}}b{\v hidden}{\deleted gone}c}", [("paragraph", "abc")]),
        (
            r"{\rtf1 Text{\footnote Note.} goes on.\par}",
            [("paragraph", "Text goes on."), ("note", "Note.")],
        ),
        (
            r"{\rtf1\trowd\intbl One\cell Two\cell\row\pard After\par}",
            [("table_cell", "One"), ("table_cell", "Two"), ("paragraph", "After")],
        ),
        (
            r"{\rtf1{\stylesheet{\s1 heading 1;}{\s2 Quote;}}\s1 H\par\pard\s2 Q\par\pard P\par}",
            [("heading", "H"), ("quote", "Q"), ("paragraph", "P")],
        ),
        (
            r"{\rtf1{\header Head}{\field{\*\fldinst HYPERLINK x}{\fldrslt link}}}",
            [("paragraph", "link")],
        ),
        (
            r"{\rtf1 {\listtext 1.\tab}\ls1 item\par cut off",
            [("list_item", "item"), ("list_item", "cut off")],
        ),
        (
            r"{\rtf1 {\upr{ansi?}{\*\ud \u1103 ?}} \lquote q\rquote\~\_\-\emdash}",
            [("paragraph", "я ‘q’\u00a0‑—")],
        ),
    ],
)
def test_rtf(source: str, expected: list[tuple[str, str]]) -> None:
    assert [(kind, text.strip()) for kind, text in shown(source.encode("latin-1"))] == expected


def test_opendocument_keeps_the_order_of_spans_and_drops_tracked_deletions() -> None:
    content = (
        "<o xmlns:t='urn:t'><t:tracked-changes><t:p>DELETED</t:p></t:tracked-changes>"
        "<t:h>Head</t:h><t:p t:style-name='P1'>Quote</t:p>"
        "<t:p>One <t:span>two <t:span>three</t:span> four</t:span> five<t:s t:c='2'/>six<t:note><t:note-body>"
        "<t:p>A note</t:p></t:note-body></t:note> seven</t:p>"
        "<t:list><t:list-item><t:p>Item</t:p></t:list-item></t:list></o>"
    )
    styles = "<s xmlns:t='urn:t'><t:style t:name='P1' t:parent-style-name='Quotations'/></s>"
    parts = {
        "mimetype": "application/vnd.oasis.opendocument.text",
        "content.xml": content,
        "styles.xml": styles,
    }

    assert shown(zipped(parts)) == [
        ("heading", "Head"),
        ("quote", "Quote"),
        ("paragraph", "One two three four five  six seven"),
        ("list_item", "Item"),
        ("note", "A note"),
    ]


def test_html_is_what_a_reader_sees() -> None:
    page = (
        "<html><head><meta charset='koi8-r'><title>T</title></head><body><nav>Menu</nav><h1>Глава</h1>"
        "<p>Ещё\n <b>один</b> абзац<br>и строка</p><script>x()</script><blockquote><p>Чужое</p></blockquote>"
        "<ul><li>Пункт</ul><pre>code</pre></body></html>"
    )

    assert shown(page.encode("koi8_r")) == [
        ("heading", "Глава"),
        ("paragraph", "Ещё один абзац\nи строка"),
        ("quote", "Чужое"),
        ("list_item", "Пункт"),
        ("code", "code"),
    ]


def test_markdown_is_its_prose() -> None:
    source = (DOCUMENTS / "sample.md").read_bytes()

    assert shown(source, ".md") == [
        ("heading", "Заголовок"),
        (
            "paragraph",
            "Bold text, a link and code, on two lines, snake_case and 2 * 3.\nA hard break.",
        ),
        ("quote", "Someone else's words go on here."),
        ("list_item", "one which goes on"),
        ("list_item", "two"),
        ("code", "```\nfenced code\n```"),
        *(("table_cell", cell) for cell in "abcd"),
        ("heading", "Underlined"),
        ("paragraph", "Text with a note."),
        ("note", "The note."),
    ]


@pytest.mark.parametrize("width", [60, 72, 100])
@pytest.mark.parametrize("indent", ["", "   "])
def test_hard_wrapped_text_comes_back_as_its_paragraphs(width: int, indent: str) -> None:
    paragraphs = prose(40, seed=width)
    between = "\n" if indent else "\n\n"
    wrapped = between.join(textwrap.fill(text, width, initial_indent=indent) for text in paragraphs)

    assert [block.text for block in read(wrapped.encode()).blocks] == paragraphs


def test_lines_that_are_paragraphs_stay_apart() -> None:
    poem = "Мороз и солнце; день чудесный!\nЕщё ты дремлешь, друг прелестный —\nПора, красавица, проснись:\n"
    dialogue = "— Ты придёшь? — спросила она.\n— Не знаю.\nОн ушёл, не оборачиваясь, и больше его не видели.\n"

    assert [block.text for block in read((poem + dialogue).encode()).blocks] == (
        poem + dialogue
    ).splitlines()


def test_a_book_set_in_pdf_comes_back_as_its_paragraphs() -> None:
    paragraphs = prose(60, seed=1)

    found = read(pdf(pdf_pages(paragraphs, head="A running head")))

    assert [block.text for block in found.blocks] == paragraphs
    assert found.n_pages == 5


def test_hyphenation_in_pdf_is_undone_but_hyphens_stay() -> None:
    lines = [
        "The author is self-",
        "taught, they say; an unfor-",
        "tunate case, кто-",
        "то сказал, непремен-",
        "но так",
    ]
    page = [(60.0, 700.0 - 14 * n, 11.0, line) for n, line in enumerate(lines)]

    assert [block.text for block in read(pdf([page])).blocks] == [
        "The author is self-taught, they say; an unfortunate case, кто-то сказал, непременно так"
    ]


def test_small_print_in_pdf_is_a_note() -> None:
    page = [
        (60.0, 700.0, 11.0, "The body of the page, which is longer."),
        (60.0, 60.0, 7.0, "1 A foot-note."),
    ]

    assert shown(pdf([page])) == [
        ("paragraph", "The body of the page, which is longer."),
        ("note", "1 A foot-note."),
    ]


def test_pages_of_pictures_are_a_scan_and_pages_of_nothing_are_empty() -> None:
    image = "<</Type/XObject/Subtype/Image/Width 1/Height 1/BitsPerComponent 8/ColorSpace/DeviceGray/Length 1>>stream\n0\nendstream"
    drawing = "<</Length 30>>stream\nq 99 0 0 99 0 0 cm /I Do Q     \nendstream"
    page = "<</Type/Page/Parent 2 0 R/MediaBox[0 0 99 99]/Resources<</XObject<</I 4 0 R>>>>/Contents 5 0 R>>"
    head = ["<</Type/Catalog/Pages 2 0 R>>", "<</Type/Pages/Count 1/Kids[3 0 R]>>"]

    with pytest.raises(DocumentScanned, match="OCR"):
        read(pdf_file([*head, page, image, drawing]))
    with pytest.raises(DocumentEmpty):
        read(pdf_file([*head, "<</Type/Page/Parent 2 0 R/MediaBox[0 0 99 99]>>"]))


def test_a_text_layer_of_random_signs_is_a_scan() -> None:
    rng = random.Random(4)
    signs = "".join(rng.choices("ab_\\[]^`{}xyzQ", k=900))
    page = [(60.0, 700.0 - 14 * n, 11.0, signs[n * 60 : n * 60 + 60 : 1]) for n in range(15)]
    spaced = [(x, y, size, " ".join(textwrap.wrap(text, 7))) for x, y, size, text in page]

    with pytest.raises(DocumentScanned, match="unreadable"):
        read(pdf([spaced]))


def test_passwords() -> None:
    flagged = bytearray(zipped({"word/document.xml": "x"}))
    flagged[6] |= 1
    flagged[flagged.rindex(b"PK\x01\x02") + 8] |= 1
    ole = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(504) + "EncryptedPackage".encode("utf-16-le")
    odt = zipped(
        {
            "mimetype": "application/vnd.oasis.opendocument.text",
            "META-INF/manifest.xml": "<m><encryption-data/></m>",
        }
    )

    for content in (bytes(flagged), ole, odt, (DOCUMENTS / "password.pdf").read_bytes()):
        with pytest.raises(DocumentEncrypted, match="password"):
            read(content)
    owner_only = read((DOCUMENTS / "owner-password.pdf").read_bytes())
    assert [block.text for block in owner_only.blocks] == [
        "Anyone may read this, few may print it."
    ]


@pytest.mark.parametrize("suffix", ["", ".txt", ".docx", ".pdf", ".exe"])
def test_content_decides_and_not_the_name(suffix: str) -> None:
    assert read(docx(word_paragraph("Word")), suffix).media_type.endswith(
        "wordprocessingml.document"
    )
    assert read(b"{\\rtf1 a}", suffix).media_type == "application/rtf"
    assert read(pdf([[(60, 700, 11, "A page.")]]), suffix).media_type == "application/pdf"


def test_what_is_not_read_says_so() -> None:
    old_word = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600)
    mail = b"From: a@b.c\r\nTo: d@e.f\r\nSubject: x\r\nMIME-Version: 1.0\r\n\r\nHello"
    book = zipped({"mimetype": "application/epub+zip"})
    picture = b"\x89PNG\r\n\x1a\n" + bytes(50)

    for content in (
        old_word,
        mail,
        book,
        picture,
        b"<?xml version='1.0'?><FictionBook/>",
        bytes(range(256)),
    ):
        with pytest.raises(DocumentUnsupported):
            read(content)
    with pytest.raises(DocumentParseFailed, match=r"named \.docx"):
        read(b"this is not a docx", ".docx")
    for content in (b"PK\x03\x04 broken", b"%PDF-1.7 broken", docx("<w:p>")):
        with pytest.raises(DocumentParseFailed):
            read(content)
    for content in (
        docx(word_paragraph(" ")),
        b"{\\rtf1 }",
        b"<html><body> </body></html>",
        b" \n",
    ):
        with pytest.raises(DocumentEmpty):
            read(content)


def test_blocks_hold_the_text_of_their_document_only() -> None:
    assert read("Одно.\n\nДругое.".encode("cp1251")).blocks == (Block("Одно."), Block("Другое."))
