"""A dictation without threads: every pass runs the moment it is due, as by a recogniser that takes no time.

There can be no more passes than these, so no more chances to write what was not said, and two runs are equal. The rest is the
product's: the same detector, segmenter, policy, decider and recogniser that a session has.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from audio.decisions import Decider
from audio.events import DictationEvent
from audio.pcm import Samples
from audio.recognizer import Hypothesis
from audio.session import Hearing
from audio.streaming import Streaming, StreamingOptions
from audio.vad import FRAME


@dataclass(slots=True)
class Passes:
    """What the recogniser made of the passes it was given."""

    n: int = 0
    n_none: int = 0
    n_wordless: int = 0

    def count(self, found: Hypothesis) -> None:
        """One more."""
        self.n += 1
        self.n_none += found.kind == "none"
        self.n_wordless += found.kind != "none" and not found.text.strip()


class Lockstep:
    """Push sound at 16 kHz in pieces of any size, then `finish`; events come on the caller's thread."""

    def __init__(
        self,
        hearing: Hearing,
        take: Callable[[DictationEvent], None],
        *,
        mode: Literal["auto", "dictate", "command"] = "auto",
        before: str = "",
        previews: bool = True,
    ) -> None:
        """previews: whether there are passes while somebody is speaking."""
        self.passes = Passes()
        self.has_stopped = False
        self.n_speech_frames = 0
        self._recognizer = hearing.recognizer
        self._voice = hearing.detector.stream()
        options = StreamingOptions(mode=mode, min_first_s=0.25 if previews else math.inf)
        self._onset = options.segmenter.onset
        self.decider = Decider(before, mode, take, self._stop)
        self.streaming = Streaming(options, self.decider, take)
        self._rest: Samples = np.zeros(0, np.float32)

    def push(self, samples: Samples) -> None:
        """Hear them; what comes after a command to stop is not heard."""
        sound = np.concatenate((self._rest, samples))
        whole = len(sound) - len(sound) % FRAME
        for frame in sound[:whole].reshape(-1, FRAME):
            if self.has_stopped:
                return
            probability = self._voice.probability(frame)
            self.n_speech_frames += probability >= self._onset
            self.streaming.push(frame, probability)
            self._run_passes()
        self._rest = sound[whole:]

    def finish(self) -> None:
        """No more sound comes."""
        if not self.has_stopped:
            self.streaming.flush()
            self._run_passes()
            self.streaming.finish()

    def _run_passes(self) -> None:
        while (due := self.streaming.next_pass()) is not None:
            found = self._recognizer.recognize(due.wanted, _never)
            self.passes.count(found)
            self.streaming.finished(due, found, 0.0)

    def _stop(self) -> None:
        self.has_stopped = True


def _never() -> bool:
    return False
