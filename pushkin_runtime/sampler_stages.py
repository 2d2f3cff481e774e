"""The stages of llama.cpp's sampler chain, each on the tokens that earlier ones left.

A row is its surviving tokens, ascending, with their logits. What each stage does is described in
llama.cpp's server README and in the papers named below; ties keep the lower token.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pushkin_runtime.dry import Penalties
from pushkin_runtime.sampling_types import Sampler, SamplingParams

LLAMA_ORDER: tuple[Sampler, ...] = (
    "penalties",
    "dry",
    "top_n_sigma",
    "top_k",
    "typ_p",
    "top_p",
    "min_p",
    "xtc",
    "temperature",
)
_ORDERS: dict[str, tuple[Sampler, ...]] = {
    "min_p_first": ("penalties", "min_p", "top_k", "top_p", "temperature"),
    "temperature_first": ("penalties", "temperature", "min_p", "top_k", "top_p"),
}
MAX_XTC_THRESHOLD = 0.5  # above it at most one token can be likely enough, and nothing is excluded


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    """tokens: ascending. logits: theirs, float64, the same shape."""

    tokens: NDArray[np.int64]
    logits: NDArray[np.float64]

    def keep(self, places: NDArray[np.bool_] | NDArray[np.int64]) -> Row:
        """Return the row with the tokens at `places` (a mask, or ascending indices) only."""
        return Row(self.tokens[places], self.logits[places])


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """What the penalties look back on: distinct tokens, ascending, and how often each was there."""

    tokens: NDArray[np.int64]
    counts: NDArray[np.int64]


NOTHING_SEEN = Seen(np.empty(0, np.int64), np.empty(0, np.int64))


def active_stages(params: SamplingParams) -> tuple[Sampler, ...]:
    """Return the stages that change anything, in order; a stage named twice runs twice."""
    order = _ORDERS[params.order] if params.samplers is None else params.samplers
    if params.mirostat:
        order = ("temperature",)
    return tuple(stage for stage in order if _is_active(stage, params))


def run_stage(
    stage: Sampler, row: Row, params: SamplingParams, seen: Seen, dry: Penalties, chance: float
) -> Row:
    """Return what `stage` leaves of a row; never nothing. chance: uniform in [0, 1), for XTC."""
    if stage == "penalties":
        return _penalize(row, params, seen)
    if stage == "dry":
        return _take_off(row, dry)
    return _xtc(row, params, chance) if stage == "xtc" else _STAGES[stage](row, params)


def softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Probabilities that sum to 1."""
    exp = np.exp(logits - logits.max())
    return np.asarray(exp / exp.sum())


def _is_active(stage: Sampler, params: SamplingParams) -> bool:
    match stage:
        case "penalties":
            repetition = params.repetition_penalty != 1.0
            changes = repetition or params.presence_penalty or params.frequency_penalty
            return bool(changes) and params.repeat_last_n != 0
        case "dry":
            has_base = params.dry_base >= 1
            return params.dry_multiplier > 0 and has_base and params.dry_penalty_last_n > 0
        case "top_n_sigma":
            return params.top_n_sigma > 0
        case "top_k":
            return params.top_k > 0
        case "typ_p":
            return params.typical_p < 1
        case "top_p":
            return params.top_p < 1
        case "min_p":
            return params.min_p > 0
        case "xtc":
            return params.xtc_probability > 0 and params.xtc_threshold <= MAX_XTC_THRESHOLD
        case "temperature":
            return params.temperature != 1 or _is_dynamic(params)


def _is_dynamic(params: SamplingParams) -> bool:
    return params.dynatemp_range > 0 and not params.mirostat


def penalized(
    values: NDArray[Any], counts: NDArray[np.int64], params: SamplingParams
) -> NDArray[Any]:
    """Make the logits of seen tokens less likely.

    Repetition (CTRL, arXiv:1909.05858 §4.1): positive logits are divided by the penalty, negative ones
    multiplied. Then the frequency penalty is taken off once for each time, the presence penalty once.
    """
    repetition = params.repetition_penalty
    reduced = np.where(values > 0, values / repetition, values * repetition)
    result: NDArray[Any] = reduced - counts * params.frequency_penalty - params.presence_penalty
    return result


def _penalize(row: Row, params: SamplingParams, seen: Seen) -> Row:
    places, is_left = _places(row, seen.tokens)
    logits = row.logits.copy()
    logits[places] = penalized(logits[places], seen.counts[is_left], params)
    return Row(row.tokens, logits)


def _take_off(row: Row, penalties: Penalties) -> Row:
    places, is_left = _places(row, penalties.tokens)
    logits = row.logits.copy()
    logits[places] -= penalties.amounts[is_left]
    return Row(row.tokens, logits)


def _places(row: Row, tokens: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return the places in a row of those of `tokens` that are left, and which ones are."""
    places = np.searchsorted(row.tokens, tokens)
    is_left = row.tokens[np.minimum(places, len(row.tokens) - 1)] == tokens
    return places[is_left], is_left


def _top_n_sigma(row: Row, params: SamplingParams) -> Row:
    """Keep what is within n standard deviations of the best logit (arXiv:2411.07641)."""
    floor = row.logits.max() - params.top_n_sigma * row.logits.std()
    return row.keep(row.logits >= floor)


def _top_k(row: Row, params: SamplingParams) -> Row:
    k = params.top_k
    if k >= len(row.tokens):
        return row
    kth = np.partition(row.logits, -k)[-k]
    places = np.flatnonzero(row.logits > kth)
    equals = np.flatnonzero(row.logits == kth)[: k - len(places)]
    return row.keep(np.sort(np.concatenate((places, equals))))


def _typical(row: Row, params: SamplingParams) -> Row:
    """Keep the tokens whose information is nearest the expected one, up to `typical_p` (arXiv:2202.00666)."""
    probabilities = softmax(row.logits)
    surprise = -np.log(np.maximum(probabilities, np.finfo(np.float64).tiny))
    entropy = float((probabilities * surprise).sum())
    return _nucleus(row, np.abs(surprise - entropy), probabilities, params.typical_p, passes=True)


def _top_p(row: Row, params: SamplingParams) -> Row:
    """Keep the smallest set of most likely tokens whose probability reaches `top_p` (arXiv:1904.09751)."""
    return _nucleus(row, -row.logits, softmax(row.logits), params.top_p, passes=False)


def _nucleus(
    row: Row,
    rank: NDArray[np.float64],
    probabilities: NDArray[np.float64],
    p: float,
    *,
    passes: bool,
) -> Row:
    """Keep the tokens of lowest `rank` until their probability reaches p, or passes it."""
    order = np.argsort(rank, kind="stable")
    cumulative = np.cumsum(probabilities[order])
    n_kept = int(np.searchsorted(cumulative, p, side="right" if passes else "left")) + 1
    return row.keep(np.sort(order[:n_kept]))


def _min_p(row: Row, params: SamplingParams) -> Row:
    """p >= min_p * P_max <=> logit >= max + ln(min_p) (arXiv:2407.01082)."""
    return row.keep(row.logits >= row.logits.max() + math.log(params.min_p))


def _xtc(row: Row, params: SamplingParams, chance: float) -> Row:
    """With some probability, drop all likely enough tokens but the least likely of them
    (github.com/oobabooga/text-generation-webui/pull/6335)."""
    if chance >= params.xtc_probability:
        return row
    likely = np.flatnonzero(softmax(row.logits) >= params.xtc_threshold)
    if len(likely) < 2:
        return row
    last = likely[np.argsort(-row.logits[likely], kind="stable")[-1]]
    kept = np.ones(len(row.tokens), np.bool_)
    kept[likely] = False
    kept[last] = True
    return row.keep(kept)


def _temperature(row: Row, params: SamplingParams) -> Row:
    temperature = params.temperature
    if _is_dynamic(params):
        temperature = _dynamic_temperature(row, params)
    if temperature <= 0:
        return row.keep(np.array([int(np.argmax(row.logits))]))
    with np.errstate(over="ignore"):  # towards a temperature of zero all but the best are -inf
        return Row(row.tokens, (row.logits - row.logits.max()) / temperature)


def _dynamic_temperature(row: Row, params: SamplingParams) -> float:
    """Between temperature ± range, by the entropy of what is left as a share of the largest possible."""
    low = max(0.0, params.temperature - params.dynatemp_range)
    high = params.temperature + params.dynatemp_range
    if len(row.tokens) < 2:
        return params.temperature
    probabilities = softmax(row.logits)
    logs = np.log(np.maximum(probabilities, np.finfo(np.float64).tiny))
    share = float(-(probabilities * logs).sum()) / math.log(len(row.tokens))
    raised: float = min(1.0, max(0.0, share)) ** params.dynatemp_exponent
    return low + (high - low) * raised


_STAGES: dict[Sampler, Callable[[Row, SamplingParams], Row]] = {
    "top_n_sigma": _top_n_sigma,
    "top_k": _top_k,
    "typ_p": _typical,
    "top_p": _top_p,
    "min_p": _min_p,
    "temperature": _temperature,
}
