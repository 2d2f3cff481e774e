"""The portrait: what is counted, how documents become one, and what follows for min-p."""

from __future__ import annotations

import json
import random
from concurrent.futures import Future
from dataclasses import replace
from itertools import islice, product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from indexer.errors import IndexClosed
from indexer.paragraphs import n_words_of
from indexer.portrait import Portrait, portrait, spread
from indexer.portrait_counts import (
    MIN_COUNT,
    MTLD_MAX,
    Counts,
    mtld,
    profile,
    read_profile,
)
from indexer.predictability import MIN_P_RANGE, MeasuredMinP, min_p_for, predictability
from indexer.records import DocumentRecord
from indexer.types import Paragraph
from indexer.word_choice import general_frequencies, word_choice
from pushkin_runtime.sampling import TASK_SAMPLING
from tests.indexer.conftest import HashEmbedder, lines_as_paragraphs

CAT = [
    "the",
    "cat",
    "sat",
    "on",
    "the",
    "mat",
    "and",
    "the",
    "dog",
    "sat",
    "on",
    "the",
    "rug",
    "near",
    "the",
    "cat",
]


def paragraph(text: str, language: str = "en") -> Paragraph:
    return Paragraph(text=text, language=language, n_words=n_words_of(text))


def counted(*texts: str, language: str = "en") -> dict:
    found = read_profile(profile([paragraph(text, language) for text in texts]))
    assert found is not None
    return found["counts"][language]


def drawn(*documents: str, language: str = "en", weights=None, general=None) -> Portrait:
    profiles = {f"d{at}": profile([paragraph(text, language)]) for at, text in enumerate(documents)}
    return portrait(profiles, weights or dict.fromkeys(profiles, 1.0), general)


# What is counted


def test_mtld_is_that_of_the_worked_example():
    assert mtld(CAT * 4) == pytest.approx(8.719577, abs=1e-6)  # lexicalrichness 0.5.1 has the same


def test_mtld_of_few_words_is_not_known_and_of_different_ones_is_bounded():
    assert mtld(CAT * 3) is None
    assert mtld([str(n) for n in range(1000)]) == MTLD_MAX
    assert mtld(["word"] * 100) == pytest.approx(2.0)  # the second word brings the share to a half


def test_sentences_and_lines_are_counted_by_their_words():
    found = counted("One two three. Four five! Six seven eight nine ten?", "Alone it stands.")
    assert found["sentences"] == {"2": 1, "3": 2, "5": 1}
    assert found["paragraphs"] == {"5": 1, "10": 1}
    assert found["n_words"] == 13
    total, n_pairs = found["contrast"]
    assert (n_pairs, total) == (2, pytest.approx(0.405 + 0.916, abs=2e-3))  # ln 3/2 + ln 5/2


def test_marks_are_counted_but_not_the_dash_that_opens_a_speech():
    text = "— Да, — сказал он… — «Нет»; а (впрочем) кто знает: я?\n— Вот как... Ну-ка - иди!"
    assert counted(text, language="ru")["marks"] == {
        "comma": 1,
        "semicolon": 1,
        "colon": 1,
        "dash": 3,
        "ellipsis": 2,
        "question": 1,
        "exclamation": 1,
        "bracket": 1,
        "quote": 1,
    }


def test_a_spoken_line_is_dialogue_and_begins_a_sentence():
    found = counted("— Да, — сказал он\n— Нет, — крикнула она\nИ тут всё стихло.", language="ru")
    assert found["n_dialogue_words"] == 6
    assert found["sentences"] == {"3": 1, "7": 1}


def test_names_and_words_that_occur_once_are_not_kept():
    text = "I saw Holmes, and I saw Watson. Holmes saw me and Watson saw a secretword there. " * 2
    words = counted(text)["words"]
    assert words["saw"] == 8
    assert not {"holmes", "watson"} & set(words)
    assert "secretword" not in counted("One secretword is here and one is there, I say.")["words"]


def test_few_words_are_kept_of_a_short_text_and_the_rest_is_bounded():
    rng = random.Random(3)
    words = [f"{rng.choice('abcdefgh')}{rng.choice('abcdefgh')}" for _ in range(500)]
    found = counted(" ".join(words))
    assert len(found["words"]) == 500 // 25
    assert MIN_COUNT <= found["floor"] <= min(found["words"].values())
    counts = Counts()
    counts.add(found, 1.0)
    assert all(words.count(word) <= counts.at_most(word) for word in set(words))


def test_other_languages_are_only_measured():
    found = read_profile(profile([paragraph("Das ist ein kurzer Satz.", "other")]))
    assert found == {"version": 1, "n_words": {"other": 5}, "counts": {}}


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", "null", '{"version": 0}', '{"version": 1, "counts": {"en": {}}}']
)
def test_what_is_no_profile_is_left_out(text):
    assert read_profile(text) is None
    found = portrait({"a": text}, {"a": 1.0})
    assert (found.n_words, found.n_uncounted, found.documents) == (0, 1, ())


# Documents become one


def test_quartiles_mean_and_variation():
    found = spread({1: 1, 2: 1, 3: 1, 4: 1})
    assert (found.lower_quartile, found.median, found.upper_quartile) == (1, 2, 3)
    assert (found.mean, found.variation) == (2.5, pytest.approx(0.447, abs=1e-3))


def test_counts_of_two_documents_are_those_of_both_together():
    first, second = "A cat sat here. It was black, I think.", "The dog ran; nobody saw it (but me)."
    apart = drawn(first, second).languages[0]
    together = portrait({"a": profile([paragraph(first), paragraph(second)])}, {"a": 1.0})
    assert together.languages[0] == apart


def test_shares_are_words_times_weight():
    one, two = "One two three four five.", "One two three four five six seven eight nine ten."
    found = drawn(one, two, weights={"d0": 6.0, "d1": 1.0, "d2": 1.0})
    assert [(d.id, d.share) for d in found.documents] == [("d0", 0.75), ("d1", 0.25)]
    assert found.n_uncounted == 1
    assert found.languages[0].sentence_words.median == 5  # three quarters of the words are of such
    assert found.languages[0].n_words == 15  # weights do not make words out of nothing


def test_a_document_without_weight_counts_nothing():
    found = drawn("One two three.", "One two three four.", weights={"d0": 1.0, "d1": 0.0})
    assert found.languages[0].sentence_histogram == (0, 0, 1)
    assert drawn("One two three.", weights={"d0": 0.0}).languages == ()


def test_the_smallest_share_counts_too():
    profiles = {
        "a": profile([paragraph("It was late. We left.")]),
        "b": profile([paragraph("Было поздно и темно.", "ru")]),
    }
    found = portrait(profiles, {"a": 10.0, "b": 0.0001})
    assert [one.language for one in found.languages] == ["en", "ru"]
    assert 0 < found.documents[1].share < 1e-4


def test_languages_are_drawn_apart():
    both = [paragraph("It was late. We left."), paragraph("Было поздно и темно.", "ru")]
    found = portrait({"a": profile(both)}, {"a": 1.0})
    assert [(one.language, one.n_words) for one in found.languages] == [("en", 5), ("ru", 4)]
    assert found.shares == {"en": 0.5556, "ru": 0.4444}


# Words


GENERAL = {"the": 0.05, "whale": 1e-5, "just": 0.003, "because": 0.002, "sea": 1e-4, "and": 0.03}


def written(n: int, **shares: float) -> str:
    """A text with that share of each word, and all else once."""
    words = [word for word, share in shares.items() for _ in range(round(n * share))]
    letters = "abcdefghijklmnopqrst"
    words += ["".join(found) for found in islice(product(letters, repeat=4), n - len(words))]
    random.Random(7).shuffle(words)
    return " ".join(words) + "."


def test_planted_favourites_and_shunned_words_are_found():
    text = written(6000, the=0.05, whale=0.01, because=0.002)
    counts = Counts()
    counts.add(counted(text), 1.0)
    choice = word_choice(counts, GENERAL, "en")
    assert [use.word for use in choice.favourite] == ["whale"]
    # 180 and 18 were to be expected; of "because" there are as many as should be.
    assert [use.word for use in choice.shunned] == ["and", "just"]
    (whale,) = choice.favourite
    assert whale.per_million == pytest.approx(10_000)
    assert whale.general_per_million == 10


def test_few_words_prove_nothing():
    assert not drawn(written(100, whale=0.02), general=lambda _: GENERAL).languages[0].words.shunned


def test_a_word_of_one_document_among_many_is_its_subject():
    texts = [written(2000, whale=0.02), written(2000, sea=0.01), written(2000, sea=0.01)]
    words = drawn(*texts, general=lambda _: GENERAL).languages[0].words
    assert [use.word for use in words.favourite] == ["sea"]


def test_wordfreq_knows_both_languages():
    english, russian = general_frequencies("en"), general_frequencies("ru")
    assert english["the"] > english["because"] > 1e-4
    assert russian["и"] > russian["еще"] > 1e-4
    assert not any("ё" in word for word in russian)


# What follows


def even_text(n_sentences: int) -> str:
    return "The man goes to the house and the man goes to the door. " * n_sentences


def restless_text(n_words: int) -> str:
    rng = random.Random(5)
    words = [
        "".join(rng.choice("aeioubcdlmnrst") for _ in range(rng.randint(3, 8)))
        for _ in range(n_words)
    ]
    at, sentences = 0, []
    while at < n_words:
        length = rng.choice((1, 2, 3, 40))
        sentences.append(" ".join(words[at : at + length]).capitalize() + ".")
        at += length
    return " ".join(sentences)


def test_even_writing_is_predictable_and_restless_writing_is_not():
    even, restless = drawn(even_text(800)), drawn(restless_text(8000))
    assert predictability(even) > 0.85
    assert predictability(restless) < 0.15
    assert min_p_for(predictability(restless)) < 0.07 < 0.13 < min_p_for(predictability(even))


def test_little_writing_leaves_the_default():
    assert predictability(drawn(even_text(2))) == pytest.approx(0.5, abs=0.02)
    assert predictability(portrait({}, {})) == 0.5
    assert min_p_for(0.5) == pytest.approx(TASK_SAMPLING["continue"].min_p)


@given(st.floats(allow_nan=False), st.floats(allow_nan=False))
def test_min_p_grows_with_predictability_within_its_range(one, other):
    low, high = sorted((one, other))
    assert MIN_P_RANGE[0] <= min_p_for(low) <= min_p_for(high) <= MIN_P_RANGE[1]


def test_an_index_with_the_stage_gives_a_portrait_and_min_p(open_index):
    embedder = HashEmbedder()
    watching = open_index(
        embedder=embedder, stages=replace(lines_as_paragraphs(embedder), profile=profile)
    )
    min_p = MeasuredMinP(watching.index)
    watching.push("doc", even_text(300))
    min_p()
    watching.index.consent().result(10)  # the index answers in order: it is measured now
    assert min_p() > 0.12
    documents, profiles = watching.index.profiles().result(10)
    assert portrait(profiles, {found.id: found.weight for found in documents}).n_words == 3900


class FakeIndex:
    """Answers when it is told to."""

    def __init__(self) -> None:
        self.generation = -1
        self.asked: list[Future] = []
        self.is_closed = False

    def profiles(self) -> Future:
        if self.is_closed:
            raise IndexClosed("The index is shutting down.")
        self.asked.append(Future())
        return self.asked[-1]


def record(name: str) -> DocumentRecord:
    return DocumentRecord(
        id=name,
        revision=None,
        origin="push",
        folder=None,
        path=None,
        media_type="text/plain",
        consent="global",
        consented_at=0.0,
        indexed_at=0.0,
        n_paragraphs=1,
        n_words=1,
        weight=1.0,
        stale=False,
    )


def test_min_p_is_measured_once_for_each_state_of_the_index_and_nobody_waits():
    index = FakeIndex()
    min_p = MeasuredMinP(index)
    assert min_p() is None
    assert not index.asked  # it is not open yet

    index.generation = 0
    assert min_p() is None
    index.asked[0].set_result(([record("a")], {"a": profile([paragraph(even_text(800))])}))
    assert min_p() == min_p() > 0.13
    assert len(index.asked) == 1

    index.generation = 1
    assert min_p() > 0.13  # the old one
    index.asked[1].set_exception(IndexClosed("The index is shutting down."))
    assert min_p() > 0.13
    assert len(index.asked) == 3  # asked again
    index.asked[2].set_result(([], {}))
    assert min_p() is None

    index.generation, index.is_closed = 2, True
    assert min_p() is None


def test_the_portrait_shows_numbers_and_common_words_only():
    """What a portrait says about a text with a secret in it does not have the secret."""
    text = "My password is xyzzyplugh and it stays xyzzyplugh, you see. " + even_text(200)
    found = drawn(text, general=general_frequencies)
    assert "xyzzyplugh" not in repr(found)
    assert "goes" in {use.word for use in found.languages[0].words.favourite}


def test_a_profile_is_small():
    text = restless_text(4000)
    stored = len(profile([paragraph(text)]).encode())
    assert stored < 0.15 * len(text)
    assert json.loads(profile([])) == {"version": 1, "n_words": {}, "counts": {}}
