"""What clients receive, as typed dicts: rendered by hand on the hot path, shown as schemas in OpenAPI."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, NotRequired

from typing_extensions import TypedDict

from pushkin_runtime.sampling_types import SamplingOrder, SamplingParams
from pushkin_runtime.types import (
    AdapterRef,
    Choice,
    Delta,
    FinishReason,
    GenerationResult,
    PersonaUsed,
    Progress,
    Started,
    Timings,
    Usage,
)
from quality.changes import Category, Change, Kind, changes_between


class AdapterAnswer(TypedDict):
    name: str
    scale: float


class PersonaSourceAnswer(TypedDict):
    document_id: str
    weight: float


class PersonaAnswer(TypedDict):
    version: int
    strength: float
    sources: list[PersonaSourceAnswer]


class SamplingAnswer(TypedDict):
    """The values that were used, `seed` included."""

    temperature: float
    min_p: float
    top_p: float
    top_k: int
    repetition_penalty: float
    seed: int | None
    order: SamplingOrder


class ChangeAnswer(TypedDict):
    """`offset_utf16` and `length_utf16` are a range of the original selection (an NSRange)."""

    kind: Kind
    offset_utf16: int
    length_utf16: int
    old: str
    new: str
    category: Category


class ChoiceAnswer(TypedDict):
    """`score`: mean log-probability per token (nats); null when nothing was generated."""

    index: int
    text: str
    finish_reason: FinishReason
    score: float | None
    changes: NotRequired[list[ChangeAnswer]]


class UsageAnswer(TypedDict):
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int


class TimingsAnswer(TypedDict):
    """Milliseconds; `ttft_ms` is null when no text was produced."""

    queue_ms: float
    adapter_ms: float
    persona_ms: float
    prefill_ms: float
    ttft_ms: float | None
    decode_ms: float
    total_ms: float
    tokens_per_second: float


class GenerationAnswer(TypedDict):
    """The whole answer; also the data of the SSE event `done`."""

    id: str
    model: str
    adapters: list[AdapterAnswer]
    persona: PersonaAnswer
    sampling: SamplingAnswer
    choices: list[ChoiceAnswer]
    usage: UsageAnswer
    timings: TimingsAnswer


class StartEvent(TypedDict):
    """Data of the SSE event `start`: the generation has left the queue."""

    id: str
    model: str
    adapters: list[AdapterAnswer]
    persona: PersonaAnswer
    sampling: SamplingAnswer
    prompt_tokens: int
    cached_tokens: int


class ProgressEvent(TypedDict):
    """Data of the SSE event `progress`: `n_done` of `n_total` prompt tokens (prefill) or adapters (loading) are
    ready."""

    stage: Literal["loading", "prefill"]
    n_done: int
    n_total: int


class DeltaEvent(TypedDict):
    """Data of the SSE event `delta`: text to append to choice `index`."""

    index: int
    text: str


RenderResult = Callable[[GenerationResult], GenerationAnswer]


def generation_answer(result: GenerationResult) -> GenerationAnswer:
    return {
        "id": result.request_id,
        "model": result.model,
        "adapters": _adapters(result.adapters),
        "persona": _persona(result.persona),
        "sampling": _sampling(result.sampling),
        "choices": [_choice(choice) for choice in result.choices],
        "usage": _usage(result.usage),
        "timings": _timings(result.timings),
    }


def explained_answer(original: str) -> RenderResult:
    """A renderer that adds to each choice its changes against `original`."""

    def render(result: GenerationResult) -> GenerationAnswer:
        answer = generation_answer(result)
        for choice in answer["choices"]:
            found = changes_between(original, choice["text"])
            choice["changes"] = [_change(change) for change in found]
        return answer

    return render


def start_event(event: Started) -> StartEvent:
    return {
        "id": event.request_id,
        "model": event.model,
        "adapters": _adapters(event.adapters),
        "persona": _persona(event.persona),
        "sampling": _sampling(event.sampling),
        "prompt_tokens": event.prompt_tokens,
        "cached_tokens": event.cached_tokens,
    }


def progress_event(event: Progress) -> ProgressEvent:
    return {"stage": event.stage, "n_done": event.n_done, "n_total": event.n_total}


def delta_event(event: Delta) -> DeltaEvent:
    return {"index": event.index, "text": event.text}


def _adapters(adapters: tuple[AdapterRef, ...]) -> list[AdapterAnswer]:
    return [{"name": adapter.name, "scale": adapter.scale} for adapter in adapters]


def _persona(persona: PersonaUsed) -> PersonaAnswer:
    return {
        "version": persona.version,
        "strength": persona.strength,
        "sources": [
            {"document_id": source.document_id, "weight": source.weight}
            for source in persona.sources
        ],
    }


def _sampling(sampling: SamplingParams) -> SamplingAnswer:
    return {
        "temperature": sampling.temperature,
        "min_p": sampling.min_p,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "repetition_penalty": sampling.repetition_penalty,
        "seed": sampling.seed,
        "order": sampling.order,
    }


def _choice(choice: Choice) -> ChoiceAnswer:
    return {
        "index": choice.index,
        "text": choice.text,
        "finish_reason": choice.finish_reason,
        # JSON has no NaN and no infinity, and a score over no tokens is one of them.
        "score": choice.score if math.isfinite(choice.score) else None,
    }


def _change(change: Change) -> ChangeAnswer:
    return {
        "kind": change.kind,
        "offset_utf16": change.offset_utf16,
        "length_utf16": change.length_utf16,
        "old": change.old,
        "new": change.new,
        "category": change.category,
    }


def _usage(usage: Usage) -> UsageAnswer:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "cached_tokens": usage.cached_tokens,
        "completion_tokens": usage.completion_tokens,
    }


def _timings(timings: Timings) -> TimingsAnswer:
    ttft_ms = timings.ttft_ms
    return {
        "queue_ms": round(timings.queue_ms, 3),
        "adapter_ms": round(timings.adapter_ms, 3),
        "persona_ms": round(timings.persona_ms, 3),
        "prefill_ms": round(timings.prefill_ms, 3),
        "ttft_ms": None if ttft_ms is None else round(ttft_ms, 3),
        "decode_ms": round(timings.decode_ms, 3),
        "total_ms": round(timings.total_ms, 3),
        "tokens_per_second": round(timings.tokens_per_second, 3),
    }
