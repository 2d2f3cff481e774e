"""Text files of every encoding a Russian or English writer has lying about."""

from __future__ import annotations

import codecs

import pytest

from indexer.errors import DocumentUnsupported
from indexer.formats.encoding import decode, is_cyrillic_cp1251

RUSSIAN = (
    "Я не знаю.",
    "Что это — прихоти, роскошь?",
    "«Наете ли вы, — сказал он, — что мы никогда не должны были встречаться?»",
    "ВНИМАНИЕ! Ёлка стоит у подъезда № 5.",
)
ENGLISH = (
    "It’s a café, she said — naïve as ever.",
    "“Stop!” he cried… and the façade fell.",
    "Über den Wolken, as the Germans say, and déjà vu.",
)


@pytest.mark.parametrize("encoding", ["utf-8", "cp1251", "koi8_r", "cp866", "utf-16", "utf-8-sig"])
@pytest.mark.parametrize("text", RUSSIAN)
def test_russian_is_read_whatever_it_is_written_in(text: str, encoding: str) -> None:
    held = text.encode(encoding, "ignore").decode(encoding)

    assert decode(held.encode(encoding))[0] == held


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("text", [*RUSSIAN, *ENGLISH])
def test_utf_16_needs_no_mark(text: str, encoding: str) -> None:
    assert decode(text.encode(encoding)) == (text, encoding)


def test_old_macintosh_russian_is_known_by_a_page_of_it() -> None:
    page = " ".join(RUSSIAN[:3]) * 3

    assert decode(page.encode("mac_cyrillic")) == (page, "mac_cyrillic")


@pytest.mark.parametrize("text", ENGLISH)
def test_western_text_is_not_taken_for_russian(text: str) -> None:
    assert decode(text.encode("cp1252")) == (text, "cp1252")
    assert not is_cyrillic_cp1251(text.encode("cp1252"))


def test_russian_after_a_long_english_beginning_is_found() -> None:
    text = "She said: “It’s nothing.” " * 5_000 + "Я не знаю, что это. " * 5_000

    assert decode(text.encode("cp1251")) == (text, "cp1251")


def test_utf_8_that_was_cut_or_slightly_damaged_stays_utf_8() -> None:
    content = (RUSSIAN[2] * 10).encode()

    assert decode(content[:-3])[1] == "utf-8"
    assert decode(content[:200] + b"\xff" + content[200:])[1] == "utf-8"


def test_marks_are_not_part_of_the_text() -> None:
    for mark, encoding in ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF32_BE, "utf-32-be")):
        assert decode(mark + "ё".encode(encoding)) == ("ё", encoding)


def test_bytes_that_are_no_text_are_refused() -> None:
    with pytest.raises(DocumentUnsupported):
        decode(bytes(range(32)) * 20)
