"""Which keys and values behind an edit still serve: those of text that stands there unchanged, somewhere else.

They are not what reading again would give: they were computed when the text before them was another one, and still
tell of it. How much that changes is measured (`python -m benchmarks.after_edit`), and bounded here: an edit is
small, what follows it at once and what stands before the caret is read again, and whoever wants an answer that can be
had again gets the exact one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pushkin_runtime.sampling_types import SamplingParams
from pushkin_runtime.types import GenerationRequest

MAX_EDIT = 64  # tokens that one edit may take away, and as many that it may put there
REREAD_AFTER = 32  # tokens behind an edit that are read again: what depends on it most
REREAD_BEFORE = 64  # tokens before the end that are read again: what the next token depends on most


@dataclass(frozen=True, slots=True)
class Run:
    """Tokens that two texts share: `n_tokens` of them, from `source` in the old one and from `at` in the new one."""

    source: int
    at: int
    n_tokens: int

    @property
    def end(self) -> int:
        """Where it ends in the new text."""
        return self.at + self.n_tokens


def reusable_runs(
    old: NDArray[np.int64],
    new: NDArray[np.int64],
    *,
    n_same: int,
    min_run: int,
    after: int = REREAD_AFTER,
    before: int = REREAD_BEFORE,
) -> tuple[Run, ...]:
    """Return what of `new` need not be read, in order, of at least `min_run` tokens each.

    n_same: tokens at the beginning that need not be either. after, before: tokens behind each edit and at the end of
    `new` that shall be.
    """
    runs: list[Run] = []
    here, there = common_prefix(old, new), common_prefix(old, new)
    while (found := _resumption(old[here:], new[there:], min_run)) is not None:
        here, there = here + found[0], there + found[1]
        n_tokens = common_prefix(old[here:], new[there:])
        first = max(there + after, n_same)
        last = min(there + n_tokens, len(new) - before)
        if last - first >= min_run:
            runs.append(Run(here + first - there, first, last - first))
        here, there = here + n_tokens, there + n_tokens
    return tuple(runs)


def min_run_of(request: GenerationRequest, sampling: SamplingParams, default: int) -> int:
    """Return how many tokens a run must have to be reused for `request`, 0 for exact answers only.

    default: for those that do not say, of which only drafts may be inexact: a suggestion at the caret, drawn anew each time.
    """
    if request.cache_reuse is not None:
        return request.cache_reuse
    is_draft = (
        request.task == "continue"
        and not (request.ahead or request.raw or request.suffix or request.n_probs)
        and request.prompt_tokens is None
        and request.sampling.seed is None
        and sampling.temperature > 0
    )
    return default if is_draft else 0


def common_prefix(a: NDArray[np.int64], b: NDArray[np.int64]) -> int:
    """Return how many tokens two texts have in common at their beginning."""
    n = min(len(a), len(b))
    different = np.flatnonzero(a[:n] != b[:n])
    return int(different[0]) if len(different) else n


def _resumption(
    old: NDArray[np.int64], new: NDArray[np.int64], min_run: int
) -> tuple[int, int] | None:
    """Where both go on alike for `min_run` tokens, after the fewest that only one has; None if nowhere near."""
    best: tuple[int, int] | None = None
    for shift in range(-MAX_EDIT, MAX_EDIT + 1):  # of the new text against the old one
        here, there = max(0, -shift), max(0, shift)
        reach = MAX_EDIT - abs(shift) + min_run
        a, b = old[here : here + reach], new[there : there + reach]
        n = min(len(a), len(b))
        breaks = np.concatenate(([-1], np.flatnonzero(a[:n] != b[:n]), [n]))
        long = np.flatnonzero(np.diff(breaks) > min_run)
        if len(long):
            skip = int(breaks[long[0]]) + 1
            found = here + skip, there + skip
            if best is None or sum(found) < sum(best):
                best = found
    return best
