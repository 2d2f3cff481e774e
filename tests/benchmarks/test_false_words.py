"""Hours without speech: the sounds never repeat, and what every gate did is counted where it was done."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from audio.oracle import OracleRecognizer, TimedWord
from audio.pcm import to_samples
from audio.recognizer import Hypothesis, Recognition
from audio.session import Hearing
from audio.vad import SpeechDetector
from benchmarks import espeak
from benchmarks.dictation_lockstep import Lockstep
from benchmarks.dictation_sounds import MORE_SOUNDS, RATE, SOUNDS, sound_of
from benchmarks.false_words import is_heard, outcome_of

SENTENCE = "the quick brown fox jumps over the lazy dog"


@pytest.fixture(scope="module")
def spoken() -> espeak.Spoken:
    if espeak.is_missing():
        pytest.skip("NOT TESTED: espeak-ng is not installed (apt install espeak-ng)")
    return espeak.speak(SENTENCE)


class Says:
    """The same answer to every pass."""

    def __init__(self, kind: str, text: str) -> None:
        self._found = Hypothesis(kind=kind, text=text, p_command=0.0, n_tokens=1)  # type: ignore[arg-type]

    def recognize(self, wanted: Recognition, is_cancelled: object) -> Hypothesis:
        return self._found


def hearing(kind: str, text: str = "") -> Hearing:
    return Hearing(SpeechDetector(), Says(kind, text))


@pytest.mark.parametrize("kind", [*SOUNDS, *MORE_SOUNDS])
def test_a_seed_makes_a_sound_again_and_no_two_stretches_of_it_are_alike(kind: str) -> None:
    first, again, other = ([*sound_of(kind, 20, seed)] for seed in (1, 1, 2))

    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert sum(map(len, first)) == sum(map(len, other)) == 20 * RATE
    assert all(np.isfinite(part).all() and 1e-4 < np.abs(part).max() <= 1.2 for part in first)
    for a, b in combinations([*first, *other], 2):
        n = min(len(a), len(b))
        assert abs(np.corrcoef(a[:n], b[:n])[0, 1]) < 0.95


def test_a_lockstep_dictation_hears_every_word_and_the_same_way_twice(spoken) -> None:
    timed = [TimedWord(w.text, w.start, w.end) for w in spoken.words]
    told = []
    for _ in range(2):
        oracle = OracleRecognizer(timed, reference=to_samples(spoken.pcm))
        events: list[object] = []
        dictation = Lockstep(Hearing(SpeechDetector(), oracle), events.append)
        for at in range(0, len(spoken.pcm), 1601):
            dictation.push(to_samples(spoken.pcm[at : at + 1601]))
        dictation.finish()
        told.append(repr(events))
        assert dictation.decider.before.split() == SENTENCE.split()

    assert told[0] == told[1]


@pytest.mark.parametrize(
    ("kind", "text", "gate"),
    [
        ("none", "", "passes_none"),
        ("dict", "  ", "passes_wordless"),
        ("dict", "word " * 90, "screened"),
    ],
)
def test_what_a_gate_held_back_is_counted_as_its_own(spoken, kind, text, gate) -> None:
    outcome = outcome_of(hearing(kind, text), [to_samples(spoken.pcm)])

    assert outcome.utterances == 1
    assert outcome.speech_s > 1
    assert outcome.words == 0
    assert getattr(outcome, gate) == outcome.passes > 0
    others = {"passes_none", "passes_wordless", "screened"} - {gate}
    assert all(getattr(outcome, name) == 0 for name in others)


def test_false_words_are_counted_and_silence_reaches_no_recognizer(spoken) -> None:
    chatty = hearing("dict", "thank you")
    assert outcome_of(chatty, [to_samples(spoken.pcm)]).words == 2
    quiet = outcome_of(chatty, sound_of("silence", 20, 3))
    assert (quiet.words, quiet.passes, quiet.utterances) == (0, 0, 0)


def test_a_clip_is_heard_when_anything_is_written(spoken) -> None:
    speech = to_samples(spoken.pcm)
    assert is_heard(hearing("dict", "fox"), speech)
    assert not is_heard(hearing("none"), speech)
