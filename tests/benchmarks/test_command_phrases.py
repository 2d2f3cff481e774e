"""What command decisions are measured on: two sets with nothing in common, right about what is a command."""

from __future__ import annotations

import pytest

from audio.commands import Command, parse
from benchmarks.command_phrases import commands, texts


@pytest.mark.parametrize("language", ["en", "ru"])
def test_every_command_is_in_the_grammar_and_nothing_else_is(language: str) -> None:
    assert len(commands(language)) >= 100
    assert all(isinstance(parse(text), Command) for text in commands(language))
    for role in ("near_miss", "dictation"):
        assert not any(isinstance(parse(t), Command) for t in texts(language, role, "report", 50))


@pytest.mark.parametrize("language", ["en", "ru"])
@pytest.mark.parametrize("role", ["command", "near_miss", "dictation"])
def test_the_set_that_thresholds_come_from_shares_no_phrase_with_the_other(language, role) -> None:
    chosen, judged = (set(texts(language, role, which, 60)) for which in ("calibration", "report"))
    assert len(chosen) > 30
    assert not chosen & judged
