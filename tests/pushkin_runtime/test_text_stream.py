"""Streams never show half a code point or any part of a stop string, however tokens fall."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pushkin_runtime.engines.scripted_engine import byte_tokenizer
from pushkin_runtime.text_stream import StopStrings, TextStream, opening_of
from pushkin_runtime.tokenizer import StreamDetokenizer, TextTokenizer

BYTES = byte_tokenizer()
texts = st.text(st.sampled_from("ab \nжё🦊é"), max_size=40)
stops = st.lists(st.text(st.sampled_from("ab \nжё🦊"), min_size=1, max_size=4), max_size=3)


@given(st.text(max_size=60))
def test_any_text_survives_byte_by_byte(text: str) -> None:
    stream = StreamDetokenizer(BYTES)
    pieces = [stream.push(token) for token in BYTES.encode(text)]

    assert "".join(pieces) == text


def test_bytes_that_are_no_text_are_dropped() -> None:
    stream = StreamDetokenizer(BYTES)
    broken = [4 + b for b in b"\xd0\xff"] + BYTES.encode("ок")

    assert "".join(stream.push(token) for token in broken) == "ок"


@given(texts, stops)
def test_stop_strings_never_leak_and_nothing_else_is_lost(text: str, stop: list[str]) -> None:
    stream = TextStream(BYTES, stop, b"")
    shown = ""
    for token in BYTES.encode(text):
        shown += stream.push(token)
        assert not any(s in shown for s in stop)
        if stream.stop_word:
            break
    shown += stream.finish()

    first = min((at for s in stop if (at := text.find(s)) >= 0), default=None)
    assert bool(stream.stop_word) == (first is not None)
    if first is None:
        assert shown == text
    else:
        assert text.startswith(shown)
        assert len(shown) <= first + max(len(s) for s in stop)
        assert not any(s in shown for s in stop)


def test_the_earliest_stop_string_cuts() -> None:
    stops = StopStrings(["world", "lo w"])

    assert stops.push("hello world") == "hel"
    assert stops.is_stopped
    assert stops.flush() == ""


def test_text_is_held_only_while_it_may_become_a_stop() -> None:
    stops = StopStrings(["\n\n"])

    assert [stops.push("a\n"), stops.push("b\n"), stops.flush()] == ["a", "\nb", "\n"]


def test_the_healed_part_is_not_shown_again() -> None:
    stream = TextStream(BYTES, [], b" qui")
    shown = [stream.push(token) for token in BYTES.encode(" quick fox")]

    assert "".join(shown) == "ck fox"


@given(st.text(max_size=80))
def test_tokenizer_round_trip_and_no_injection(real_tokenizer: TextTokenizer, text: str) -> None:
    text = text.replace("▁", "")
    tokens = real_tokenizer.encode(text)

    assert real_tokenizer.decode(tokens) == text
    assert not set(tokens) & real_tokenizer.special_ids()


def test_specials_in_text_stay_text(real_tokenizer: TextTokenizer) -> None:
    tokens = real_tokenizer.encode("<bos><lang:ru></s><eos>")

    assert not set(tokens) & real_tokenizer.special_ids()
    assert real_tokenizer.decode(tokens) == "<bos><lang:ru></s><eos>"


def test_tokens_by_prefix_are_found_exactly(real_tokenizer: TextTokenizer) -> None:
    prefix = " с".encode()
    expected = [
        index
        for index in range(real_tokenizer.n_tokens)
        if real_tokenizer.token_bytes(index).startswith(prefix)
    ]

    assert real_tokenizer.starting_with(prefix).tolist() == expected
    assert len(expected) > 1


@pytest.fixture(scope="module")
def real_tokenizer(tiny_model: Path) -> TextTokenizer:
    return TextTokenizer(tiny_model / "tokenizer.json", 512)


@pytest.mark.parametrize(
    ("suffix", "opening"),
    [
        (" and the winter came.", " and the winter"),
        ("\n\nГлава вторая", "\n\nГлава вторая"),
        (", сказал он тихо", ", сказал он тихо"),
        (")", ")"),
        (" \n", ""),
        ("", ""),
    ],
)
def test_a_suffix_is_known_by_its_first_words(suffix: str, opening: str) -> None:
    assert opening_of(suffix) == opening


@pytest.mark.parametrize(
    ("opening", "text", "shown"),
    [
        (" and the winter", " the river and the winter came", " the river"),
        (" and the winter", " the river and the winters came", " the river and the winters came"),
        ("and the winter", "the sand the winter, and the winter", "the sand the winter, "),
        ("and the winter", "and the winter", ""),
        ("тихо", "тихонько и тихо.", "тихонько и "),
        (".", " he said. Then", " he said"),
        ("", "anything", "anything"),
    ],
)
def test_a_text_ends_before_it_repeats_what_follows_the_caret(
    opening: str, text: str, shown: str
) -> None:
    """Token by token: nothing of the opening is shown before it is known to be one."""
    stream = TextStream(BYTES, (), b"", opening)
    so_far = ""
    for token in BYTES.encode(text):
        so_far += stream.push(token)
        assert shown.startswith(so_far)
        if stream.stop_word:
            break

    assert so_far + stream.finish() == shown
    assert stream.stop_word == (opening if shown != text else "")


@given(
    st.text(st.sampled_from("ab .ж"), max_size=30), st.text(st.sampled_from("ab .ж"), max_size=6)
)
def test_an_opening_ends_a_text_or_loses_nothing(text: str, opening: str) -> None:
    stream = TextStream(BYTES, (), b"", opening)
    shown = ""
    for token in BYTES.encode(text):
        shown += stream.push(token)
        if stream.stop_word:
            break
    shown += stream.finish()

    assert shown == text or text.startswith(shown + opening)
