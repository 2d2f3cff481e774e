"""An utterance that sounds like a command as a whole is known by it, and one that holds more than that is not."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audio.command_phrases import closed_phrases
from audio.commands import Command, parse
from audio.phrase_match import Phrasebook, Phrasebooks, PhraseMatch
from pushkin_runtime.speech_types import CommandLimits

LIMITS = CommandLimits()
LETTERS = tuple("abcdefghijklmnopqrstuvwxyzабвгдежзийклмнопрстуфхцчшщъыьэюя '")
PIECES = (*LETTERS, " t", "he", " d", " the", "el", "te", " del")
PHRASES = {
    "delete that": "scratch",
    "delete it": "scratch",
    "delete the last line": "line",
    "delete the last two lines": "two lines",
    "undo": "undo",
}


def spoken(text: str, *, rows: int = 2, sure: float = 9.0, seed: int = 0) -> np.ndarray:
    """What a projector would say of it, letter by letter: (n, 1 + n_pieces); each letter lasts `rows`, silence between."""
    rng = np.random.default_rng(seed)
    said = [state for letter in f" {text}" for state in (*[PIECES.index(letter) + 1] * rows, 0)]
    scores = rng.standard_normal((len(said) + 8, 1 + len(PIECES))).astype(np.float32)
    scores[np.arange(len(scores)), [*[0] * 4, *said, *[0] * 4]] += sure
    return scores


def in_letters(phrases: dict[str, str] = PHRASES) -> Phrasebook:
    return Phrasebook(LETTERS + ("‹none›",) * (len(PIECES) - len(LETTERS)), phrases)


@pytest.mark.parametrize("phrase", PHRASES)
def test_each_phrase_is_known_and_is_plain(phrase: str) -> None:
    match = in_letters().match(spoken(phrase))
    assert match is not None
    assert match.text == phrase
    assert match.per_piece < 0.5
    assert match.edge < 0.5
    assert match.is_within(LIMITS.do_within)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(PHRASES)), st.integers(0, 10**6), st.data())
def test_a_letter_misheard_here_and_there_does_not_hide_it(phrase, seed, data) -> None:
    at = data.draw(st.integers(0, len(phrase) - 1))
    misheard = phrase[:at] + "z" + phrase[at + 1 :]
    match = in_letters().match(spoken(misheard, seed=seed, sure=6.0))
    assert match is not None
    assert PHRASES[match.text] == PHRASES[phrase]


@pytest.mark.parametrize(
    "text",
    ["he told me to delete that", "delete that and go home", "never say undo", "delete that man"],
)
def test_words_beside_the_phrase_are_seen(text: str) -> None:
    match = in_letters().match(spoken(text))
    assert match is not None
    assert not match.is_within(LIMITS.offer_within)
    assert max(match.edge, match.peak) > LIMITS.do_within.peak


def test_ahead_counts_other_meanings_and_not_other_words_for_the_same() -> None:
    near = in_letters({"delete that": "scratch", "delete thad": "scratch", "undo": "undo"})
    far = in_letters({"delete that": "scratch", "delete thad": "other", "undo": "undo"})
    same, other = near.match(spoken("delete that")), far.match(spoken("delete that"))
    assert same is not None
    assert other is not None
    assert other.ahead < 30 < same.ahead


def test_a_beginning_may_become_a_command_and_another_sentence_may_not() -> None:
    begun, other = (in_letters().match(spoken(t)) for t in ("delete the la", "once upon a time"))
    assert begun is not None
    assert other is not None
    assert begun.so_far < LIMITS.may_become_at < other.so_far


def test_phrases_are_spelled_in_the_order_pieces_were_learnt() -> None:
    """ " the" is one piece where " t" and "he" are known before it: scores of letters alone would not match."""
    book = Phrasebook(PIECES, {"the": "the"})
    scores = np.zeros((4, 1 + len(PIECES)), np.float32)
    scores[1:3, PIECES.index(" the") + 1] = 9.0
    match = book.match(scores)
    assert match is not None
    assert match.loss == 0.0


def test_what_cannot_be_compared_is_no_match() -> None:
    scores = spoken("undo")
    assert Phrasebook(PIECES, {}).match(scores) is None
    assert Phrasebook(("x", "y"), {"undo": "undo"}).match(scores[:, :3]) is None
    assert in_letters().match(scores[:0]) is None
    assert in_letters({"delete the last line": "line"}).match(scores[:3]) is None


def test_with_two_languages_the_likelier_phrase_wins() -> None:
    books = Phrasebooks({"en": PHRASES, "ru": {"удали это": "scratch"}})
    pieces = LETTERS + ("‹none›",) * (len(PIECES) - len(LETTERS))
    for phrase in ("delete it", "удали это"):
        match = books.match(pieces, spoken(phrase), ("en", "ru"))
        assert isinstance(match, PhraseMatch)
        assert match.text == phrase
    assert books.match(pieces, spoken("undo"), ()) is None


@pytest.mark.parametrize("language", ["en", "ru"])
def test_every_closed_phrase_is_in_the_grammar(language: str) -> None:
    phrases = closed_phrases()[language]
    assert len(phrases) > 200
    assert all(isinstance(parse(phrase), Command) for phrase in phrases)
