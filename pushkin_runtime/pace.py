"""How fast something that is full moves on: what `Retry-After` is made from."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

MAX_RETRY_AFTER_S = 60
_NEW = 0.2  # weight of the newest interval in the measured one


class Pace:
    """The mean time between two places becoming free while others are wanted. Not thread-safe."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._moved_at: float | None = None
        self._interval_s: float | None = None

    def moved(self, *, is_wanted: bool) -> None:
        """A place became free. is_wanted: others are still in use or waited for, so the next counts too."""
        now = self._clock()
        if self._moved_at is not None:
            took_s = now - self._moved_at
            known_s = self._interval_s
            self._interval_s = took_s if known_s is None else known_s + _NEW * (took_s - known_s)
        self._moved_at = now if is_wanted else None

    def retry_after_s(self, n_places: int = 1) -> int:
        """Whole seconds until so many places should have become free: 1 to MAX_RETRY_AFTER_S."""
        return min(MAX_RETRY_AFTER_S, max(1, math.ceil((self._interval_s or 0.0) * n_places)))
