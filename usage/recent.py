"""Answers that may still get feedback: a few, for a while, in memory only."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from usage.records import Answer

MAX_ANSWERS = 256
KEPT_S = 900.0  # a suggestion is taken or left within minutes


@dataclass(slots=True, eq=False)
class Remembered:
    """An answer, and the keys of its choices that somebody saw, once they are in the statistics."""

    answer: Answer
    at: float
    keys: dict[int, int] = field(default_factory=dict)


class RecentAnswers:
    """Any thread. clock: seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, Remembered] = OrderedDict()

    def add(self, answer: Answer) -> None:
        """Remember an answer; the oldest beyond the bounds are forgotten."""
        now = self._clock()
        with self._lock:
            self._kept[answer.request_id] = Remembered(answer, now)
            self._kept.move_to_end(answer.request_id)
            while len(self._kept) > MAX_ANSWERS or self._is_over(now):
                self._kept.popitem(last=False)

    def find(self, request_id: str) -> Remembered | None:
        """Return the answer to a request; None if there was none, or it was too long ago."""
        with self._lock:
            found = self._kept.get(request_id)
        return found if found is not None and self._clock() - found.at <= KEPT_S else None

    def clear(self) -> None:
        """Forget all of them."""
        with self._lock:
            self._kept.clear()

    def _is_over(self, now: float) -> bool:
        return now - next(iter(self._kept.values())).at > KEPT_S
