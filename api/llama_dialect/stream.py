"""Completions as a stream: `data:` lines only, never `[DONE]`; the connection ends after the last frame."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from starlette.requests import ClientDisconnect

from api.errors import as_api_error, log_failure
from api.generation_group import GenerationGroup, PromptEvent
from api.json_text import json_bytes
from api.llama_dialect.answers import (
    LlamaCompletionFrame,
    Order,
    final_answer,
    probabilities,
    timings,
)
from pushkin_runtime.types import Delta, Done, Failed, Progress, Started

PING = b":\n\n"
NEVER_S = 3600.0  # between two pings where the client wants none


@dataclass(slots=True)
class _PromptState:
    """What the frames of one prompt tell. at: seconds, monotonic."""

    started_at: float
    n_total: int
    n_cached: int
    first_text_at: float | None = None
    n_predicted: dict[int, int] = field(default_factory=lambda: defaultdict(int))


class CompletionStream:
    """The frames of one request's generations; they come interleaved, told apart by `index`."""

    def __init__(self, order: Order, group: GenerationGroup) -> None:
        self._order = order
        self._group = group
        self._states: dict[int, _PromptState] = {}

    async def frames(
        self, first: list[PromptEvent], ping_interval_s: float
    ) -> AsyncIterator[bytes]:
        """first: the events received so far. Ends after the last answer or an error, or with the client."""
        events = first
        pings = self._order.body.sse_ping_interval != -1
        while True:
            if events:
                frames, is_over = self._of(events)
                if frames:
                    yield frames
                if is_over:
                    return
            elif pings:
                yield PING
            try:
                events = await self._group.next_events(ping_interval_s)
            except ClientDisconnect:
                return

    def _of(self, events: list[PromptEvent]) -> tuple[bytes, bool]:
        """The frames of some events in one piece, and whether they are the last."""
        frames: list[bytes] = []
        for event in events:
            try:
                frames += [_frame(data) for data in self._data(event)]
            except Exception as error:  # noqa: BLE001 - past the headers only a frame can tell
                log_failure(error, self._group.request_id)
                frames.append(_frame(as_api_error(error).llama_body(self._group.request_id)))
                return b"".join(frames), True
        return b"".join(frames), self._group.is_over

    def _data(self, numbered: PromptEvent) -> list[object]:
        prompt, event = numbered
        match event:
            case Started():
                self._states[prompt] = _PromptState(
                    time.monotonic(), event.prompt_tokens, event.cached_tokens
                )
                return self._progress(prompt, event.cached_tokens)
            case Progress(stage="prefill", n_done=n_done):
                return self._progress(prompt, n_done)
            case Delta():
                return self._text(prompt, event)
            case Done(result):
                return [
                    final_answer(self._order, prompt, result, choice) for choice in result.choices
                ]
            case Failed(error):
                raise error
        return []

    def _progress(self, prompt: int, n_done: int) -> list[object]:
        if not self._order.body.return_progress:
            return []
        state = self._states[prompt]
        frame = self._empty(prompt, 0)
        frame["prompt_progress"] = {
            "total": state.n_total,
            "cache": state.n_cached,
            "processed": n_done,
            "time_ms": round((time.monotonic() - state.started_at) * 1000, 3),
        }
        return [frame]

    def _text(self, prompt: int, delta: Delta) -> list[object]:
        state, body = self._states[prompt], self._order.body
        is_first, now = state.first_text_at is None, time.monotonic()
        state.first_text_at = state.first_text_at or now
        state.n_predicted[delta.index] += len(delta.tokens)
        frame = self._empty(prompt, delta.index)
        frame["content"] = delta.text
        frame["tokens"] = [token.token for token in delta.tokens]
        if body.timings_per_token:
            frame["timings"] = timings(
                cache_n=state.n_cached,
                prompt_n=state.n_total - state.n_cached,
                prompt_ms=(state.first_text_at - state.started_at) * 1000,
                predicted_n=state.n_predicted[delta.index],
                predicted_ms=(now - state.first_text_at) * 1000,
            )
        if body.n_probs and delta.tokens:
            frame["completion_probabilities"] = probabilities(self._order, delta.tokens)
        return [*(self._progress(prompt, state.n_total) if is_first else []), frame]

    def _empty(self, prompt: int, choice: int) -> LlamaCompletionFrame:
        state = self._states[prompt]
        return {
            "index": self._order.index(prompt, choice),
            "content": "",
            "tokens": [],
            "stop": False,
            "id_slot": self._order.id_slot,
            "tokens_predicted": state.n_predicted[choice],
            "tokens_evaluated": state.n_total,
        }


def ping_interval_s(order: Order, default_s: float) -> float:
    """How long a stream may stay silent."""
    wanted = order.body.sse_ping_interval
    if wanted is None:
        return default_s
    return NEVER_S if wanted < 1 else float(wanted)


def _frame(data: object) -> bytes:
    return b"data: %b\n\n" % json_bytes(data)
