"""The generation loop: prompt → cached prefix → adapters → chunked prefill → decode → scored choices.

A generation is a Python generator that yields after every unit of work (a prefill chunk, a decode step),
so the inference thread can take turns and notice an end within one unit. It yields True for work done and False when it
can only wait. Record before emit: the cache has a token before the client, and any end leaves it usable.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Generator, Iterator
from dataclasses import replace

import numpy as np

from pushkin_runtime.adapter_pool import AdapterSet
from pushkin_runtime.cache_reuse import min_run_of
from pushkin_runtime.choices import Draft, rank, score_suffix, without_near_duplicates
from pushkin_runtime.dictation import decide, heard_draft
from pushkin_runtime.dry import DryContext
from pushkin_runtime.engines.base import DecodePlan, Decoder, Lora
from pushkin_runtime.handle import GenerationHandle
from pushkin_runtime.lookup import VERIFYING, Drafter, LookupDecoder
from pushkin_runtime.persona import NO_PERSONA
from pushkin_runtime.prompt import (
    RECENT,
    Prompt,
    build_prompt,
    default_max_tokens,
    speech_limit,
)
from pushkin_runtime.prompt_cache import CacheKey, Prefix
from pushkin_runtime.reading import PromptReader
from pushkin_runtime.row import Row, RowRules
from pushkin_runtime.sampler_stages import active_stages
from pushkin_runtime.sampling import resolve
from pushkin_runtime.sampling_types import SamplingParams
from pushkin_runtime.speech_types import SpeechDecision
from pushkin_runtime.stage_clock import StageClock
from pushkin_runtime.text_stream import opening_of
from pushkin_runtime.types import (
    Delta,
    Done,
    FinishReason,
    GenerationResult,
    Progress,
    Started,
    TokenLogprob,
    Usage,
)
from pushkin_runtime.workshop import Workshop

N_DRAFTS = 3  # how many are written when the best of several is wanted


class Generation:
    """One request on the inference thread; `run()` is advanced until it is exhausted."""

    def __init__(self, handle: GenerationHandle, shop: Workshop) -> None:
        self.handle = handle
        self._shop = shop
        self._request = handle.request
        self._clock = StageClock()
        self._persona = NO_PERSONA
        self._adapters: AdapterSet = handle.adapters
        self._lora: Lora | None = None
        self._holds_adapters = False
        self._seed = secrets.randbits(53)
        self._sampling = self._resolved()
        self._rows: list[Row] = []
        self._reader = PromptReader(shop, handle)
        self._n_prompt = self._n_cached = 0
        self._is_truncated = False
        self._decision: SpeechDecision | None = None

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

    def _work(self) -> Generator[bool, None, None]:
        clock = self._clock
        clock.leave_queue(self.handle.elapsed_ms())
        if self.handle.end_reason() is not None:
            self._emit_done([Draft(0, "", self._end_reason(), -math.inf)])
            return
        request, engine = self._request, self._shop.engine
        self._persona = self._shop.persona.make(request)
        self._sampling = self._resolved()
        clock.conditioned = self.handle.elapsed_ms()
        max_tokens = request.max_tokens
        if max_tokens is None:
            max_tokens = default_max_tokens(request, engine.tokenizer)
        if request.speech is not None:
            max_tokens = min(max_tokens, speech_limit(request.speech))
        n_context = engine.info.context_length - self._persona.n_rows
        prompt = build_prompt(
            request, engine.tokenizer, n_context=n_context, max_tokens=max_tokens
        ).after(self._persona.rows)
        if request.ahead:
            max_tokens = 0  # the prompt is laid out as for the real one
        key = CacheKey(engine.info.digest, self._adapters.key, self._persona.used.version)
        is_known = request.reuse_cache and not request.prompt_logprobs
        min_run = min_run_of(request, self._sampling, self._shop.cache_reuse)
        known = self._shop.cache.take(key, prompt.tokens, min_run=min_run) if is_known else None
        prefix = known or Prefix(engine.new_cache())
        self._n_prompt, self._n_cached = len(prompt.tokens), prefix.n_known
        self._is_truncated = prompt.is_cut
        self._emit_started()
        try:
            yield from self._hold_adapters()
            prefix.cache.lora = self._lora
            clock.adapted = self.handle.elapsed_ms()
            yield from self._reader.read(prefix, prompt)
            if request.speech is not None and max_tokens > 0 and prefix.logits is not None:
                prompt, self._decision = decide(engine.tokenizer, prefix.logits, prompt)
                if self._decision.kind == "none" or request.speech.heard is not None:
                    max_tokens = 0
                else:
                    yield from self._reader.read(prefix, prompt)
            clock.prefilled = self.handle.elapsed_ms()
            if self.handle.end_reason() is None and max_tokens > 0:
                yield from self._decode(prefix, prompt, max_tokens)
        finally:
            self._keep(key, prefix, prompt)
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

    # -- decode ---------------------------------------------------------------------------------

    def _decode(self, prefix: Prefix, prompt: Prompt, max_tokens: int) -> Iterator[bool]:
        n_rows = self._n_rows()
        engine, cache = self._shop.engine, prefix.cache
        n_left = engine.info.context_length - len(prompt.tokens)
        rules = RowRules(
            tokenizer=engine.tokenizer,
            max_tokens=min(max_tokens, n_left),
            ends=engine.tokenizer.end_ids(),
            stop=(*self._request.stop, *prompt.stop),
            healed=prompt.healed,
            opening=opening_of(self._request.suffix),
            keeps_tokens=self._request.wants_tokens,
        )
        self._rows = [Row(rules) for _ in range(n_rows)]
        live = cache
        if n_rows > 1:
            live = engine.fork(cache, n_tokens=cache.n_tokens, n_rows=n_rows)
        plan = self._plan(prefix, prompt, n_rows)
        decoder: Decoder
        if (
            n_rows == 1
            and engine.name in VERIFYING
            and self._request.task in self._shop.lookup_tasks
        ):
            drafter = Drafter(
                prompt.tokens, copied_from=prompt.copied_from, room=min(max_tokens, n_left)
            )
            decoder = LookupDecoder(engine, live, plan, drafter)
        else:
            decoder = engine.decode(live, plan)
        try:
            while not self.handle.end_reason():
                ran_model = self._step(decoder)
                if all(row.reason for row in self._rows):
                    break
                if ran_model:  # else it cost nobody a turn
                    yield True
        finally:
            decoder.close()
        for index, row in enumerate(self._rows):
            row.end(self._end_reason())
            self._is_truncated |= row.stop_cause == "limit" and row.n_new >= n_left
            self._show(index, row.stream.finish())

    def _step(self, decoder: Decoder) -> bool:
        """Take a token for every row; whether the model ran for it: the first is chosen from known logits."""
        ran_model = bool(self._rows[0].tokens)
        step = decoder.step()
        if isinstance(decoder, LookupDecoder):
            ran_model = decoder.has_run
        self._shop.on_progress(sum(row.reason is None for row in self._rows), ran_model)
        for index, row in enumerate(self._rows):
            if row.reason is not None:
                continue
            text = row.push(step, index)
            if self._is_slow() and "\n" in row.stream.text:
                row.end("length", "limit")
            self._show(index, text, tuple(row.kept[-1:]))
        return ran_model

    def _is_slow(self) -> bool:
        """Whether decoding has taken longer than the request gives a text with a newline."""
        limit = self._request.decode_ms
        return limit is not None and self.handle.elapsed_ms() - self._clock.prefilled > limit

    def _plan(self, prefix: Prefix, prompt: Prompt, n_rows: int) -> DecodePlan:
        assert self._sampling.seed is not None
        request, banned = self._request, self._shop.banned
        if request.ignore_eos:
            ends = self._shop.engine.tokenizer.end_ids()
            banned = np.concatenate((banned, np.array(sorted(ends), np.int64)))
        n_recent = max(RECENT, self._sampling.repeat_last_n or 0)
        return DecodePlan(
            last_token=prompt.tokens[-1],
            n_rows=n_rows,
            sampling=self._sampling,
            seed=self._sampling.seed,
            recent=prompt.recent(n_recent),
            dry=self._dry_context(prompt),
            first_allowed=prompt.first_allowed,
            banned=banned,
            logit_bias=request.logit_bias,
            n_probs=request.n_probs,
            post_sampling_probs=request.post_sampling_probs,
            first_logits=prefix.logits,
            distinct_first=request.distinct and n_rows > 1,
        )

    def _dry_context(self, prompt: Prompt) -> DryContext | None:
        if "dry" not in active_stages(self._sampling):
            return None
        tokens = prompt.recent(self._sampling.dry_penalty_last_n)
        return DryContext(tokens, self._shop.engine.tokenizer.piece)

    def _keep(self, key: CacheKey, prefix: Prefix, prompt: Prompt) -> None:
        """Give the cache back with the record of exactly what it holds."""
        recorded = prompt.tokens + tuple(self._rows[0].tokens if self._rows else ())
        self._shop.cache.put(key, recorded, prefix)
        if not prefix.is_exact:
            self._shop.renewal.want(key, self._adapters)

    # -- choices --------------------------------------------------------------------------------

    def _n_rows(self) -> int:
        """Rows to decode: what is asked for, more of them when the best is to be chosen."""
        if not self._request.distinct:
            return self._request.n
        wants_best = self._request.suffix or self._request.quality != "fast"
        return max(self._request.n, N_DRAFTS) if wants_best else self._request.n

    def _is_ranked(self) -> bool:
        """Whether choices are picked among drafts, and so shown only at the end."""
        return bool(self._request.suffix) or self._request.quality != "fast"

    def _drafts(self) -> list[Draft]:
        if self._rows:
            return [row.draft(index) for index, row in enumerate(self._rows)]
        reason = self.handle.end_reason()
        if reason is not None:
            return [Draft(0, "", reason, -math.inf)]
        if self._decision is not None:
            said = heard_draft(self._shop.engine.tokenizer, self._decision, self._request.speech)
            self._show(0, said.text)
            return [said]
        return [Draft(0, "", "length", -math.inf, stop_cause="limit")]  # only the cache was filled

    def _score_suffixes(
        self, key: CacheKey, prompt: Prompt, drafts: list[Draft]
    ) -> Generator[bool, None, list[Draft]]:
        """Replace each draft's score by how well the suffix follows it."""
        engine = self._shop.engine
        scored = []
        for draft in drafts:
            prefix = self._shop.cache.take(key, prompt.tokens)
            prefix.cache.lora = self._lora
            yield from self._reader.read(prefix, prompt)  # nothing, if it could be kept
            scored.append(score_suffix(engine, prefix, prompt, draft, self._request.suffix))
            self._shop.cache.put(key, prompt.tokens, prefix)
            self._shop.on_progress(0, True)
            yield True
        return scored

    # -- events ---------------------------------------------------------------------------------

    def _end_reason(self) -> FinishReason:
        return self.handle.end_reason() or "cancelled"

    def _show(self, index: int, text: str, tokens: tuple[TokenLogprob, ...] = ()) -> None:
        if not text and not tokens:
            return
        if text and self._clock.first_text is None:
            self._clock.first_text = self.handle.elapsed_ms()
        if not self._is_ranked():
            self.handle.emit(Delta(index, text, tokens))

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
        if self._request.distinct:
            kept = without_near_duplicates(kept)
        kept = kept[: self._request.n]
        if self._is_ranked():
            kept = [replace(draft, index=i) for i, draft in enumerate(kept)]
            for draft in kept:
                if draft.text:
                    self.handle.emit(Delta(draft.index, draft.text, draft.tokens))
        n_steps = max((len(row.tokens) for row in self._rows), default=0)
        self.handle.emit(
            Done(
                GenerationResult(
                    request_id=self.handle.request_id,
                    model=self._shop.engine.info.id,
                    adapters=self._adapters.refs,
                    persona=self._persona.used,
                    sampling=self._sampling,
                    choices=tuple(draft.choice() for draft in kept),
                    usage=Usage(
                        prompt_tokens=self._n_prompt,
                        cached_tokens=self._n_cached,
                        completion_tokens=sum(row.n_new for row in self._rows),
                    ),
                    timings=self._clock.timings(self.handle.elapsed_ms(), n_steps),
                    truncated=self._is_truncated,
                    prompt_logprobs=tuple(self._reader.logprobs),
                    speech=self._decision,
                )
            )
        )
