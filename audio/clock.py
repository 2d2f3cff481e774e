"""How much sound should have come by now: the only way to notice what a sound system lost.

PortAudio's overflow flag is not set when a slow callback loses a third of the sound, and a stream whose device was
unplugged stays "active". So delivered samples are compared with a monotonic clock.
"""

from __future__ import annotations

from collections import deque

MIN_LOSS_S = 0.1
CONFIRM_S = 0.5  # a sound server that was stalled delivers what it kept within this time
STALL_S = 1.0
MAX_DRIFT = 500e-6  # between a device's quartz and the computer's, samples per sample


class AudioClock:
    """Times are seconds of one monotonic clock. Not thread-safe."""

    def __init__(self, rate: int) -> None:
        self._rate = rate
        self._n_delivered = 0
        self._started: float | None = None
        self._last = 0.0
        self._punctual = 0.0  # the lateness of a block that waited for nothing, drift included
        self._recent: deque[tuple[float, float]] = deque()  # (when, lateness), of CONFIRM_S
        self._behind_since: float | None = None

    @property
    def n_delivered(self) -> int:
        """Samples so far, those known to be lost included."""
        return self._n_delivered

    def deliver(self, n_samples: int, now: float) -> int:
        """Count a block that arrived at `now`; return how many samples before it turn out to be lost."""
        if self._started is None:
            self._started = now - n_samples / self._rate
            self._last = now
        elapsed, self._last = now - self._last, now
        self._n_delivered += n_samples
        lateness = (now - self._started) - self._n_delivered / self._rate
        self._recent.append((now, lateness))
        while now - self._recent[0][0] > CONFIRM_S:
            self._recent.popleft()
        return self._judge(lateness, elapsed, now)

    def is_stalled(self, now: float) -> bool:
        """Whether the sound has stopped coming; False before the first block."""
        return self._started is not None and now - self._last > STALL_S

    def _judge(self, lateness: float, elapsed: float, now: float) -> int:
        if lateness - self._punctual < MIN_LOSS_S:
            self._behind_since = None
            self._follow(elapsed)
            return 0
        if self._behind_since is None:
            self._behind_since = now
        if now - self._behind_since < CONFIRM_S:
            return 0
        deficit = min(late for _, late in self._recent) - self._punctual
        if deficit < MIN_LOSS_S:
            return 0
        lost = round(deficit * self._rate)
        self._n_delivered += lost
        self._recent = deque((when, late - deficit) for when, late in self._recent)
        self._behind_since = None
        return lost

    def _follow(self, elapsed: float) -> None:
        """Let the punctual lateness follow the earliest recent block, as slowly as clocks drift."""
        earliest = min(late for _, late in self._recent)
        step = max(MAX_DRIFT * elapsed, 0.0)
        if earliest < self._punctual:
            self._punctual = earliest
        else:
            self._punctual = min(earliest, self._punctual + step)
