"""The typing session is a person's: one key at a time, the same every time."""

from __future__ import annotations

from itertools import pairwise

import pytest

from benchmarks.typing_trace import LANGUAGES, read_script, typing_session


@pytest.mark.parametrize("language", LANGUAGES)
def test_within_a_phase_every_key_changes_one_character(language: str) -> None:
    for before, after in pairwise(typing_session(language)):
        if before.phase == after.phase:
            shorter, longer = sorted((before.text, after.text), key=len)
            assert len(longer) == len(shorter) + 1
            assert longer.startswith(shorter)


@pytest.mark.parametrize("language", LANGUAGES)
def test_what_is_put_in_the_middle_is_still_there_at_the_end(language: str) -> None:
    session, script = typing_session(language), read_script(language)
    middle = [key for key in session if key.phase == "edit_middle"]
    last = session[-1].text
    assert last == middle[-1].text + middle[-1].suffix + script["resumed"]
    assert script["insert_after"] + script["inserted"] in last


@pytest.mark.parametrize("language", LANGUAGES)
def test_it_is_deterministic_and_revisions_rise(language: str) -> None:
    session = typing_session(language)
    assert session == typing_session(language)
    assert [key.revision for key in session] == list(range(len(session)))
    assert {key.phase for key in session} == {
        "open",
        "type",
        "delete",
        "reject",
        "edit_middle",
        "return",
    }
