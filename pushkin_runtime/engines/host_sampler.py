"""A decode's rows from raw logits to tokens, on the host: bans and biases, samplers, probabilities.

The torch and onnx engines sample with it always, an engine with a sampler on the device for what that one cannot do.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from pushkin_runtime.dry import NO_PENALTIES, Dry, DryContext
from pushkin_runtime.engines.base import DecodePlan, Step
from pushkin_runtime.errors import EngineFailed
from pushkin_runtime.mirostat import Mirostat
from pushkin_runtime.sampler_stages import NOTHING_SEEN, Seen, active_stages
from pushkin_runtime.sampling import (
    Candidates,
    FloatArray,
    Uniforms,
    candidates,
    log_softmax_at,
    pick,
    pick_distinct,
    sampled_logprob,
    token_logprob,
)
from pushkin_runtime.types import TokenLogprob


class HostSampler:
    """Owned by one decoder. Remembers what its rows have written, for the penalties, DRY and mirostat."""

    def __init__(self, plan: DecodePlan) -> None:
        self._plan = plan
        self._uniforms = Uniforms(plan.seed, plan.n_rows)
        stages = active_stages(plan.sampling)
        self._chances = Uniforms(plan.seed, plan.n_rows, 1) if "xtc" in stages else None
        self._is_penalizing = "penalties" in stages
        self._history = [list(plan.recent) for _ in range(plan.n_rows)]
        self._dry = _dry_rows(plan) if "dry" in stages else ()
        self._mirostat = tuple(
            Mirostat(plan.sampling) for _ in range(plan.n_rows if plan.sampling.mirostat else 0)
        )
        self._is_first = True
        self._bias = np.array([bias for _, bias in plan.logit_bias], np.float32)
        self._biased = np.array([token for token, _ in plan.logit_bias], np.int64)

    def first(self) -> Step | None:
        """The first step, from `plan.first_logits`; None without them, or when it has been taken."""
        first = self._plan.first_logits
        if first is None or not self._is_first:
            return None
        return self.step(np.broadcast_to(first, (self._plan.n_rows, len(first))))

    def step(self, raw: FloatArray) -> Step:
        """Choose a token for each row of raw logits (n_rows, vocab_size).

        Raises EngineFailed when biases and bans leave no token.
        """
        params, is_greedy = self._plan.sampling, self._plan.sampling.temperature <= 0
        is_distinct = self._is_first and self._plan.distinct_first
        if is_distinct and is_greedy:
            params = replace(params, temperature=1.0)  # it is the filtered ones that are ranked
        uniforms = self._uniforms.next()
        chances = np.zeros(len(raw)) if self._chances is None else self._chances.next()
        left = [
            candidates(
                self._adjusted(logits),
                params,
                self._seen(row),
                float(chances[row]),
                self._dry[row].penalties() if self._dry else NO_PENALTIES,
            )
            for row, logits in enumerate(raw)
        ]
        if self._mirostat:
            left = [m.cut(row, raw.shape[1]) for m, row in zip(self._mirostat, left, strict=True)]
        if is_distinct:
            tokens = pick_distinct(left, None if is_greedy else uniforms)
        else:
            tokens = [pick(left[row], float(uniforms[row])) for row in range(len(raw))]
        logprobs, details = [], []
        for row, (logits, token) in enumerate(zip(raw, tokens, strict=True)):
            logprobs.append(log_softmax_at(logits, token))
            if self._plan.n_probs:
                details.append(self._detail(logits, left[row], token))
            self._remember(row, token, left[row])
        self._is_first = False
        return Step(tuple(tokens), tuple(logprobs), tuple(details))

    def _remember(self, row: int, token: int, left: Candidates) -> None:
        if self._is_penalizing:
            self._history[row].append(token)
        if self._dry:
            self._dry[row].push(token)
        if self._mirostat:
            self._mirostat[row].observe(left, token)

    def _adjusted(self, raw: FloatArray) -> FloatArray:
        """Return one row of logits with biases, bans and the first step's constraint."""
        plan = self._plan
        logits = raw
        if len(self._biased):
            logits = logits.copy()
            np.add.at(logits, self._biased, self._bias)
        allowed = plan.first_allowed if self._is_first else None
        if allowed is not None:
            constrained = np.full_like(logits, -np.inf)
            constrained[allowed] = logits[allowed]
            logits = constrained
        if plan.banned is not None:
            logits = logits.copy()
            logits[plan.banned] = -np.inf
        if not math.isfinite(logits.max()):
            raise EngineFailed("No token is left to choose: logit_bias bans them all.")
        return logits

    def _seen(self, row: int) -> Seen:
        if not self._is_penalizing:
            return NOTHING_SEEN
        last_n = self._plan.sampling.repeat_last_n
        history = self._history[row] if last_n is None else self._history[row][-last_n:]
        return Seen(*np.unique(np.array(history, np.int64), return_counts=True))

    def _detail(self, raw: FloatArray, left: Candidates, token: int) -> TokenLogprob:
        if self._plan.post_sampling_probs:
            return sampled_logprob(left, token, self._plan.n_probs)
        return token_logprob(raw, token, self._plan.n_probs)


def _dry_rows(plan: DecodePlan) -> tuple[Dry, ...]:
    context = plan.dry or DryContext((), lambda _: b"")
    first = Dry(plan.sampling, context)
    return (first, *(first.fork() for _ in range(plan.n_rows - 1)))


class HostDecoder:
    """See `Decoder`. Works on the calling thread, nothing in flight.

    next_logits: appends a token to each row of the cache and returns (n_rows, vocab_size) raw logits.
    """

    def __init__(
        self, next_logits: Callable[[Sequence[int]], FloatArray], plan: DecodePlan
    ) -> None:
        self._next_logits = next_logits
        self._sampler = HostSampler(plan)
        self._next = [plan.last_token] * plan.n_rows

    def step(self) -> Step:
        step = self._sampler.first()
        if step is None:
            step = self._sampler.step(self._next_logits(self._next))
        self._next = list(step.tokens)
        return step

    def close(self) -> None:
        """Nothing is in flight."""
