"""`POST /v1/continue`, `/v1/rephrase`, `/v1/story`: JSON, or SSE when the client asks for it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response

from api.answers import (
    DeltaEvent,
    GenerationAnswer,
    ProgressEvent,
    RenderResult,
    StartEvent,
    explained_answer,
    generation_answer,
)
from api.errors import ErrorBody
from api.generation import Generation, owned_generation
from api.json_route import StrictJsonRoute
from api.json_text import json_bytes
from api.responses import answers, error_responses, named_events
from api.schemas import ContinueBody, RephraseBody, StoryBody
from api.services import RequestIdDep, ServicesDep
from api.sse import EventStream, stream_frames
from pushkin_runtime.types import Failed

EVENTS = named_events(
    "WritingEvent",
    {
        "start": StartEvent,
        "progress": ProgressEvent,
        "delta": DeltaEvent,
        "done": GenerationAnswer,
        "error": ErrorBody,
    },
)

router = APIRouter(
    tags=["writing"],
    route_class=StrictJsonRoute,
    default_response_class=Response,
    responses={
        200: answers(GenerationAnswer, stream=EVENTS),
        **error_responses(400, 401, 403, 404, 413, 415, 421, 500, 501, 503),
    },
)


@dataclass(frozen=True, slots=True)
class Reply:
    """A running generation, and how its client wants to hear of it."""

    generation: Generation
    stream: bool
    render: RenderResult = generation_answer


async def _continuation(
    body: ContinueBody, client: Request, services: ServicesDep, request_id: RequestIdDep
) -> AsyncIterator[Reply]:
    wanted = body.to_request(request_id)
    async with owned_generation(services.runtime, wanted, client) as generation:
        yield Reply(generation, body.stream)


async def _rephrasing(
    body: RephraseBody, client: Request, services: ServicesDep, request_id: RequestIdDep
) -> AsyncIterator[Reply]:
    wanted = body.to_request(request_id)
    render = explained_answer(body.text) if body.explain else generation_answer
    async with owned_generation(services.runtime, wanted, client) as generation:
        yield Reply(generation, body.stream, render)


async def _story(
    body: StoryBody, client: Request, services: ServicesDep, request_id: RequestIdDep
) -> AsyncIterator[Reply]:
    wanted = body.to_request(request_id)
    async with owned_generation(services.runtime, wanted, client) as generation:
        yield Reply(generation, body.stream)


# The bodies are parameters of the dependencies alone: FastAPI would validate a second mention again.


@router.post("/v1/continue", summary="Continue the text before the caret")
async def continue_text(
    reply: Annotated[Reply, Depends(_continuation)], client: Request, services: ServicesDep
) -> Response:
    return await _respond(reply, client, services.limits.ping_interval_s)


@router.post("/v1/rephrase", summary="Say the selection another way")
async def rephrase(
    reply: Annotated[Reply, Depends(_rephrasing)], client: Request, services: ServicesDep
) -> Response:
    return await _respond(reply, client, services.limits.ping_interval_s)


@router.post("/v1/story", summary="Write a story from a premise")
async def write_story(
    reply: Annotated[Reply, Depends(_story)], client: Request, services: ServicesDep
) -> Response:
    return await _respond(reply, client, services.limits.ping_interval_s)


async def _respond(reply: Reply, client: Request, ping_interval_s: float) -> Response:
    generation, render = reply.generation, reply.render
    if not reply.stream and not _accepts_event_stream(client):
        answer = render(await generation.result())
        return Response(json_bytes(answer), media_type="application/json")
    first = await generation.next_events(ping_interval_s)
    if first and isinstance(first[0], Failed):
        raise first[0].error  # it broke at once: there is still time for a real status code
    return EventStream(stream_frames(generation, first, render, ping_interval_s))


def _accepts_event_stream(client: Request) -> bool:
    return any(
        part.partition(";")[0].strip().lower() == "text/event-stream"
        for value in client.headers.getlist("accept")
        for part in value.split(",")
    )
