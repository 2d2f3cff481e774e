"""A voice answers commands that were done, with fixed words."""

from __future__ import annotations

import threading
from pathlib import Path

from audio.events import CommandHeard, Commit
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


def test_a_done_command_is_said_and_nothing_else(tmp_path: Path) -> None:
    said, voice = tmp_path / "said", tmp_path / "say"
    voice.write_text(f'#!/bin/sh\necho "$*" >> {said}\n')
    voice.chmod(0o700)
    replies = SpokenReplies([str(voice)])
    replies.hear(Commit(utterance=1, text="secret", start=0, end=1))
    replies.hear(command("replace", offered=True))
    replies.hear(command("replace"))

    assert wait_for_lines(said, 1) == ["replaced"]


def test_the_systems_own_voice_comes_first_and_none_is_no_error() -> None:
    assert find_voice(lambda name: f"/bin/{name}") == ["/bin/say"]
    assert find_voice(lambda name: None if name == "say" else name) == ["spd-say", "--wait"]
    assert find_voice(lambda _: None) is None
    SpokenReplies(["/nowhere/say"]).hear(command("undo"))
