"""The 159 real documents of the data folder: every one ends as text or as the right typed error."""

from __future__ import annotations

import re
import tarfile
import threading
from collections import Counter
from pathlib import Path

import pytest

from indexer.errors import DocumentError
from indexer.extract import Extractor
from indexer.types import ExtractedText

ARCHIVE = Path(__file__).parents[2].parent / "shared" / "data" / "documents.tar.xz"
Outcome = ExtractedText | DocumentError

ENCRYPTED = re.compile(r"user-password|both-passwords|encrypted-256|encrypted-file|writer-password")
SCANNED = re.compile(
    r"tz_scan|git\.pdf|encrypted_doc_no_id"
    # Text layers that PDFium and pypdf both read as signs at random.
    r"|bad_text|fstek17|ukodeksrf|table9"
)
UNSUPPORTED = re.compile(r"(?<!ukrf)\.doc$|\.epub|\.fb2|\.eml|broken\.odt")
EMPTY = re.compile(r"doc-default|no-coreprops|inline-shape|no-styles-part|diagram_1")


@pytest.fixture(scope="module")
def outcomes() -> dict[str, Outcome]:
    if not ARCHIVE.is_file():
        pytest.skip(f"the real documents are not there: {ARCHIVE}")
    found: dict[str, Outcome] = {}
    extractor = Extractor()
    with tarfile.open(ARCHIVE) as archive:
        for member in archive:
            name = Path(member.name)
            if not member.isfile() or name.parent.name in ("docs", "."):
                continue
            content = archive.extractfile(member)
            assert content is not None
            try:
                found[member.name] = extractor.extract(content.read(), file_name=name.name)
            except DocumentError as error:
                found[member.name] = error
    extractor.close()
    return found


def named(outcomes: dict[str, Outcome], name: str) -> Outcome:
    """The one whose path ends so."""
    (found,) = (outcome for path, outcome in outcomes.items() if path.endswith(f"/{name}"))
    return found


def text_of(outcome: Outcome) -> str:
    """All of it, white space made even."""
    assert isinstance(outcome, ExtractedText)
    return " ".join(" ".join(block.text for block in outcome.blocks).split())


def test_every_file_ends_as_text_or_as_the_right_error(outcomes: dict[str, Outcome]) -> None:
    wrong = {}
    for name, outcome in outcomes.items():
        expected = "ExtractedText"
        for pattern, error in (
            (ENCRYPTED, "DocumentEncrypted"),
            (SCANNED, "DocumentScanned"),
            (UNSUPPORTED, "DocumentUnsupported"),
            (EMPTY, "DocumentEmpty"),
            (re.compile(r"/broken\.docx"), "DocumentParseFailed"),
        ):
            if pattern.search(name):
                expected = error
        if type(outcome).__name__ != expected:
            wrong[name] = (expected, repr(outcome)[:80])

    assert not wrong
    assert Counter(type(outcome).__name__ for outcome in outcomes.values())["ExtractedText"] == 129


def test_no_text_is_empty_and_no_error_quotes_its_document(outcomes: dict[str, Outcome]) -> None:
    for name, outcome in outcomes.items():
        if isinstance(outcome, ExtractedText):
            assert any(character.isprintable() for character in text_of(outcome)), name
        else:
            assert Path(name).stem not in str(outcome)


@pytest.mark.parametrize(
    "names",
    [
        ("english_doc.docx", "english_doc.odt", "english_doc.rtf"),
        ("example.odt", "ru_dedoc/example.rtf", "example.docx"),
        ("ukrf.docx", "ukrf.odt", "ukrf.doc"),
        ("example_koi.html", "example_cp1251.html"),
        (
            "unencrypted.pdf",
            "r2-empty-password.pdf",
            "r4-owner-password.pdf",
            "r6-empty-password.pdf",
        ),
    ],
)
def test_one_document_in_several_formats_has_one_text(
    outcomes: dict[str, Outcome], names: tuple[str, ...]
) -> None:
    letters = {name: re.sub(r"\W", "", text_of(named(outcomes, name))) for name in names}

    assert len(set(letters.values())) == 1, {name: len(text) for name, text in letters.items()}


@pytest.mark.parametrize(
    ("name", "passage"),
    [
        ("cp1251.txt", "Сэр Джон Монтегю (англ. Sir John Montacute; около 1350"),
        (
            "cp1251.pdf",
            "После свержения Ричарда в 1399 году оказался в Тауэре, но вскоре получил свободу.",
        ),
        (
            "track_changes_move.docx",
            "Here is some text. Here is the text to be moved. Here is some more text.",
        ),
        ("bytes.rtf", "Верховний Суд у складі колегії суддів"),
        ("ansicpg1250.rtf", "Proszę o zapoznanie się z poniższą klauzulą informacyjną."),
        ("other_pandoc/unicode.rtf", "“hi”‘hi’"),
        (
            "2-column-state.pdf",
            "fundamental requirement to the adoption of P2P protocols for legal usage.",
        ),
        (
            "Seige_of_Vicksburg_Sample_OCR.pdf",
            "thousand men to raise the siege, but I do not believe it.",
        ),
        (
            "crazyones.pdf",
            "because the people who are crazy enough to think they can change the world",
        ),
        ("notes.docx", "Test footnote"),
        (
            "football.txt",
            "over 200 countries and dependencies, making it the world's most popular sport.",
        ),
    ],
)
def test_known_passages_are_there(outcomes: dict[str, Outcome], name: str, passage: str) -> None:
    assert passage.lower() in text_of(named(outcomes, name)).lower()


def test_quotations_are_marked(outcomes: dict[str, Outcome]) -> None:
    quotes = named(outcomes, "block_quotes.docx")

    assert isinstance(quotes, ExtractedText)
    assert [block.kind for block in quotes.blocks].count("quote") == 2


def test_reading_them_left_no_thread_behind(outcomes: dict[str, Outcome]) -> None:
    assert not [thread for thread in threading.enumerate() if isinstance(thread, threading.Timer)]
