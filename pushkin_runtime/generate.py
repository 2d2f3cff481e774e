"""The generation loop: prompt → cached prefix → adapters → chunked prefill → decode → scored choices.

A generation is a Python generator that yields after every unit of work (a prefill chunk, a decode step),
so the inference thread can take turns and notice an end within one unit. It yields True for work done and
False when it can only wait (for its adapters). Record before emit: a token
is in the cache's record before the client sees it, and a generation ended anywhere leaves its cache usable.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pushkin_runtime.adapter_pool import AdapterPool, AdapterSet
from pushkin_runtime.choices import Draft, rank, score_suffix, without_near_duplicates
from pushkin_runtime.engines.base import DecodePlan, Decoder, Engine, KVCache, Lora
from pushkin_runtime.handle import GenerationHandle
from pushkin_runtime.observer import ObserverDesk
from pushkin_runtime.persona import NO_PERSONA, PersonaSource
from pushkin_runtime.prompt import RECENT, Prompt, build_prompt, default_max_tokens
from pushkin_runtime.prompt_cache import CacheKey, PromptCache
from pushkin_runtime.sampling import resolve
from pushkin_runtime.text_stream import TextStream
from pushkin_runtime.types import (
    Choice,
    Delta,
    Done,
    FinishReason,
    GenerationResult,
    Progress,
    SamplingParams,
    Started,
    Timings,
    Usage,
)

N_DRAFTS = 3  # how many are written when the best of several is wanted


@dataclass(frozen=True, slots=True)
class Workshop:
    """What every generation works with; owned by the inference thread.

    observers: who watches the units of work. banned: tokens that no answer may contain. on_progress: told
    the number of new tokens (0 for a prefill chunk) as a sign of life.
    """

    engine: Engine
    cache: PromptCache
    adapters: AdapterPool
    persona: PersonaSource
    observers: ObserverDesk
    prefill_chunk: int
    banned: NDArray[np.int64]
    on_progress: Callable[[int], None]

    def close(self) -> None:
        """Release everything; the last call on the thread."""
        self.adapters.close()
        self.cache.clear()
        self.engine.close()
        self.engine.leave_thread()


def unwritable(engine: Engine) -> NDArray[np.int64]:
    """Return the tokens that are never text: specials but the ending ones, and padding of the vocabulary."""
    tokenizer = engine.tokenizer
    padding = range(tokenizer.n_tokens, engine.info.vocab_size)
    return np.array([*(tokenizer.special_ids() - tokenizer.end_ids()), *padding], dtype=np.int64)


@dataclass(slots=True)
class _Clock:
    """When each stage ended, in milliseconds since `submit`."""

    queued: float = 0.0
    conditioned: float = 0.0
    adapted: float = 0.0
    prefilled: float = 0.0
    first_text: float | None = None


@dataclass(slots=True)
class _Row:
    """One alternative being decoded."""

    stream: TextStream
    tokens: list[int] = field(default_factory=list)
    n_restored: int = 0  # tokens that only gave back the healed text; they are not counted
    logprob: float = 0.0
    reason: FinishReason | None = None

    @property
    def score(self) -> float:
        """Mean log-probability per token (nats), -inf without tokens."""
        return self.logprob / len(self.tokens) if self.tokens else -math.inf

    @property
    def n_new(self) -> int:
        """Tokens written for the client."""
        return len(self.tokens) - self.n_restored


class Generation:
    """One request on the inference thread; `run()` is advanced until it is exhausted."""

    def __init__(self, handle: GenerationHandle, shop: Workshop) -> None:
        self.handle = handle
        self._shop = shop
        self._request = handle.request
        self._clock = _Clock()
        self._persona = NO_PERSONA
        self._adapters: AdapterSet = handle.adapters
        self._lora: Lora | None = None
        self._holds_adapters = False
        self._seed = secrets.randbits(53)
        self._sampling = self._resolved()
        self._rows: list[_Row] = []
        self._n_prompt = self._n_cached = 0

    def run(self) -> Iterator[bool]:
        """Do the work, one unit per `next`; the last event is emitted before it ends.

        Raises what the engine, the prompt or an adapter's load raises; the caller reports it.
        """
        try:
            observer = self._shop.observers.observer
            yield from observer.units(self._request.request_id, self._stage, self._work())
        finally:
            self._release_adapters()

    def _stage(self) -> str:
        """What the last unit of work was, for whoever looks on."""
        if self._rows:
            return "decode"
        return "prefill" if self._holds_adapters or not self._adapters.specs else "adapter"

    def _work(self) -> Iterator[bool]:
        clock = self._clock
        clock.queued = clock.conditioned = clock.adapted = clock.prefilled = (
            self.handle.elapsed_ms()
        )
        if self.handle.end_reason() is not None:
            self._emit_done([Draft(0, "", self._end_reason(), -math.inf)])
            return
        request, engine = self._request, self._shop.engine
        self._persona = self._shop.persona.make(request)
        self._sampling = self._resolved()
        clock.conditioned = self.handle.elapsed_ms()
        max_tokens = request.max_tokens or default_max_tokens(request, engine.tokenizer)
        n_context = engine.info.context_length - self._persona.n_rows
        prompt = build_prompt(
            request, engine.tokenizer, n_context=n_context, max_tokens=max_tokens
        ).after(self._persona.rows)
        key = CacheKey(engine.info.digest, self._adapters.key, self._persona.used.version)
        body = prompt.tokens[:-1]
        cache = self._shop.cache.take(key, body)
        self._n_prompt, self._n_cached = len(prompt.tokens), cache.n_tokens
        self._emit_started()
        try:
            yield from self._hold_adapters()
            cache.lora = self._lora
            clock.adapted = self.handle.elapsed_ms()
            yield from self._prefill(cache, prompt)
            clock.prefilled = self.handle.elapsed_ms()
            if self.handle.end_reason() is None:
                yield from self._decode(cache, prompt, max_tokens)
        finally:
            self._keep(key, cache, prompt)
        drafts = self._drafts()
        if request.suffix and self.handle.end_reason() is None:
            drafts = yield from self._score_suffixes(key, prompt, drafts)
        self._release_adapters()  # before the client can hear of the end, and unload them
        self._emit_done(drafts)

    def _resolved(self) -> SamplingParams:
        request = self._request
        return resolve(
            request.task,
            request.sampling,
            persona_min_p=self._persona.min_p,
            fresh_seed=self._seed,
        )

    # -- adapters -------------------------------------------------------------------------------

    def _hold_adapters(self) -> Iterator[bool]:
        """Wait until the adapters are in memory, or the end; raises what loading them raised."""
        pool = self._shop.adapters
        if not pool.is_ready(self._adapters):
            n_total = len(self._adapters.specs)
            self.handle.emit(Progress(stage="loading", n_done=0, n_total=n_total))
        while not pool.is_ready(self._adapters):
            if self.handle.end_reason() is not None:
                return
            yield False
        self._lora = pool.acquire(self._adapters)
        self._holds_adapters = True

    def _release_adapters(self) -> None:
        if self._holds_adapters:
            self._shop.adapters.release(self._adapters)
        self._lora, self._holds_adapters = None, False

    # -- prefill and decode ---------------------------------------------------------------------

    def _prefill(self, cache: KVCache, prompt: Prompt) -> Iterator[bool]:
        n_total = len(prompt.tokens) - 1
        while cache.n_tokens < n_total and self.handle.end_reason() is None:
            start = cache.n_tokens
            stop = min(start + self._shop.prefill_chunk, n_total)
            self._shop.engine.prefill(cache, prompt.segment(start, stop))
            self._shop.on_progress(0)
            if cache.n_tokens < n_total:
                self.handle.emit(Progress(stage="prefill", n_done=cache.n_tokens, n_total=n_total))
            yield True

    def _decode(self, cache: KVCache, prompt: Prompt, max_tokens: int) -> Iterator[bool]:
        n_rows = self._n_rows()
        engine = self._shop.engine
        stop = (*self._request.stop, *prompt.stop)
        self._rows = [
            _Row(TextStream(engine.tokenizer, stop, prompt.healed)) for _ in range(n_rows)
        ]
        live = cache
        if n_rows > 1:
            live = engine.fork(cache, n_tokens=cache.n_tokens, n_rows=n_rows)
        decoder = engine.decode(live, self._plan(prompt, n_rows))
        try:
            while not self.handle.end_reason():
                self._step(decoder, prompt, max_tokens)
                if all(row.reason for row in self._rows):
                    break
                yield True
        finally:
            decoder.close()
        for index, row in enumerate(self._rows):
            row.reason = row.reason or self._end_reason()
            self._show(index, row.stream.finish())

    def _step(self, decoder: Decoder, prompt: Prompt, max_tokens: int) -> None:
        step = decoder.step()
        tokenizer = self._shop.engine.tokenizer
        ends = tokenizer.end_ids()
        self._shop.on_progress(sum(row.reason is None for row in self._rows))
        for index, row in enumerate(self._rows):
            if row.reason is not None:
                continue
            token = step.tokens[index]
            row.tokens.append(token)
            row.logprob += step.logprobs[index]
            if token in ends:
                row.reason = "stop"
                continue
            if len(row.tokens) == 1 and tokenizer.token_bytes(token) == prompt.healed:
                row.n_restored = 1
            text = row.stream.push(token)
            if row.stream.is_stopped:
                row.reason = "stop"
            elif row.n_new >= max_tokens:
                row.reason = "length"
            self._show(index, text)

    def _plan(self, prompt: Prompt, n_rows: int) -> DecodePlan:
        assert self._sampling.seed is not None
        return DecodePlan(
            last_token=prompt.tokens[-1],
            n_rows=n_rows,
            sampling=self._sampling,
            seed=self._sampling.seed,
            recent=prompt.tokens[prompt.n_persona :][-RECENT:],
            first_allowed=prompt.first_allowed,
            banned=self._shop.banned,
        )

    def _keep(self, key: CacheKey, cache: KVCache, prompt: Prompt) -> None:
        """Give the cache back with the record of exactly what it holds."""
        n_fed = cache.n_tokens
        recorded = prompt.tokens + tuple(self._rows[0].tokens if self._rows else ())
        self._shop.cache.put(key, recorded[:n_fed], cache)

    # -- choices --------------------------------------------------------------------------------

    def _n_rows(self) -> int:
        """Rows to decode; greedy ones are all alike, so one is enough."""
        if self._sampling.temperature <= 0:
            return 1
        wants_best = self._request.suffix or self._request.quality != "fast"
        return max(self._request.n, N_DRAFTS) if wants_best else self._request.n

    def _is_ranked(self) -> bool:
        """Whether choices are picked among drafts, and so shown only at the end."""
        return bool(self._request.suffix) or self._request.quality != "fast"

    def _drafts(self) -> list[Draft]:
        if not self._rows:
            return [Draft(0, "", self._end_reason(), -math.inf)]
        return [
            Draft(i, row.stream.text, row.reason or self._end_reason(), row.score)
            for i, row in enumerate(self._rows)
        ]

    def _score_suffixes(
        self, key: CacheKey, prompt: Prompt, drafts: list[Draft]
    ) -> Generator[bool, None, list[Draft]]:
        """Replace each draft's score by how well the suffix follows it."""
        engine = self._shop.engine
        scored = []
        for draft in drafts:
            cache = self._shop.cache.take(key, prompt.tokens[:-1])
            cache.lora = self._lora
            if cache.n_tokens < prompt.n_persona:
                engine.prefill(cache, prompt.segment(cache.n_tokens, prompt.n_persona))
            n_held = cache.n_tokens
            scored.append(score_suffix(engine, cache, prompt, draft, self._request.suffix))
            self._shop.cache.put(key, prompt.tokens[:n_held], cache)
            self._shop.on_progress(0)
            yield True
        return scored

    # -- events ---------------------------------------------------------------------------------

    def _end_reason(self) -> FinishReason:
        return self.handle.end_reason() or "cancelled"

    def _show(self, index: int, text: str) -> None:
        if not text:
            return
        if self._clock.first_text is None:
            self._clock.first_text = self.handle.elapsed_ms()
        if not self._is_ranked():
            self.handle.emit(Delta(index, text))

    def _emit_started(self) -> None:
        self.handle.emit(
            Started(
                request_id=self.handle.request_id,
                model=self._shop.engine.info.id,
                adapters=self._adapters.refs,
                persona=self._persona.used,
                sampling=self._sampling,
                prompt_tokens=self._n_prompt,
                cached_tokens=self._n_cached,
            )
        )

    def _emit_done(self, drafts: list[Draft]) -> None:
        kept = rank(drafts) if self._is_ranked() else drafts
        kept = without_near_duplicates(kept)[: self._request.n]
        if self._is_ranked():
            kept = [Draft(i, d.text, d.reason, d.score) for i, d in enumerate(kept)]
            for draft in kept:
                if draft.text:
                    self.handle.emit(Delta(draft.index, draft.text))
        choices = tuple(
            Choice(index=d.index, text=d.text, finish_reason=d.reason, score=d.score) for d in kept
        )
        self.handle.emit(
            Done(
                GenerationResult(
                    request_id=self.handle.request_id,
                    model=self._shop.engine.info.id,
                    adapters=self._adapters.refs,
                    persona=self._persona.used,
                    sampling=self._sampling,
                    choices=choices,
                    usage=Usage(
                        prompt_tokens=self._n_prompt,
                        cached_tokens=self._n_cached,
                        completion_tokens=sum(row.n_new for row in self._rows),
                    ),
                    timings=self._timings(),
                )
            )
        )

    def _timings(self) -> Timings:
        total = self.handle.elapsed_ms()
        decode_ms = total - self._clock.prefilled if self._rows else 0.0
        n_steps = max((len(row.tokens) for row in self._rows), default=0)
        return Timings(
            queue_ms=self._clock.queued,
            adapter_ms=self._clock.adapted - self._clock.conditioned,
            persona_ms=self._clock.conditioned - self._clock.queued,
            prefill_ms=self._clock.prefilled - self._clock.adapted,
            ttft_ms=self._clock.first_text,
            decode_ms=decode_ms,
            total_ms=total,
            tokens_per_second=n_steps / decode_ms * 1000 if decode_ms > 0 else 0.0,
        )
