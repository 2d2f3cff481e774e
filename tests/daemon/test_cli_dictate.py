"""`pushkin dictate` and `pushkin dictation`, against a real daemon, with a microphone that hears what is played."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import soundfile

from benchmarks import espeak
from benchmarks import virtual_microphone as virtual
from daemon.dictation_client import DictatedText
from tests.daemon.conftest import Daemon, environment
from tests.daemon.hearing_daemon import SENTENCE

HEARING_DAEMON = Path(__file__).with_name("hearing_daemon.py")
RATE = 16_000
needs_voice = pytest.mark.skipif(
    espeak.is_missing(), reason="NOT TESTED: espeak-ng is not installed (apt install espeak-ng)"
)
needs_microphone = pytest.mark.skipif(
    bool(virtual.missing()), reason=f"NOT TESTED: no virtual microphone without {virtual.missing()}"
)


@pytest.fixture(scope="module")
def microphone():
    with virtual.virtual_microphone() as opened:
        yield opened


@pytest.fixture
def hearing(home: Path):
    """A daemon that hears; made after the microphone, whose environment it then has."""
    daemon = Daemon([sys.executable, str(HEARING_DAEMON)], home, environment(home))
    daemon.wait_for("ready")
    yield daemon
    daemon.close()


def spoken() -> np.ndarray:
    return np.concatenate((espeak.speak(SENTENCE).pcm, np.zeros(RATE, np.int16)))


@needs_voice
def test_a_recording_is_written(hearing, pushkin, tmp_path) -> None:
    file = tmp_path / "a.flac"
    soundfile.write(file, spoken(), RATE)

    done = pushkin("dictate", "--file", str(file))
    assert done.returncode == 0, done.stderr
    assert done.stdout.decode().split() == SENTENCE.split()

    piped = pushkin("dictate", "--file", "-", "--json", stdin=file.read_bytes())
    answer = json.loads(piped.stdout)
    assert answer["text"].split() == SENTENCE.split()
    assert answer["segments"][0]["end"] > answer["segments"][0]["start"]


@needs_voice
@needs_microphone
def test_what_is_said_into_a_microphone_is_written_when_ctrl_c_ends_it(
    microphone, hearing, home
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "daemon", "dictate", "--device", "pulse", "--json"],
        env=environment(home),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    guard = threading.Timer(60, process.kill)
    guard.start()
    assert process.stdout is not None
    text, ended, players = "", {}, []
    for line in process.stdout:
        event = json.loads(line)
        if event["type"] == "ready":
            players.append(microphone.play(spoken()))
        elif event["type"] == "commit":
            text += event["text"]
        elif event["type"] == "final":
            process.send_signal(signal.SIGINT)
        elif event["type"] == "ended":
            ended = event
    stderr = process.communicate()[1]
    guard.cancel()
    assert [player.wait(20) for player in players] == [0]

    assert process.returncode == 0, stderr
    assert text.split() == SENTENCE.split()
    assert ended["reason"] == "stop"


@needs_voice
@needs_microphone
def test_the_daemons_own_microphone_is_switched(microphone, home, pushkin) -> None:
    os.environ["PUSHKIN_MICROPHONE"] = "pulse"
    try:
        daemon = Daemon(
            [sys.executable, str(HEARING_DAEMON)],
            home,
            environment(home, PUSHKIN_MICROPHONE="pulse"),
        )
    finally:
        del os.environ["PUSHKIN_MICROPHONE"]
    daemon.wait_for("ready")
    try:
        on = pushkin("dictation", "on", "--json")
        assert on.returncode == 0, on.stderr
        assert json.loads(on.stdout)["state"] in ("arming", "listening")
        assert json.loads(pushkin("dictation", "toggle", "--json").stdout)["state"] == "off"
        assert daemon.stop() == 0
    finally:
        daemon.close()


@needs_microphone
def test_microphones_are_listed(microphone, pushkin) -> None:
    listed = pushkin("dictation", "devices", "--json")

    assert listed.returncode == 0, listed.stderr
    assert "pulse" in [device["name"] for device in json.loads(listed.stdout)]
    assert b"pulse" in pushkin("dictation", "devices").stdout


@needs_microphone
def test_an_unknown_microphone_names_the_nearest(microphone, hearing, pushkin) -> None:
    failed = pushkin("dictate", "--device", "pulze")

    assert failed.returncode == 1
    assert b"nearest: pulse" in failed.stderr


def test_without_a_daemon_and_with_contradictions_it_says_so(pushkin, tmp_path) -> None:
    missing = pushkin("dictate", "--file", str(tmp_path / "none.wav"))
    assert (missing.returncode, b"cannot be read" in missing.stderr) == (2, True)
    both = pushkin("dictate", "--file", "-", "--device", "x")
    assert both.returncode == 2
    assert pushkin("dictation", "on").returncode == 3


def test_without_a_speech_model_it_says_so(home, start_daemon, pushkin) -> None:
    start_daemon(home)
    file = io.BytesIO()
    soundfile.write(file, np.zeros(RATE), RATE, format="WAV")

    done = pushkin("dictate", "--file", "-", stdin=file.getvalue())
    assert done.returncode == 1
    assert b"scripted" in done.stderr or b"speech" in done.stderr
    assert pushkin("dictation", "on").returncode == 1


def test_a_document_takes_commits_and_edits_in_utf16() -> None:
    document = DictatedText("ёж 🦔")
    document.take({"type": "commit", "text": " ran away"})
    document.take({"type": "command", "edit": {"start_utf16": 3, "length_utf16": 2, "text": "cat"}})
    document.take({"type": "command", "edit": None})
    document.take({"type": "partial", "text": "no"})

    assert document.text == "ёж cat ran away"
