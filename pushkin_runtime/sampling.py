"""Logits → token, on the host: the torch engine's sampler and the oracle of the on-device one.

Default order ("min_p_first", the brief's seven steps, arXiv:2407.01082): logits → probabilities → P_max →
threshold p × P_max → keep what reaches it → renormalise → sample; top-k and top-p cut further, and the
temperature acts on what survived. "temperature_first" scales before any cut (transformers' order);
there a cut at p keeps what min-p first keeps at p^T.

A seed gives one uniform number per token and row (`Uniforms`), and a token is the inverse of the
cumulative distribution in vocabulary order, so the same seed writes the same text on every engine.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pushkin_runtime.types import SamplingOverrides, SamplingParams, Task

FloatArray = NDArray[np.float32]

MIN_P_RANGE = (0.05, 0.15)  # how far a persona may move min-p (brief §5.1)

TASK_SAMPLING: dict[Task, SamplingParams] = {
    "continue": SamplingParams(min_p=0.10),
    "rephrase": SamplingParams(min_p=0.10),
    "story": SamplingParams(min_p=0.07),
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

    def __init__(self, seed: int, n_rows: int) -> None:
        self._streams = [np.random.Generator(np.random.PCG64([seed, row])) for row in range(n_rows)]

    def next(self) -> FloatArray:
        """Return (n_rows,) float32."""
        return np.array([s.random(dtype=np.float32) for s in self._streams], dtype=np.float32)


@dataclass(frozen=True, slots=True)
class Candidates:
    """The surviving tokens of one row, ascending, with probabilities that sum to 1."""

    tokens: NDArray[np.int64]
    probabilities: NDArray[np.float64]


def candidates(logits: FloatArray, params: SamplingParams) -> Candidates:
    """Apply every filter to one row of raw logits (vocab_size,); the arg-max always survives.

    Temperature 0 leaves only the arg-max (the first of equals).
    """
    if params.temperature <= 0:
        best = np.array([int(np.argmax(logits))])
        return Candidates(best, np.ones(1))
    scale = params.temperature if params.order == "temperature_first" else 1.0
    peak = float(logits.max())
    # p >= min_p * P_max in the scaled distribution <=> logit >= peak + scale * ln(min_p)
    floor = peak + scale * math.log(params.min_p) if params.min_p > 0 else -math.inf
    tokens = np.flatnonzero((logits >= floor) & np.isfinite(logits)).astype(np.int64)
    kept = (logits[tokens].astype(np.float64) - peak) / scale
    if 0 < params.top_k < len(tokens):
        tokens, kept = _top_k(tokens, kept, params.top_k)
    if params.top_p < 1:
        tokens, kept = _top_p(tokens, kept, params.top_p)
    if params.order == "min_p_first":
        kept = kept / params.temperature
    return Candidates(tokens, _softmax(kept))


def pick(chosen: Candidates, uniform: float) -> int:
    """Return the token at `uniform` in [0, 1) of the cumulative distribution in vocabulary order."""
    cumulative = np.cumsum(chosen.probabilities)
    index = int(np.searchsorted(cumulative, uniform * cumulative[-1], side="right"))
    return int(chosen.tokens[min(index, len(chosen.tokens) - 1)])


def penalize(logits: FloatArray, seen: NDArray[np.bool_], penalty: float) -> FloatArray:
    """Return logits with every seen token made less likely (CTRL, arXiv:1909.05858 §4.1).

    Positive logits are divided by `penalty`, negative ones multiplied. Shapes: (..., vocab_size).
    """
    if penalty == 1.0:
        return logits
    reduced = np.where(logits > 0, logits / penalty, logits * penalty)
    return np.where(seen, reduced, logits).astype(np.float32)


def log_softmax_at(logits: FloatArray, token: int) -> float:
    """Return the log-probability (nats) of `token` under one row of raw logits."""
    peak = logits.max()
    total = np.exp(logits - peak).sum(dtype=np.float64)
    return float(logits[token]) - float(peak) - math.log(total)


def _top_k(
    tokens: NDArray[np.int64], kept: NDArray[np.float64], k: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    order = np.sort(np.argsort(-kept, kind="stable")[:k])
    return tokens[order], kept[order]


def _top_p(
    tokens: NDArray[np.int64], kept: NDArray[np.float64], top_p: float
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Keep the smallest set of most likely tokens whose probability reaches `top_p`."""
    order = np.argsort(-kept, kind="stable")
    cumulative = np.cumsum(_softmax(kept[order]))
    n_kept = int(np.searchsorted(cumulative, top_p)) + 1
    chosen = np.sort(order[:n_kept])
    return tokens[chosen], kept[chosen]


def _softmax(values: NDArray[np.float64]) -> NDArray[np.float64]:
    exp = np.exp(values - values.max())
    return np.asarray(exp / exp.sum())
