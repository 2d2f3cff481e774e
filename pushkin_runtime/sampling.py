"""Logits → token, on the host: the torch engine's sampler and the oracle of the on-device one.

Default order ("min_p_first", the brief's seven steps, arXiv:2407.01082): logits → probabilities → P_max →
threshold p × P_max → keep what reaches it → renormalise → sample; top-k and top-p cut further, and the
temperature acts on what survived. "temperature_first" scales before any cut (transformers' order);
there a cut at p keeps what min-p first keeps at p^T. Any other order can be given (`samplers`).

A seed gives one uniform number per token and row (`Uniforms`), and a token is the inverse of the
cumulative distribution in vocabulary order, so the same seed writes the same text on every engine.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pushkin_runtime.dry import NO_PENALTIES, Penalties
from pushkin_runtime.sampler_stages import (
    NOTHING_SEEN,
    Row,
    Seen,
    active_stages,
    penalized,
    run_stage,
    softmax,
)
from pushkin_runtime.sampling_types import Sampler, SamplingOverrides, SamplingParams
from pushkin_runtime.types import Task, TokenLogprob

FloatArray = NDArray[np.float32]

KEEP_THE_BEST: frozenset[Sampler] = frozenset(
    ("top_n_sigma", "top_k", "top_p", "min_p", "temperature")
)  # stages that leave the arg-max where it is
MIN_P_RANGE = (0.05, 0.15)  # how far a persona may move min-p (brief §5.1)

TASK_SAMPLING: dict[Task, SamplingParams] = {
    "continue": SamplingParams(min_p=0.10),
    "rephrase": SamplingParams(min_p=0.10),
    "story": SamplingParams(min_p=0.07),
    "dictate": SamplingParams(temperature=0.0),  # what was said, not what might have been
}


def resolve(
    task: Task, overrides: SamplingOverrides, *, persona_min_p: float | None, fresh_seed: int
) -> SamplingParams:
    """Return what will be used: the task's defaults, moved by the persona, then by the caller.

    persona_min_p: the persona's wish, held within MIN_P_RANGE; None when there is no persona.
    fresh_seed: taken when the caller gave none.
    """
    params = TASK_SAMPLING[task]
    if persona_min_p is not None:
        low, high = MIN_P_RANGE
        params = replace(params, min_p=min(high, max(low, persona_min_p)))
    given = {
        name: value
        for name in SamplingOverrides.__dataclass_fields__
        if (value := getattr(overrides, name)) is not None
    }
    return replace(params, **{"seed": fresh_seed, **given})


class Uniforms:
    """One uniform number in [0, 1) per row and step; rows have independent streams.

    Source: NumPy's PCG64 seeded with (seed, row), so n alternatives of a seed are stable as n grows.
    """

    def __init__(self, seed: int, n_rows: int, *purpose: int) -> None:
        """purpose: numbers that make another set of streams of the same seed."""
        self._streams = [
            np.random.Generator(np.random.PCG64([seed, row, *purpose])) for row in range(n_rows)
        ]

    def next(self) -> FloatArray:
        """Return (n_rows,) float32."""
        return np.array([s.random(dtype=np.float32) for s in self._streams], dtype=np.float32)


@dataclass(frozen=True, slots=True)
class Candidates:
    """The surviving tokens of one row, ascending, with probabilities that sum to 1."""

    tokens: NDArray[np.int64]
    probabilities: NDArray[np.float64]


def candidates(
    logits: FloatArray,
    params: SamplingParams,
    seen: Seen = NOTHING_SEEN,
    chance: float = 0.0,
    dry: Penalties = NO_PENALTIES,
) -> Candidates:
    """Run every stage on one row of raw logits (vocab_size,), at least one finite.

    Temperature 0 leaves only the arg-max (the first of equals). chance: uniform in [0, 1), for XTC.
    """
    stages = active_stages(params)
    if stages[:1] == ("penalties",):
        logits, stages = logits.copy(), stages[1:]
        logits[seen.tokens] = penalized(logits[seen.tokens], seen.counts, params)
    if stages[:1] == ("dry",):
        logits, stages = logits.copy(), stages[1:]
        logits[dry.tokens] -= dry.amounts
    is_greedy = params.temperature <= 0 and params.dynatemp_range <= 0 and "temperature" in stages
    if is_greedy and KEEP_THE_BEST.issuperset(stages):
        return Candidates(np.array([int(np.argmax(logits))]), np.ones(1))
    tokens, stages = _first_cut(logits, params, stages)
    row = Row(tokens, logits[tokens].astype(np.float64))
    for stage in stages:
        row = run_stage(stage, row, params, seen, dry, chance)
    return Candidates(row.tokens, softmax(row.logits))


def _first_cut(
    logits: FloatArray, params: SamplingParams, stages: tuple[Sampler, ...]
) -> tuple[NDArray[np.int64], tuple[Sampler, ...]]:
    """Return the tokens to begin with, and the stages that are left to run on them.

    A first min-p or top-k makes a large vocabulary small at once; in float32, as the on-device sampler does.
    """
    floor = float(np.finfo(np.float32).min)
    if stages[:1] == ("min_p",):
        floor, stages = float(logits.max()) + math.log(params.min_p), stages[1:]
    elif stages[:1] == ("top_k",) and params.top_k < len(logits):
        floor = float(
            np.partition(logits, -params.top_k)[-params.top_k]
        )  # equals are told apart later
    least = max(floor, float(np.finfo(np.float32).min))
    return np.flatnonzero(logits >= least).astype(np.int64), stages


def pick(chosen: Candidates, uniform: float) -> int:
    """Return the token at `uniform` in [0, 1) of the cumulative distribution in vocabulary order."""
    cumulative = np.cumsum(chosen.probabilities)
    index = int(np.searchsorted(cumulative, uniform * cumulative[-1], side="right"))
    return int(chosen.tokens[min(index, len(chosen.tokens) - 1)])


def pick_distinct(rows: Sequence[Candidates], uniforms: FloatArray | None) -> list[int]:
    """Return a token for each row, all different as long as a row has candidates that no earlier one took.

    uniforms: one per row, in [0, 1); None takes the likeliest that is free, for greedy rows. Sampling without replacement, one row after another; for equal rows that is the distribution of Gumbel-top-k
    (Kool et al., arXiv:1903.06059). The first row gets what `pick` gives it, and more rows change no earlier one.
    A row without a candidate of its own is picked as if it were alone.
    """
    taken: list[int] = []
    for place, row in enumerate(rows):
        is_free = ~np.isin(row.tokens, taken)
        free = Candidates(row.tokens[is_free], row.probabilities[is_free])
        left = free if len(free.tokens) else row
        if uniforms is None:
            taken.append(int(left.tokens[left.probabilities.argmax()]))
        else:
            taken.append(pick(left, float(uniforms[place])))
    return taken


def log_softmax_at(logits: FloatArray, token: int) -> float:
    """Return the log-probability (nats) of `token` under one row of raw logits."""
    peak = logits.max()
    total = np.exp(logits - peak).sum(dtype=np.float64)
    return float(logits[token]) - float(peak) - math.log(total)


def token_logprob(logits: FloatArray, token: int, n_top: int) -> TokenLogprob:
    """Return `token` under one row of raw logits, with the `n_top` likeliest beside it."""
    peak = logits.max()
    total = float(peak) + math.log(np.exp(logits - peak).sum(dtype=np.float64))
    best = largest(logits, n_top)
    top = tuple((int(t), float(logits[t]) - total) for t in best if np.isfinite(logits[t]))
    return TokenLogprob(token, float(logits[token]) - total, top)


def sampled_logprob(chosen: Candidates, token: int, n_top: int) -> TokenLogprob:
    """Return `token` as the samplers left it, with the `n_top` likeliest survivors."""
    probabilities = np.maximum(chosen.probabilities, np.finfo(np.float64).tiny)
    best = largest(probabilities, n_top)
    top = tuple((int(chosen.tokens[i]), math.log(probabilities[i])) for i in best)
    [place] = np.flatnonzero(chosen.tokens == token)
    return TokenLogprob(token, math.log(probabilities[place]), top)


def largest(values: NDArray[np.floating[Any]], n: int) -> NDArray[np.int64]:
    """Return the places of the n largest values, best first, the lower place of equals first."""
    n = min(n, len(values))
    if n == 0:
        return np.empty(0, np.int64)
    floor = np.partition(values, -n)[-n]
    places = np.flatnonzero(values >= floor)
    return places[np.argsort(-values[places], kind="stable")[:n]].astype(np.int64)
