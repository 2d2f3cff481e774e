"""Paragraphs: what becomes one, how long they are, and that an edit stays where it was made."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from indexer.errors import DocumentEmpty
from indexer.extract import read_text
from indexer.language import language_of
from indexer.paragraphs import MAX_WORDS, MIN_CHARS, MIN_WORDS, normalise, segment
from indexer.sentences import sentence_spans
from indexer.types import Block, BlockKind

LONG = "This sentence has exactly eight words in it. "
RUSSIAN = "Она долго стояла у окна и смотрела на снег. "
LINES = (
    "— Ты придёшь завтра? — спросила она тихо.",
    "— Не знаю.",
    "“Stop!” he cried.",
    "Он ушёл.",
    RUSSIAN * 3,
    LONG * 5,
    LONG * 40,
    RUSSIAN * 60,
    "Снег шёл всю ночь, и к утру дорогу замело совсем, так что никто не приехал.",
)


def texts(*blocks: Block) -> list[str]:
    return [paragraph.text for paragraph in segment(blocks)]


def document(rng: random.Random, n_lines: int) -> list[str]:
    """Lines that differ from each other, in every shape that the rules know."""
    return [
        f"{line[:-1].rstrip()} {''.join(rng.choices('абвгдежз', k=7))}."
        if rng.random() < 0.9
        else line
        for line in rng.choices(LINES, k=n_lines)
    ]


@pytest.mark.parametrize("kind", ["heading", "quote", "code"])
def test_others_words_and_headings_are_no_paragraphs(kind: BlockKind) -> None:
    own, other = LONG.strip(), "Somebody else wrote all of these many words here."

    assert texts(Block(own), Block(other, kind), Block(own + " Again.")) == [own, own + " Again."]


def test_machine_written_blocks_are_no_paragraphs() -> None:
    assert texts(Block(LONG), Block(RUSSIAN, is_ai=True)) == [LONG.strip()]


def test_cells_and_notes_stand_alone_or_not_at_all() -> None:
    blocks = (Block("Name", "table_cell"), Block(LONG, "table_cell"), Block("Там же.", "note"))

    assert texts(*blocks) == [LONG.strip()]


def test_a_bibliography_is_left_out_up_to_the_next_heading() -> None:
    blocks = (
        Block("Список литературы", "heading"),
        Block("Иванов И. И. Как писать статьи, которые никто не читает. М., 2001."),
        Block("Послесловие", "heading"),
        Block(RUSSIAN),
    )

    assert texts(*blocks) == [RUSSIAN.strip()]


def test_short_paragraphs_join_what_precedes_them_and_dialogue_stays_together() -> None:
    talk = ["— Ты придёшь завтра вечером, как обещал мне тогда?", "— Не знаю.", "— А кто знает?"]

    assert texts(Block(LONG), Block("So it was."), Block(LONG)) == [
        f"{LONG}\nSo it was.".replace(" \n", "\n"),
        LONG.strip(),
    ]
    assert texts(Block(LONG), *map(Block, talk), Block(RUSSIAN)) == [
        LONG.strip(),
        "\n".join(talk),
        RUSSIAN.strip(),
    ]
    assert texts(Block("Short."), Block(LONG)) == [f"Short.\n{LONG.strip()}"]


def test_what_is_alone_is_kept_when_it_says_anything() -> None:
    assert texts(Block("Three words here.")) == ["Three words here."]
    assert texts(Block("17"), Block("* * *"), Block("12.05.2021 / 33 %")) == []


def test_long_paragraphs_are_divided_at_the_ends_of_sentences() -> None:
    for sentence in (LONG, RUSSIAN):
        numbered = " ".join(f"{sentence[:-2]} {n}." for n in range(120))
        found = segment([Block(numbered)])

        assert " ".join(paragraph.text for paragraph in found) == numbered
        assert all(paragraph.text.endswith(".") for paragraph in found)
        assert all(30 <= paragraph.n_words <= MAX_WORDS for paragraph in found)


def test_a_sentence_beyond_all_measure_is_cut_between_words() -> None:
    found = segment([Block("слово " * 3_000)])

    assert " ".join(paragraph.text for paragraph in found) == ("слово " * 3_000).strip()
    assert max(len(paragraph.text) for paragraph in found) <= 4_000


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("е\u0308лка и\u0306", "ёлка й"),
        ("«Ёж» — “да”…", "«Ёж» — “да”…"),
        ("so\u00adft ze\u200bro \u202ebidi\u202c \ufeffmark", "soft zero bidi mark"),
        ("a\u00a0b\t c  d", "a b c d"),
        ("one \r\n\r\n two\u2028three", "one\ntwo\nthree"),
        ("bell\x07 \uf0b7 bullet \ufffc\x1b[0m", "bell bullet [0m"),
    ],
)
def test_normalising(raw: str, clean: str) -> None:
    assert normalise(raw) == clean


@given(st.text())
def test_normalising_twice_is_normalising_once(text: str) -> None:
    once = normalise(text)

    assert normalise(once) == once


@given(st.integers(0, 10**9), st.integers(2, 60))
@settings(max_examples=25, deadline=None)
def test_paragraphs_are_neither_short_nor_long_and_lose_nothing(seed: int, n_lines: int) -> None:
    lines = document(random.Random(seed), n_lines)
    found = segment(map(Block, lines))

    assert "".join("".join(p.text for p in found).split()) == "".join("".join(lines).split())
    if len(found) > 1:
        assert all(p.n_words >= MIN_WORDS and len(p.text) >= MIN_CHARS for p in found)
    assert all(p.n_words <= MAX_WORDS for p in found)
    assert [segment([Block(p.text)]) for p in found] == [[p] for p in found]


@given(st.integers(0, 10**9))
@settings(max_examples=8, deadline=None)
def test_an_edit_changes_the_paragraphs_around_it_and_no_others(seed: int) -> None:
    rng = random.Random(seed)
    lines = document(rng, 200)
    at = rng.randrange(len(lines))
    edited = list(lines)
    match rng.randrange(4):
        case 0:
            edited[at] += " Ещё одно слово и ещё другое."
        case 1:
            del edited[at]
        case 2:
            edited.insert(at, RUSSIAN.strip() + f" {seed}.")
        case 3:
            edited[at : at + 1] = [
                edited[at][: len(edited[at]) // 2],
                edited[at][len(edited[at]) // 2 :],
            ]
    before = Counter(p.text for p in segment(read_text("\n".join(lines)).blocks))
    after = Counter(p.text for p in segment(read_text("\n".join(edited)).blocks))

    assert (after - before).total() <= 6
    assert (before - after).total() <= 6
    assert before.total() > 75


def test_machine_written_ranges_take_their_sentences_with_them() -> None:
    text = "😀 My own sentence stands here. The machine went on like this. And I ended it myself, as ever."
    start = text.index("machine")
    utf16_start = len(text[:start].encode("utf-16-le")) // 2

    found = read_text(text, ai_ranges=[(utf16_start, 7)])

    assert [(block.text, block.is_ai) for block in found.blocks] == [
        ("😀 My own sentence stands here.", False),
        ("The machine went on like this.", True),
        ("And I ended it myself, as ever.", False),
    ]


@given(st.lists(st.tuples(st.integers(-5, 200), st.integers(-5, 200)), max_size=4), st.booleans())
@settings(deadline=None)
def test_any_ranges_may_be_sent(ranges: list[tuple[int, int]], markdown: bool) -> None:
    text = "Первое предложение. Second one.\n\n> A quote 😀.\n\n- an item\nthat goes on"
    everything = read_text(text, ai_ranges=[(0, 10_000)], markdown=markdown)

    assert read_text(text, ai_ranges=ranges, markdown=markdown).blocks
    assert all(block.is_ai for block in everything.blocks)


def test_empty_text_says_so() -> None:
    with pytest.raises(DocumentEmpty):
        read_text(" \n\n ")


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("It was late, and the river was dark.", "en"),
        ("Hello world", "en"),
        ("Было поздно, и река темнела.", "ru"),
        ("Въ началѣ бѣ слово, и слово бѣ у Бога.", "ru"),
        ("Він прийшов додому пізно ввечері і ліг спати.", "other"),
        ("Това е български текст, в който има ъгъл, пъпеш и гъба.", "other"),
        ("Es war spät und der Fluss war dunkel, aber sie ging nicht nach Hause.", "other"),
        (
            "Il était tard et la rivière était sombre, mais elle ne rentrait pas dans sa maison.",
            "other",
        ),
        ("Слово «hello» здесь одно среди русских слов", "ru"),
        ("今日は天気がいい", "other"),
        ("123 — 456", "other"),
    ],
)
def test_language(text: str, language: str) -> None:
    assert language_of(text) == language


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("Mr. Smith met Dr. A. B. Jones, e.g. in London. He left.", 2),
        ("“Stop!” he cried. “Why?” She left at 5 p.m. Then it rained.", 4),
        ("It cost $3.50, i.e. nothing. See p. 5 etc. The end…", 3),
        ("А. С. Пушкин родился в 1799 г. в Москве. Т. е. давно.", 2),
        ("Он пришёл… И ушёл! Зачем?", 3),
    ],
)
def test_sentences(text: str, sentences: int) -> None:
    spans = sentence_spans(text, language_of(text))

    assert len(spans) == sentences
    assert " ".join(text[start:end] for start, end in spans) == text
