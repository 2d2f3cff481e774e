"""A recogniser that knows what is said, and when: for timing tests and benchmarks of everything around the model.

It hears only whole words; one that the end of the sound cuts comes out mutilated, as it does from real ones. Words
stand at known samples of the session, or of a reference recording that is found again in what is heard.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from audio.pcm import SAMPLE_RATE, Samples
from audio.recognizer import Hypothesis, Recognition
from pushkin_runtime.speech_types import SpokenWord

_WINDOW = SAMPLE_RATE // 2
_DECIMATION = 4
_MIN_SHARE = 0.4  # of a word must be heard for anything to come of it
_MIN_CORRELATION = 0.5


@dataclass(frozen=True, slots=True)
class TimedWord:
    """start, end: samples. p_command: what the model's first token would give."""

    text: str
    start: int
    end: int
    p_command: float = 0.0


class OracleRecognizer:
    """real_time_factor: seconds a pass takes for each second of sound, to play a slower model."""

    def __init__(
        self,
        words: Sequence[TimedWord],
        *,
        reference: Samples | None = None,
        real_time_factor: float = 0.0,
    ) -> None:
        self._words = words
        self._reference = reference
        if reference is not None:
            n = 1 << ((len(reference) + _WINDOW) // _DECIMATION).bit_length()
            self._spectrum = np.fft.rfft(_decimated(reference), n)
            self._padded = np.concatenate((reference, np.zeros(_WINDOW + 16, np.float32)))
        self._factor = real_time_factor
        self._wait = time.sleep
        self.n_passes = 0

    def recognize(self, wanted: Recognition, is_cancelled: Callable[[], bool]) -> Hypothesis:
        """The words in the sound."""
        self.n_passes += 1
        give_back_at = time.monotonic() + self._factor * len(wanted.audio) / SAMPLE_RATE
        start = wanted.start if self._reference is None else self.find(wanted.audio)
        heard = [] if start is None else self._heard(start, start + len(wanted.audio))
        while (left := give_back_at - time.monotonic()) > 0 and not is_cancelled():
            self._wait(min(left, 0.02))
        if not heard:
            return Hypothesis(kind="none", text="", p_command=0.0, n_tokens=0)
        begin = start or 0
        p_command = min(word.p_command for word in heard)
        return Hypothesis(
            kind="cmd" if p_command >= 0.5 else "dict",
            text=" ".join(word.text for word in heard),
            p_command=p_command,
            n_tokens=2 * len(heard),
            words=tuple(SpokenWord(w.text, w.start - begin, w.end - begin) for w in heard),
        )

    def _heard(self, start: int, end: int) -> list[TimedWord]:
        found = []
        for word in self._words:
            inside = min(word.end, end) - max(word.start, start)
            share = inside / (word.end - word.start)
            if share >= 0.95:
                found.append(word)
            elif share >= _MIN_SHARE:
                cut = word.text[: max(1, int(len(word.text) * share))]
                found.append(TimedWord(cut, word.start, word.end, word.p_command))
        return found

    def find(self, audio: Samples) -> int | None:
        """Where in the reference `audio` begins: its loudest half second is looked for by correlation."""
        assert self._reference is not None
        if len(audio) < _WINDOW:
            audio = np.concatenate((audio, np.zeros(_WINDOW - len(audio), np.float32)))
        energy = np.concatenate((np.zeros(1), np.cumsum(np.square(audio, dtype=np.float64))))
        at = int(np.argmax(energy[_WINDOW:] - energy[:-_WINDOW]))
        window = audio[at : at + _WINDOW]
        coarse = _decimated(window)
        n = 2 * (len(self._spectrum) - 1)
        products = np.fft.irfft(self._spectrum * np.conj(np.fft.rfft(coarse, n)), n)
        best = int(np.argmax(products[: len(self._reference) // _DECIMATION])) * _DECIMATION
        exact = range(max(0, best - _DECIMATION), best + _DECIMATION + 1)
        scores = [float(window @ self._padded[i : i + _WINDOW]) for i in exact]
        if max(scores) < _MIN_CORRELATION * float(np.square(window).sum()):
            return None
        return exact[int(np.argmax(scores))] - at


def _decimated(sound: Samples) -> Samples:
    """Every four samples averaged: enough to find a place by."""
    whole = len(sound) - len(sound) % _DECIMATION
    mean: Samples = sound[:whole].reshape(-1, _DECIMATION).mean(axis=1)
    return mean
