"""`POST /v1/completions`: OpenAI's completions, whole or as a stream."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response

from adapters.errors import AdapterNotFound
from api.errors import ApiError, ErrorBody
from api.generation_group import GenerationGroup, owned_generations
from api.json_route import StrictJsonRoute
from api.json_text import json_bytes
from api.openai_dialect.bodies import CompletionBody
from api.openai_dialect.completion_answers import CompletionAnswer, Order, completion_answer
from api.openai_dialect.completion_requests import chosen_model, generation_requests
from api.openai_dialect.completion_stream import (
    CompletionStream,
    StreamStyle,
    completion_frames,
)
from api.responses import answers, error_responses, json_text, unnamed_events
from api.services import RequestIdDep, ServicesDep
from api.sse import EventStream
from pushkin_runtime.tokenizer import TextTokenizer
from pushkin_runtime.types import Failed

router = APIRouter(tags=["openai"], route_class=StrictJsonRoute)

EVENTS = unnamed_events(
    "CompletionEvent", json_text(CompletionAnswer, ErrorBody), {"const": "[DONE]"}
)


@dataclass(frozen=True, slots=True)
class Reply:
    """Running generations, and how their client wants to hear of them. style: None for one whole answer."""

    group: GenerationGroup
    order: Order
    style: StreamStyle | None


async def _completion(
    body: CompletionBody, client: Request, services: ServicesDep, request_id: RequestIdDep
) -> AsyncIterator[Reply]:
    loaded = services.runtime.status().model
    model = chosen_model(body.model, None if loaded is None else loaded.id)
    wanted = generation_requests(body, model, request_id)
    tokenizer = services.runtime.tokenizer()
    order = Order(
        id=f"cmpl-{request_id}",
        created=int(time.time()),
        model=model.name,
        n=body.n or 1,
        echoed=_echoed(body, tokenizer) if body.echo else None,
        with_logprobs=body.logprobs is not None,
        is_ranked=bool(body.suffix),
        tokenizer=tokenizer,
    )
    try:
        async with owned_generations(services.runtime, wanted, client) as group:
            yield Reply(group, order, _style(body))
    except AdapterNotFound as error:
        if body.adapters is not None:
            raise
        raise ApiError("model_not_found", str(error), param="model") from error


def _echoed(body: CompletionBody, tokenizer: TextTokenizer) -> tuple[str, ...]:
    return tuple(
        prompt if isinstance(prompt, str) else tokenizer.decode(prompt) for prompt in body.prompt
    )


def _style(body: CompletionBody) -> StreamStyle | None:
    if not body.stream:
        return None
    return StreamStyle(
        n_prompts=len(body.prompt),
        is_held=bool(body.suffix) or (bool(body.echo) and body.logprobs is not None),
        include_usage=bool(body.stream_options and body.stream_options.include_usage),
    )


# The body is a parameter of the dependency alone: FastAPI would validate a second mention again.


@router.post(
    "/v1/completions",
    summary="Complete a text",
    response_class=Response,
    responses={
        200: answers(CompletionAnswer, stream=EVENTS),
        **error_responses(400, 401, 403, 404, 413, 415, 421, 422, 500, 501, 503),
    },
)
async def create_completion(
    reply: Annotated[Reply, Depends(_completion)], services: ServicesDep
) -> Response:
    if reply.style is None:
        answer = completion_answer(reply.order, await reply.group.results())
        return Response(json_bytes(answer), media_type="application/json")
    ping_interval_s = services.limits.ping_interval_s
    first = await reply.group.next_events(ping_interval_s)
    for _, event in first:
        if isinstance(event, Failed):
            raise event.error  # it broke at once: there is still time for a real status code
    stream = CompletionStream(reply.order, reply.style)
    return EventStream(completion_frames(reply.group, first, stream, ping_interval_s))
