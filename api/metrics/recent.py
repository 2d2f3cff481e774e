"""The last minutes in a few numbers, for a person who looks at `pushkin status`."""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from pushkin_runtime.types import Timings, Usage

WINDOW_S = 300.0
_MAX_KEPT = 2048


@dataclass(frozen=True, slots=True, kw_only=True)
class RecentSummary:
    """Of the generations that ended within `window_s`; None where there were none.

    tokens_per_second: decode speed, median. cache_hit_share: of prompt tokens, 0 to 1.
    """

    window_s: float
    n_generations: int
    ttft_p50_ms: float | None
    ttft_p95_ms: float | None
    tokens_per_second: float | None
    cache_hit_share: float | None


class RecentGenerations:
    """Any thread. Bounded: of a burst only the newest are kept."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._kept: deque[tuple[float, Usage, Timings]] = deque(maxlen=_MAX_KEPT)

    def add(self, usage: Usage, timings: Timings) -> None:
        """Remember a generation's numbers."""
        with self._lock:
            self._kept.append((self._clock(), usage, timings))

    def summary(self, window_s: float = WINDOW_S) -> RecentSummary:
        """Return the numbers of now."""
        since = self._clock() - window_s
        with self._lock:
            kept = [entry for entry in self._kept if entry[0] >= since]
        first_texts = [t.ttft_ms for _, _, t in kept if t.ttft_ms is not None]
        speeds = [t.tokens_per_second for _, _, t in kept if t.tokens_per_second > 0]
        n_prompt = sum(usage.prompt_tokens for _, usage, _ in kept)
        n_cached = sum(usage.cached_tokens for _, usage, _ in kept)
        return RecentSummary(
            window_s=window_s,
            n_generations=len(kept),
            ttft_p50_ms=quantile(first_texts, 0.5),
            ttft_p95_ms=quantile(first_texts, 0.95),
            tokens_per_second=quantile(speeds, 0.5),
            cache_hit_share=n_cached / n_prompt if n_prompt else None,
        )


def quantile(values: list[float], share: float) -> float | None:
    """Return the smallest value that at least `share` of all do not exceed (nearest rank)."""
    if not values:
        return None
    ordered = sorted(values)
    rank = math.ceil(round(share * len(ordered), 6))
    return ordered[max(rank, 1) - 1]
