"""Precision and recall are counted as they should be, and a right reading between pauses is a command."""

from __future__ import annotations

from typing import cast

import numpy as np
import pytest

from audio.commands import Command, parse
from audio.pcm import to_samples
from audio.recognizer import Hypothesis, Recognition
from audio.session import Hearing
from audio.vad import SpeechDetector
from benchmarks import espeak
from benchmarks.command_decisions import Outcome, figures_of, outcome_of
from benchmarks.command_phrases import Role, Said


def said(text: str, role: Role, samples: np.ndarray | None = None) -> Said:
    sound = np.zeros(1, np.float32) if samples is None else samples
    return Said(text, "en", role, "a voice", sound)


def outcome(text: str, role: Role, done: str | None) -> Outcome:
    command = None if done is None else cast(Command, parse(done))
    return Outcome(said(text, role), command, None, read=False)


def test_the_wrong_command_is_a_command_but_not_what_was_asked() -> None:
    figures = figures_of(
        [
            outcome("undo that", "command", "undo that"),
            outcome("delete the last word", "command", "delete the last line"),
            outcome("new line", "command", None),
            outcome("he said undo that", "near_miss", "undo"),
            outcome("it was late", "dictation", None),
        ]
    )
    assert figures["precision"]["share"] == pytest.approx(2 / 3, abs=1e-3)
    assert figures["recall"]["share"] == pytest.approx(2 / 3, abs=1e-3)
    assert figures["exactly_as_asked"]["share"] == pytest.approx(1 / 3, abs=1e-3)
    assert figures["recall_exactly"]["share"] == pytest.approx(1 / 3, abs=1e-3)
    assert figures["precision"]["low"] < 2 / 3 < figures["precision"]["high"]
    assert figures["done_wrongly"] == 1


def test_what_was_never_done_has_no_precision() -> None:
    assert figures_of([outcome("it was late", "dictation", None)])["precision"] is None


class Reads:
    """Always the same words, and sure of a command."""

    def __init__(self, text: str) -> None:
        self._text = text

    def recognize(self, wanted: Recognition, is_cancelled: object) -> Hypothesis:
        return Hypothesis(kind="dict", text=self._text, p_command=1.0, n_tokens=3)


def test_an_utterance_is_decided_by_the_product_and_its_arguments_are_compared() -> None:
    if espeak.is_missing():
        pytest.skip("NOT TESTED: espeak-ng is not installed (apt install espeak-ng)")
    sound = to_samples(espeak.speak("delete the last word").pcm)
    detector = SpeechDetector()
    spoken = said("delete the last word", "command", sound)

    right = outcome_of(Hearing(detector, Reads("delete the last word")), spoken, previews=True)
    assert right.is_right
    assert right.read
    other = outcome_of(Hearing(detector, Reads("delete the last line")), spoken, previews=True)
    assert other.done is not None
    assert not other.is_right
    misread = Hearing(detector, Reads("the leet the lost word"))
    assert outcome_of(misread, spoken, previews=True).done is None
    assert outcome_of(misread, spoken, previews=False, is_told=True).is_right
