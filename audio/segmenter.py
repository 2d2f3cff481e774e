"""Frames with speech probabilities → utterances: onset, pre-roll, hangover, endpoint, and a cap on their length.

Pure: it knows no clock and no thread, only frames. All positions are samples at 16 kHz since the session began.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Literal

import numpy as np

from audio.pcm import SAMPLE_RATE, Samples
from audio.vad import FRAME

Ending = Literal["pause", "cap", "stop"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmenterOptions:
    """onset / offset: speech probabilities that begin and end it; between them it goes on as it was.

    endpoint_s: silence that ends an utterance. pre_roll_s: kept from before the onset. min_speech_s: less than
    this much speech is a click, and no utterance. cap_s: longer ones are cut, at the quietest moment of their
    last `seek_s`.
    """

    onset: float = 0.5
    offset: float = 0.35
    onset_frames: int = 2
    endpoint_s: float = 0.5
    pre_roll_s: float = 0.5
    min_speech_s: float = 0.1
    cap_s: float = 15.0
    seek_s: float = 3.0


class Utterance:
    """One stretch of speech with silence around it; memory for the longest is taken at once.

    start, end: of the audio. speech_end: after the last frame of speech. pause_before_s: silence before the
    onset, infinite at the beginning of a session, 0 after a cut. ending: None while it goes on.
    """

    def __init__(self, number: int, start: int, pause_before_s: float, capacity: int) -> None:
        self.number = number
        self.start = start
        self.speech_end = start
        self.pause_before_s = pause_before_s
        self.n_speech_frames = 0
        self.ending: Ending | None = None
        self._audio = np.zeros(capacity, np.float32)
        self._probabilities: list[float] = []

    @property
    def end(self) -> int:
        """Samples since the session began."""
        return self.start + len(self._probabilities) * FRAME

    @property
    def duration_s(self) -> float:
        """Of the audio."""
        return (self.end - self.start) / SAMPLE_RATE

    @property
    def silence_s(self) -> float:
        """Since the last frame of speech."""
        return (self.end - self.speech_end) / SAMPLE_RATE

    @property
    def speech_s(self) -> float:
        """How much of it is speech."""
        return self.n_speech_frames * FRAME / SAMPLE_RATE

    @property
    def is_whole(self) -> bool:
        """Whether it stands between pauses of 0.3 s or more: only then it may be a command."""
        return self.pause_before_s >= 0.3 and self.ending in ("pause", "stop")

    def audio(self) -> Samples:
        """A copy of the samples so far, (n,)."""
        return self._audio[: len(self._probabilities) * FRAME].copy()

    def append(self, frame: Samples, probability: float, *, is_speech: bool) -> None:
        """Add one frame; the caller sees to the cap."""
        at = len(self._probabilities) * FRAME
        self._audio[at : at + FRAME] = frame
        self._probabilities.append(probability)
        if is_speech:
            self.n_speech_frames += 1
            self.speech_end = self.end

    def split(self, seek_s: float, offset: float) -> list[tuple[Samples, float]]:
        """Cut at the quietest moment of the last `seek_s`; return the frames that come after it."""
        n_frames = len(self._probabilities)
        n_seek = min(int(seek_s * SAMPLE_RATE) // FRAME, n_frames - 1)
        tail = np.array(self._probabilities[n_frames - n_seek :])
        smooth = np.convolve(tail, np.ones(3) / 3, mode="same")
        at = n_frames - n_seek + int(np.argmin(smooth[:-1])) + 1
        rest = [
            (self._audio[i * FRAME : (i + 1) * FRAME].copy(), self._probabilities[i])
            for i in range(at, n_frames)
        ]
        del self._probabilities[at:]
        self.n_speech_frames -= sum(probability >= offset for _, probability in rest)
        self.speech_end = min(self.speech_end, self.end)
        return rest


class Segmenter:
    """Feed frames; `current` is the utterance under way, `push` returns one that has just ended."""

    def __init__(self, options: SegmenterOptions | None = None) -> None:
        self.options = options or SegmenterOptions()
        n_pre_roll = max(1, round(self.options.pre_roll_s * SAMPLE_RATE / FRAME))
        self._pre_roll: deque[tuple[Samples, float]] = deque(
            maxlen=n_pre_roll + self.options.onset_frames
        )
        self._cap_frames = int(self.options.cap_s * SAMPLE_RATE) // FRAME
        self._n_frames = 0
        self._n_onset = 0
        self._n_utterances = 0
        self._last_speech: int | None = None
        self.current: Utterance | None = None

    @property
    def position(self) -> int:
        """Samples heard since the session began."""
        return self._n_frames * FRAME

    def push(self, frame: Samples, probability: float) -> Utterance | None:
        """Take one frame, (FRAME,); return the utterance that it ends, if any."""
        self._n_frames += 1
        if self.current is None:
            self._await_onset(frame, probability)
            return None
        self.current.append(frame, probability, is_speech=self._is_speech(probability))
        if self.current.silence_s >= self.options.endpoint_s:
            return self._close("pause")
        if (self.current.end - self.current.start) // FRAME >= self._cap_frames:
            return self._cut()
        return None

    def flush(self) -> Utterance | None:
        """End the utterance under way: the user said stop, or no more sound comes."""
        return self._close("stop") if self.current is not None else None

    def _is_speech(self, probability: float) -> bool:
        assert self.current is not None
        going_on = self.current.silence_s < 0.1
        return probability >= (self.options.offset if going_on else self.options.onset)

    def _await_onset(self, frame: Samples, probability: float) -> None:
        self._pre_roll.append((frame, probability))
        self._n_onset = self._n_onset + 1 if probability >= self.options.onset else 0
        if self._n_onset < self.options.onset_frames:
            return
        onset = self.position - self._n_onset * FRAME
        before = self._last_speech
        pause_s = float("inf") if before is None else (onset - before) / SAMPLE_RATE
        self._open(list(self._pre_roll), pause_s, self._n_onset)

    def _open(self, frames: list[tuple[Samples, float]], pause_s: float, n_speech: int) -> None:
        """Begin an utterance with these frames, the last `n_speech` of which are speech."""
        self._n_utterances += 1
        start = self.position - len(frames) * FRAME
        capacity = (self._cap_frames + len(self._pre_roll) + 1) * FRAME
        self.current = Utterance(self._n_utterances, start, pause_s, capacity)
        for i, (frame, probability) in enumerate(frames):
            self.current.append(frame, probability, is_speech=i >= len(frames) - n_speech)
        self._pre_roll.clear()
        self._n_onset = 0

    def _close(self, ending: Ending) -> Utterance:
        assert self.current is not None
        ended, self.current = self.current, None
        ended.ending = ending
        self._last_speech = ended.speech_end
        return ended

    def _cut(self) -> Utterance:
        """The utterance is as long as one may be: what follows its quietest moment begins the next."""
        assert self.current is not None
        rest = self.current.split(self.options.seek_s, self.options.offset)
        ended = self._close("cap")
        n_speech = len(rest)
        while n_speech and rest[len(rest) - n_speech][1] < self.options.offset:
            n_speech -= 1
        self._open(rest, 0.0, n_speech)
        return ended

    def is_speech_enough(self, utterance: Utterance) -> bool:
        """Whether there was more than a click."""
        return utterance.speech_s >= self.options.min_speech_s
