"""Commits only grow, and are what two passes agree on."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from audio.agreement import Agreement
from audio.silence_gate import is_echo, is_too_fast, max_tokens, without_loops
from audio.words import align_prefix, normals, pieces

texts = st.lists(st.sampled_from(["a", "b", "c", "dé", "ёж,", "“x”", "."]), max_size=12).map(
    " ".join
)


@given(st.text())
def test_pieces_are_the_text(text: str) -> None:
    assert "".join(pieces(text)) == text.rstrip() or not text.strip()


def test_case_marks_and_yo_make_no_difference() -> None:
    assert normals("Ёлка, “Мир” — don’t!") == ["елка", "мир", "—", "don't"]


def test_a_changed_beginning_is_found_again() -> None:
    assert align_prefix(["he", "said"], ["he", "said", "so"]) == (2, 0)
    assert align_prefix(["he", "said"], ["well", "he", "said", "so"]) == (3, 1)
    assert align_prefix(["he", "said"], ["he", "so"]) == (2, 1)


@given(st.lists(st.tuples(texts, st.sampled_from(["update", "settle"])), max_size=8), texts)
def test_commits_only_grow_and_add_up(passes, last: str) -> None:
    agreement, out, position = Agreement(0), "", 0
    for i, (text, how) in enumerate(passes, 1):
        if how == "update":
            new = agreement.update(text, i, hold=1)
        else:
            new = agreement.settle(text, i)
        if new:
            out += new.text
            assert position <= new.start <= new.end <= i
            position = new.end
        assert agreement.committed == out
    if new := agreement.finish(last, 99):
        out += new.text
    assert agreement.committed == out
    assert agreement.tentative == ""


def test_the_end_leaves_nothing_tentative_even_if_only_a_comma_is_new() -> None:
    agreement = Agreement(0)
    agreement.settle("ёж,", 1)
    agreement.update("a a", 2, hold=1)

    agreement.finish("ёж,", 3)

    assert agreement.committed == "ёж,"
    assert agreement.tentative == ""


def test_two_passes_must_agree_and_the_last_word_waits() -> None:
    agreement = Agreement(0)
    assert agreement.update("the quick", 10, hold=1) is None
    new = agreement.update("the quick brown fox", 20, hold=1)
    assert new is not None
    assert (new.text, new.start, new.end) == ("the quick", 0, 10)
    new = agreement.update("The quick, brown socks", 30, hold=1)
    assert new is not None
    assert new.text == ", brown"
    assert agreement.tentative == " socks"
    assert agreement.finish("the quick brown fox.", 40).text == " fox."  # type: ignore[union-attr]


def test_a_mark_after_a_committed_word_is_written_when_it_is_known() -> None:
    agreement = Agreement(0)
    agreement.settle("Well.", 10)
    assert agreement.committed == "Well"
    agreement.settle("Well, I never.", 20)
    assert agreement.committed == "Well, I never"
    agreement.finish("Well, I never!", 30)
    assert agreement.committed == "Well, I never!"


def test_the_last_gate() -> None:
    assert max_tokens(1.0) == 24
    assert is_too_fast("a" * 100, 1.0)
    assert not is_too_fast("that is quite fast speech", 1.0)
    assert without_loops("so so so so") == "so so so so"
    assert without_loops("you know " * 10).split() == ["you", "know"]
    assert without_loops("") == ""
    assert is_echo("one two three four five", "zero one two three four five six")
    assert not is_echo("one two three", "one two three")
    assert not is_echo("one two three four five", "one two three four six five")
