"""A voice answers commands that were done, with fixed words."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from audio.events import CommandHeard, Commit, Ended, Ready, Voice
from daemon.dictation_feedback import DictationFeedback
from daemon.spoken_replies import SpokenReplies, find_voice


def command(name: str, *, offered: bool = False) -> CommandHeard:
    return CommandHeard(
        id=1,
        utterance=1,
        name=name,
        arguments={"old": "secret"},
        confidence=1.0,
        needs_confirmation=offered,
        edit=None,
        start=0,
        end=1,
    )


def wait_for_lines(file: Path, n: int) -> list[str]:
    pause = threading.Event()
    for _ in range(1000):
        lines = file.read_text().splitlines() if file.exists() else []
        if len(lines) >= n:
            return lines
        pause.wait(0.01)
    return lines


class Deafened:
    """What the microphone is told."""

    def __init__(self) -> None:
        self.told: list[bool] = []
        self.hears_again = threading.Event()

    def __call__(self, is_deaf: bool) -> None:
        self.told.append(is_deaf)
        if not is_deaf:
            self.hears_again.set()


@pytest.fixture
def voice(tmp_path: Path) -> Path:
    said, voice = tmp_path / "said", tmp_path / "say"
    voice.write_text(f'#!/bin/sh\necho "$*" >> {said}\n')
    voice.chmod(0o700)
    return voice


def test_a_done_command_is_said_to_a_deaf_microphone_and_nothing_else(voice: Path) -> None:
    deafened = Deafened()
    feedback = DictationFeedback(None, SpokenReplies([str(voice)], deafened))
    feedback.hear(Commit(utterance=1, text="secret", start=0, end=1))
    feedback.hear(command("replace", offered=True))
    feedback.hear(command("replace"))

    assert wait_for_lines(voice.with_name("said"), 1) == ["replaced"]
    assert deafened.hears_again.wait(10)
    assert deafened.told == [True, False]


def test_nothing_is_said_into_an_utterance(voice: Path) -> None:
    deafened = Deafened()
    feedback = DictationFeedback(None, SpokenReplies([str(voice)], deafened))
    feedback.hear(Voice(at=0, is_speech=True))
    feedback.hear(command("undo"))
    assert not deafened.told
    feedback.hear(Voice(at=1, is_speech=False))
    feedback.hear(command("undo"))

    assert deafened.hears_again.wait(10)
    assert wait_for_lines(voice.with_name("said"), 1) == ["undone"]


def test_a_voice_that_fails_leaves_no_deaf_microphone() -> None:
    deafened = Deafened()
    SpokenReplies(["/nowhere/say"], deafened).say("undo")

    assert deafened.hears_again.wait(10)


def test_the_systems_own_voice_comes_first_and_none_is_no_error() -> None:
    assert find_voice(lambda name: f"/bin/{name}") == ["/bin/say"]
    assert find_voice(lambda name: None if name == "say" else name) == ["spd-say", "--wait"]
    assert find_voice(lambda _: None) is None


class Played:
    """Stands where the player of earcons does, and notes what it is to play."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def play(self, name: str) -> None:
        self.names.append(name)


def test_tones_tell_that_it_listens_obeys_and_ends() -> None:
    played = Played()
    feedback = DictationFeedback(played, None)
    for event in (
        Ready(),
        command("undo"),
        command("undo", offered=True),
        Voice(at=0, is_speech=True),
        command("delete"),
        Voice(at=1, is_speech=False),
        command("stop"),
        Ended(at=2, reason="command"),
        Ended(at=2, reason="error"),
    ):
        feedback.hear(event)

    assert played.names == ["on", "done", "off", "error"]
