"""Undo is exact, whatever was done; a command says precisely what it changes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audio.commands import Command, parse
from audio.edit_log import Edit, EditLog

actions = st.lists(
    st.one_of(
        st.tuples(st.just("dictate"), st.sampled_from(["Hello there.", " a cat", " Ёж 🦔 ran!"])),
        st.tuples(
            st.just("do"),
            st.sampled_from(
                [
                    "delete the last word",
                    "delete the last sentence",
                    "delete that paragraph",
                    "new paragraph",
                    "new line",
                    "comma",
                    "replace cat with dog",
                    "replace all a with the",
                    "scratch that",
                    "undo that",
                ]
            ),
        ),
    ),
    max_size=25,
)


def command(text: str) -> Command:
    found = parse(text)
    assert isinstance(found, Command)
    return found


def applied(text: str, edit: Edit) -> str:
    assert text[edit.start : edit.start + len(edit.removed)] == edit.removed
    return text[: edit.start] + edit.inserted + text[edit.start + len(edit.removed) :]


@given(actions, st.sampled_from(["", "Before. ", "One\n\ntwo"]))
def test_every_edit_is_told_exactly_and_undo_leads_back_to_the_beginning(steps, before) -> None:
    log = EditLog(before)
    for i, (kind, what) in enumerate(steps):
        old = log.text
        if kind == "dictate":
            edit = log.dictate(what, i, (i, i + 1))
        else:
            edit = log.apply(command(what), i, (i, i + 1))
        assert log.text == (old if edit is None else applied(old, edit))
    for _ in range(100):
        if log.apply(command("undo"), 99, (0, 0)) is None:
            break
    assert log.text == before


@given(actions)
def test_undoing_a_step_restores_the_text_before_it(steps) -> None:
    log = EditLog("Start a cat. ")
    for i, (kind, what) in enumerate(steps):
        old = log.text
        if kind == "dictate":
            log.dictate(what, i, (i, i))
        elif what == "undo that" or log.apply(command(what), i, (i, i)) is None:
            continue
        log.apply(command("undo"), i, (i, i))
        assert log.text == old
        if kind == "dictate":
            log.dictate(what, i, (i, i))
        else:
            log.apply(command(what), i, (i, i))


def test_scratch_takes_back_the_last_dictation_and_what_was_done_to_it() -> None:
    log = EditLog("Dear Anna, ")
    log.dictate("the cat", 1, (0, 100))
    log.dictate(" sat", 1, (100, 200))
    log.apply(command("replace cat with dog"), 2, (300, 400))
    edit = log.apply(command("scratch that"), 3, (500, 600))

    assert log.text == "Dear Anna, "
    assert edit == Edit(11, "the dog sat", "")
    assert log.apply(command("undo"), 4, (0, 0)) == Edit(11, "", "the dog sat")


def test_the_log_only_grows_and_knows_the_sound_of_every_step() -> None:
    log = EditLog()
    log.dictate("One.", 1, (0, 100))
    log.dictate(" Two.", 2, (200, 300))
    log.apply(command("delete the last sentence"), 3, (400, 500))
    log.apply(command("undo"), 4, (600, 700))

    told = [(step.number, step.cause, step.samples, step.undoes) for step in log.steps]
    assert told == [
        (1, "dictation", (0, 100), ()),
        (2, "dictation", (200, 300), ()),
        (3, "command", (400, 500), ()),
        (4, "undo", (600, 700), (3,)),
    ]


@pytest.mark.parametrize(
    ("text", "asked", "left"),
    [
        ("One two three", "delete the last two words", "One"),
        ("One. Two three. Four", "delete the last sentence", "One. Two three."),
        ("One. Two three.", "delete the last sentence", "One."),
        ("One.\n\nTwo. Three.", "delete that paragraph", "One.\n\n"),
        ("The cat. A cat.", "replace cat with dog", "The cat. A dog."),
        ("Cat and cat", "replace all cat with dog", "Dog and dog"),
        ("category cat", "replace cat with dog", "category dog"),
        ("Ёлка и елка", "замени все ёлка на сосна", "Сосна и сосна"),
        ("a word ", "comma", "a word,"),
        ("a line ", "new line", "a line\n"),
    ],
)
def test_what_a_command_does(text: str, asked: str, left: str) -> None:
    log = EditLog(text)
    assert log.apply(command(asked), 1, (0, 0)) is not None
    assert log.text == left


@pytest.mark.parametrize(
    ("text", "asked"),
    [("", "delete the last word"), ("a dog", "replace cat with dog"), ("a", "undo")],
)
def test_what_cannot_be_done_changes_nothing(text: str, asked: str) -> None:
    log = EditLog(text)
    assert not log.can_apply(command(asked))
    assert log.apply(command(asked), 1, (0, 0)) is None
    assert log.text == text
    assert not log.steps
