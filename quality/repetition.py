"""Whether a text goes round in circles.

distinct-n: Li et al. 2016, https://arxiv.org/abs/1510.03055.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

MIN_REPEATS = 3  # a loop is that many equal turns at the end


def distinct_n(units: Sequence[Hashable], n: int) -> float:
    """Different n-grams as a share of all; 1 for a text shorter than n."""
    grams = [tuple(units[start : start + n]) for start in range(len(units) - n + 1)]
    return len(set(grams)) / len(grams) if grams else 1.0


def loop_period(units: Sequence[Hashable], max_period: int) -> int | None:
    """Shortest period up to `max_period` with which the end repeats itself, at least three times and
    over at least as many units as the longest period; None for a text that does not end in a loop."""
    for period in range(1, max_period + 1):
        length = max(MIN_REPEATS * period, max_period)
        if length > len(units):
            continue
        tail = units[len(units) - length :]
        if all(tail[i] == tail[i - period] for i in range(period, length)):
            return period
    return None
