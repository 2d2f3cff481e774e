"""Sound for the tests: synthetic speech, and a microphone that hears what is played."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest

from audio.vad import SpeechDetector
from benchmarks import espeak, virtual_microphone
from benchmarks.espeak import Spoken
from benchmarks.virtual_microphone import VirtualMicrophone

GUARD_S = 20.0


@pytest.fixture(scope="session")
def detector() -> SpeechDetector:
    return SpeechDetector()


@pytest.fixture(scope="session")
def speak() -> Callable[..., Spoken]:
    """`speak(text, voice=...)`: synthetic speech, made once for each text."""
    if espeak.is_missing():
        pytest.skip("NOT TESTED: espeak-ng is not installed (apt install espeak-ng)")
    made: dict[tuple[str, str], Spoken] = {}

    def cached(text: str, voice: str = "en-us") -> Spoken:
        if (text, voice) not in made:
            made[text, voice] = espeak.speak(text, voice=voice)
        return made[text, voice]

    return cached


@pytest.fixture
def open_microphone() -> Iterator[Callable[..., VirtualMicrophone]]:
    """`open_microphone(*modules)`: a virtual microphone for this test; one at a time."""
    if needed := virtual_microphone.missing():
        pytest.skip(f"NOT TESTED: no virtual microphone without {', '.join(needed)}")
    opened = []

    def start(*modules: str) -> VirtualMicrophone:
        context = virtual_microphone.virtual_microphone(*modules)
        opened.append(context)
        return context.__enter__()

    yield start
    for context in opened:
        context.__exit__(None, None, None)


@pytest.fixture
def until() -> Callable[..., None]:
    """`until(condition, within_s)`: wait for what has no event to wait for; the deadline is part of the claim."""

    def wait(is_so: Callable[[], bool], within_s: float = GUARD_S) -> None:
        give_up_at = time.monotonic() + within_s
        while not is_so():
            assert time.monotonic() < give_up_at, f"not within {within_s} s"
            threading.Event().wait(0.005)

    return wait
