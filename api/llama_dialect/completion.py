"""`POST /completion` and its other name `/completions`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response

from api.errors import LlamaErrorBody
from api.generation_group import GenerationGroup, owned_generations
from api.json_route import StrictJsonRoute
from api.json_text import json_bytes
from api.llama_dialect.answers import (
    LlamaCompletion,
    LlamaCompletionFrame,
    Order,
    completion_answers,
)
from api.llama_dialect.bodies import LlamaCompletionBody
from api.llama_dialect.lora import chosen_adapters
from api.llama_dialect.requests import check_supported, generation_requests
from api.llama_dialect.stream import CompletionStream, ping_interval_s
from api.responses import (
    answers,
    json_text,
    llama_error_responses,
    schema_of,
    unnamed_events,
)
from api.services import RequestIdDep, Services, ServicesDep
from api.sse import EventStream
from pushkin_runtime.prompt import text_prefix
from pushkin_runtime.tokenizer import TextTokenizer
from pushkin_runtime.types import Failed, GenerationRequest

_ANSWER = schema_of(LlamaCompletion)
_ANSWERS = {"anyOf": [_ANSWER, {"type": "array", "items": _ANSWER}]}
# Frames with `stop: false`, then an answer for each choice, or an error.
EVENTS = unnamed_events(
    "LlamaCompletionEvent", json_text(LlamaCompletionFrame, LlamaCompletion, LlamaErrorBody)
)

router = APIRouter(
    tags=["llama-server"],
    route_class=StrictJsonRoute,
    default_response_class=Response,
    responses={
        200: answers(_ANSWERS, stream=EVENTS),
        **llama_error_responses(400, 401, 403, 404, 413, 415, 421, 500, 501, 503),
    },
)


@dataclass(frozen=True, slots=True)
class Reply:
    """Running generations, and how their client wants to hear of them."""

    group: GenerationGroup
    order: Order


@asynccontextmanager
async def open_completion(
    body: LlamaCompletionBody, client: Request, services: Services, request_id: str
) -> AsyncIterator[Reply]:
    """Submit a body's prompts, hand over the generations, and cancel them on the way out.

    Raises ApiError, RuntimeFault or AdapterError, while a status code can still be sent.
    """
    check_supported(body)
    tokenizer = services.runtime.tokenizer()
    model = services.runtime.status().model
    assert model is not None  # there is one where there is a tokenizer
    wanted = generation_requests(
        body,
        adapters=await chosen_adapters(services, body.lora),
        tokenizer=tokenizer,
        n_context=model.context_length,
        request_id=request_id,
    )
    prompts = tuple(prompt_text(request, tokenizer) for request in wanted)
    order = Order(body=body, tokenizer=tokenizer, prompts=prompts)
    async with owned_generations(services.runtime, wanted, client) as group:
        yield Reply(group, order)


async def respond(reply: Reply, services: Services) -> Response:
    """The answer, or the stream of it."""
    order, group = reply.order, reply.group
    if not order.body.stream:
        answers = completion_answers(order, await group.results())
        whole = answers[0] if len(answers) == 1 else answers
        return Response(json_bytes(whole), media_type="application/json")
    interval_s = ping_interval_s(order, services.limits.ping_interval_s)
    first = await group.next_events(interval_s)
    for _, event in first[:1]:
        if isinstance(event, Failed):
            raise event.error  # it broke at once: there is still time for a real status code
    return EventStream(CompletionStream(order, group).frames(first, interval_s))


def prompt_text(request: GenerationRequest, tokenizer: TextTokenizer) -> str:
    """A prompt as the model reads it, names of special tokens included."""
    if request.prompt_tokens is None:
        head = text_prefix(request, tokenizer)
        return b"".join(map(tokenizer.piece, head)).decode() + request.text
    return b"".join(map(tokenizer.piece, request.prompt_tokens)).decode(errors="replace")


async def _completion(
    body: LlamaCompletionBody, client: Request, services: ServicesDep, request_id: RequestIdDep
) -> AsyncIterator[Reply]:
    async with open_completion(body, client, services, request_id) as reply:
        yield reply


@router.post("/completion", summary="Continue a prompt (llama-server)")
@router.post("/completions", summary="The same as /completion")
async def complete(
    reply: Annotated[Reply, Depends(_completion)], services: ServicesDep
) -> Response:
    return await respond(reply, services)
