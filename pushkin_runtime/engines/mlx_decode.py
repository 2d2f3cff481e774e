"""Decoding on MLX: with the sampler on the device wherever it can do the plan, else with the host's."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from pushkin_runtime.engines.base import DecodePlan, Decoder, Step
from pushkin_runtime.engines.host_sampler import HostSampler
from pushkin_runtime.engines.mlx_cache import MlxKVCache
from pushkin_runtime.engines.mlx_errors import translated
from pushkin_runtime.sampler_stages import active_stages
from pushkin_runtime.sampling import Uniforms
from pushkin_runtime.sampling_types import Sampler, SamplingParams
from pushkin_runtime.types import ModelInfo

ON_DEVICE: frozenset[Sampler] = frozenset(("penalties", "top_k", "top_p", "min_p", "temperature"))


class Stepper(Protocol):
    """What decoding needs of the engine."""

    info: ModelInfo

    def next_logits(self, cache: MlxKVCache, tokens: mx.array) -> mx.array:
        """Append one token to each row, lazily; return (n_rows, vocab_size) float32 logits."""


def open_decoder(engine: Stepper, cache: MlxKVCache, plan: DecodePlan) -> Decoder:
    """Return the fastest decoder that can do `plan`; both give the same tokens for the same seed."""
    kind = MlxDecoder if is_on_device(plan) else MlxHostDecoder
    return kind(engine, cache, plan)


def is_on_device(plan: DecodePlan) -> bool:
    """Whether the on-device sampler can do everything `plan` asks for."""
    params = plan.sampling
    stages = active_stages(params)
    if plan.distinct_first and plan.first_logits is None:
        return False
    if plan.logit_bias or plan.n_probs or params.mirostat or not ON_DEVICE.issuperset(stages):
        return False
    if "penalties" in stages:
        is_repetition = not (params.presence_penalty or params.frequency_penalty)
        if "penalties" in stages[1:] or not is_repetition or params.repeat_last_n is not None:
            return False
    return params.dynatemp_range <= 0


class MlxDecoder:
    """See `Decoder`. The next step is launched before the current one's tokens are read."""

    def __init__(self, engine: Stepper, cache: MlxKVCache, plan: DecodePlan) -> None:
        self._engine, self._cache, self._plan = engine, cache, plan
        self._uniforms = Uniforms(plan.seed, plan.n_rows)
        vocab_size = engine.info.vocab_size
        self._seen = mx.broadcast_to(
            _member_mask(plan.recent, vocab_size), (plan.n_rows, vocab_size)
        )
        self._banned = None if plan.banned is None else _member_mask(plan.banned, vocab_size)
        self._n_returned = 0
        self._start = cache.n_tokens
        self._first = HostSampler(plan).first()
        with translated():
            if self._first is None:
                last = mx.array([plan.last_token] * plan.n_rows)
                self._ahead = self._launch(last, plan.first_allowed)
            else:  # what the host has chosen costs no pass, and the next one is on its way
                self._uniforms.next()
                chosen = mx.array(self._first.tokens)
                self._see(chosen)
                self._ahead = self._launch(chosen, None)

    def step(self) -> Step:
        if self._first is not None:
            step, self._first = self._first, None
            self._n_returned += 1
            return step
        with translated():
            tokens, logprobs = self._ahead
            if self._cache.n_tokens < self._engine.info.context_length:
                self._ahead = self._launch(tokens, None)
            step = Step(tuple(np.array(tokens).tolist()), tuple(np.array(logprobs).tolist()))
        self._n_returned += 1
        return step

    def close(self) -> None:
        with translated():
            mx.eval(self._ahead)
        n_fed = self._n_returned - (self._plan.first_logits is not None)
        self._cache.cut(self._start + max(0, n_fed))

    def _launch(
        self, tokens: mx.array, allowed: NDArray[np.int64] | None
    ) -> tuple[mx.array, mx.array]:
        raw = self._engine.next_logits(self._cache, tokens)
        params = self._plan.sampling
        logits = raw
        if params.repetition_penalty != 1.0:
            reduced = mx.where(
                raw > 0, raw / params.repetition_penalty, raw * params.repetition_penalty
            )
            logits = mx.where(self._seen, reduced, raw)
        if self._banned is not None:
            logits = mx.where(self._banned, -mx.inf, logits)
        if allowed is not None:
            logits = mx.where(_member_mask(allowed, raw.shape[-1]), logits, -mx.inf)
        chosen = sample(logits, params, mx.array(self._uniforms.next()))
        logprobs = mx.take_along_axis(raw, chosen[:, None], axis=-1)[:, 0] - mx.logsumexp(
            raw, axis=-1
        )
        self._see(chosen)
        mx.async_eval(chosen, logprobs)
        return chosen, logprobs

    def _see(self, chosen: mx.array) -> None:
        if self._plan.sampling.repetition_penalty != 1.0:
            self._seen = self._seen | (mx.arange(self._seen.shape[-1])[None] == chosen[:, None])


class MlxHostDecoder:
    """See `Decoder`. Reads the logits of each step, so nothing is in flight between two."""

    def __init__(self, engine: Stepper, cache: MlxKVCache, plan: DecodePlan) -> None:
        self._engine, self._cache = engine, cache
        self._sampler = HostSampler(plan)
        self._next = [plan.last_token] * plan.n_rows

    def step(self) -> Step:
        step = self._sampler.first() or self._computed()
        self._next = list(step.tokens)
        return step

    def _computed(self) -> Step:
        with translated():
            logits = np.array(self._engine.next_logits(self._cache, mx.array(self._next)))
        return self._sampler.step(logits)

    def close(self) -> None:
        """Nothing is in flight."""


def sample(logits: mx.array, params: SamplingParams, uniforms: mx.array) -> mx.array:
    """Return (n_rows,) tokens, all on the device; the same result as `sampling.candidates` + `pick`.

    logits: (n_rows, vocab_size) float32, penalties applied. uniforms: (n_rows,) in [0, 1).
    """
    stages = active_stages(params)
    if params.temperature <= 0 and "temperature" in stages:
        return mx.argmax(logits, axis=-1)
    kept = logits - logits.max(axis=-1, keepdims=True)  # its maximum stays 0 through all stages
    for stage in stages:
        kept = _stage(stage, kept, params)
    cumulative = mx.cumsum(mx.softmax(kept, axis=-1, precise=True), axis=-1)
    return (cumulative <= uniforms[:, None] * cumulative[:, -1:]).sum(axis=-1)


def _stage(stage: Sampler, kept: mx.array, params: SamplingParams) -> mx.array:
    """Run one stage on logits (n_rows, vocab_size) whose row maxima are 0; what it drops becomes -inf."""
    match stage:
        case "min_p":
            return mx.where(kept >= math.log(params.min_p), kept, -mx.inf)
        case "top_k":
            return _keep_ranks(kept, mx.array(params.top_k))
        case "top_p":
            ordered = -mx.sort(-kept, axis=-1)
            cumulative = mx.cumsum(mx.softmax(ordered, axis=-1, precise=True), axis=-1)
            return _keep_ranks(kept, (cumulative < params.top_p).sum(axis=-1, keepdims=True) + 1)
        case "temperature":
            return kept / params.temperature
        case _:
            return kept


def _keep_ranks(kept: mx.array, n_kept: mx.array) -> mx.array:
    """Keep the `n_kept` largest of each row, the lower token of equals first."""
    ranks = mx.argsort(mx.argsort(-kept, axis=-1), axis=-1)
    return mx.where(ranks < n_kept, kept, -mx.inf)


def _member_mask(tokens: Sequence[int] | NDArray[np.int64], vocab_size: int) -> mx.array:
    mask = np.zeros(vocab_size, dtype=np.bool_)
    mask[np.asarray(tokens, dtype=np.int64)] = True
    return mx.array(mask)
