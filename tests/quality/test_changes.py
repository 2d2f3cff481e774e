"""The word-level diff: exact, in UTF-16, and sensible to read."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quality.changes import apply_changes, changes_between, edit_distance, tokenize, utf16_length

WORDS = st.sampled_from(
    ["the", "The", "fox", "foxes", "ещё", "еще", "й", "й", "-", ",", ".", " ", "  ", "\n", "👩‍👩‍👧", "👋🏽",
     "🇫🇷", "don't", "из-за", "𝒳", "\u200d", "\ufe0f", "1️⃣", "\u0301", "«", "»"]
)  # fmt: skip
TEXTS = st.lists(WORDS, max_size=12).map("".join) | st.text(max_size=20)


@given(TEXTS)
def test_tokens_tile_the_text(text):
    assert "".join(tokenize(text)) == text


@settings(max_examples=300)
@given(TEXTS, TEXTS)
def test_changes_turn_the_original_into_the_revision(original, revision):
    changes = changes_between(original, revision)

    assert apply_changes(original, changes) == revision
    source = original.encode("utf-16-le")
    end = 0
    for change in changes:
        assert change.offset_utf16 >= end
        end = change.offset_utf16 + change.length_utf16
        assert source[2 * change.offset_utf16 : 2 * end].decode("utf-16-le") == change.old
        assert change.old != change.new
        assert change.kind == {(True, False): "delete", (False, True): "insert"}.get(
            (bool(change.old), bool(change.new)), "replace"
        )


@given(TEXTS)
def test_a_text_does_not_differ_from_itself(text):
    assert changes_between(text, text) == []


@pytest.mark.parametrize(
    ("original", "revision", "category", "old", "new"),
    [
        ("a  b", "a b", "whitespace", "  ", " "),
        ("one\ntwo", "one two", "whitespace", "\n", " "),
        ("in paris", "in Paris", "capitalisation", "paris", "Paris"),
        ("Да конечно", "Да, конечно", "punctuation", "", ","),
        ("no!", "no.", "punctuation", "!", "."),
        ("a fox", "a red fox", "insertion", "", "red "),
        ("a red fox", "a fox", "deletion", "red ", ""),
        ("ещё раз", "еще раз", "spelling", "ещё", "еще"),
        ("recieve it", "receive it", "spelling", "recieve", "receive"),
        ("он ушёл", "он исчез", "wording", "ушёл", "исчез"),
        ("it was cat", "it was dog", "wording", "cat", "dog"),
    ],
)
def test_each_category_has_its_example(original, revision, category, old, new):
    [change] = changes_between(original, revision)

    assert (change.category, change.old, change.new) == (category, old, new)


def test_words_in_the_same_gaps_are_reported_one_by_one():
    changes = changes_between("Он ушел быстро, молча.", "Он ушёл скоро, молча.")

    assert [(c.old, c.new, c.category) for c in changes] == [
        ("ушел", "ушёл", "spelling"),
        ("быстро", "скоро", "wording"),
    ]


def test_offsets_count_utf16_code_units():
    [change] = changes_between("👩‍👩‍👧 мама", "👩‍👩‍👧 папа")

    assert change.offset_utf16 == len("👩‍👩‍👧 ".encode("utf-16-le")) // 2 == 9
    assert change.length_utf16 == 4


@pytest.mark.parametrize("whole", ["👩‍👩‍👧", "👋🏽", "🇫🇷", "1️⃣", "й", "ё", "из-за", "don’t"])
def test_what_a_reader_sees_as_one_is_one_token(whole):
    assert tokenize(f"a {whole} b") == ["a", " ", whole, " ", "b"]


@given(TEXTS)
def test_utf16_length_is_that_of_the_encoding(text):
    assert utf16_length(text) == len(text.encode("utf-16-le")) // 2


@pytest.mark.parametrize(
    ("a", "b", "distance"), [("", "", 0), ("ab", "ba", 1), ("kitten", "sitting", 3), ("", "ab", 2)]
)
def test_edit_distance(a, b, distance):
    assert edit_distance(a, b) == edit_distance(b, a) == distance


def test_the_worst_case_is_bounded():
    """A novel against an answer of the same few words must not hold up the event loop."""
    started = time.perf_counter()
    original, revision = "a b, " * 40_000, "b, a " * 1_000
    changes = changes_between(original, revision)

    assert apply_changes(original, changes) == revision
    assert time.perf_counter() - started < 1.0
