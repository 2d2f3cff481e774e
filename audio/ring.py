"""Where an audio callback puts its samples: fixed memory, one writer, one reader, nothing to wait for."""

from __future__ import annotations

import threading
from collections import deque

import numpy as np

from audio.pcm import Pcm


class Ring:
    """A single-producer, single-consumer ring of int16 samples that knows what it had to drop, and where.

    The counters only grow, and each is written by one side alone, so no lock is held in a callback.
    """

    def __init__(self, n_samples: int) -> None:
        self._capacity = 1 << max(1, n_samples - 1).bit_length()
        self._samples = np.zeros(self._capacity, np.int16)
        self._n_written = 0
        self._n_read = 0
        self._gaps: deque[tuple[int, int]] = deque()
        self._n_skipped = 0  # not yet among the gaps: the writer's own
        self._filled = threading.Event()
        self._has_ended = False
        self.n_dropped = 0

    @property
    def n_free(self) -> int:
        """Samples that fit now; the writer may rely on it."""
        return self._capacity - (self._n_written - self._n_read)

    def write(self, block: Pcm) -> int:
        """Copy what fits; the rest is a gap. Returns how many samples were taken."""
        n = min(len(block), self.n_free)
        if n:
            self._note_gap()
        start = self._n_written & (self._capacity - 1)
        first = min(n, self._capacity - start)
        self._samples[start : start + first] = block[:first]
        self._samples[: n - first] = block[first:n]
        self._n_written += n
        if n < len(block):
            self.n_dropped += len(block) - n
            self.skip(len(block) - n)
        self._filled.set()
        return n

    def skip(self, n_samples: int) -> None:
        """Note that samples were lost here; the reader is told before it gets those that follow."""
        self._n_skipped += n_samples

    def end(self) -> None:
        """No more will come."""
        self._note_gap()
        self._has_ended = True
        self._filled.set()

    def read(self, n_most: int, timeout_s: float) -> tuple[int, Pcm]:
        """Wait for samples; return how many were lost before them, and at most `n_most` of them.

        (0, empty) after the time or at the end: `is_over` tells which.
        """
        if not self._available() and not self._has_ended:
            self._filled.wait(timeout_s)
        self._filled.clear()
        lost = self._pop_gap()
        limit = self._gaps[0][0] if self._gaps else self._n_written
        n = min(n_most, limit - self._n_read)
        start = self._n_read & (self._capacity - 1)
        first = min(n, self._capacity - start)
        block = np.concatenate((self._samples[start : start + first], self._samples[: n - first]))
        self._n_read += n
        return lost, block

    @property
    def is_over(self) -> bool:
        """Whether everything that was written has been read and no more will come."""
        return self._has_ended and not self._available()

    def _available(self) -> bool:
        return self._n_written > self._n_read or bool(self._gaps)

    def _note_gap(self) -> None:
        if self._n_skipped:
            self._gaps.append((self._n_written, self._n_skipped))
            self._n_skipped = 0

    def _pop_gap(self) -> int:
        lost = 0
        while self._gaps and self._gaps[0][0] <= self._n_read:
            lost += self._gaps.popleft()[1]
        return lost
