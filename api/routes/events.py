"""`GET /v1/events`: what happens in the daemon, as it happens."""

from __future__ import annotations

from collections.abc import AsyncIterator

from fastapi import APIRouter
from fastapi.responses import StreamingResponse
from typing_extensions import TypedDict

from api.dictation_events import DictationEventAnswer
from api.document_answers import IndexEventAnswer
from api.errors import ApiError
from api.pairing import PairingEnd
from api.responses import error_responses, named_events
from api.services import Services, ServicesDep
from api.sse import PING, sse_frame

router = APIRouter(tags=["events"])


class PairingEvent(TypedDict):
    """The SSE event `pairing`; `client` is its name once it has the code."""

    id: str
    state: PairingEnd
    client: str | None


class DroppedEvent(TypedDict):
    """The SSE event `dropped`: so many were lost, because the client did not read."""

    n: int


EVENTS = named_events(
    "DaemonEvent",
    {
        "index": IndexEventAnswer,
        "dictation": DictationEventAnswer,
        "pairing": PairingEvent,
        "dropped": DroppedEvent,
    },
)


@router.get(
    "/v1/events",
    summary="Stream events until the client leaves or the daemon stops",
    response_class=StreamingResponse,
    responses={
        **error_responses(401, 403, 421, 503),
        200: {"content": EVENTS.content()},
    },
)
async def stream_events(services: ServicesDep) -> StreamingResponse:
    if services.events.is_full:
        raise ApiError(
            "queue_full",
            "too many clients listen to events",
            headers={"Retry-After": str(services.events.retry_after_s)},
        )
    return StreamingResponse(_frames(services), media_type="text/event-stream")


async def _frames(services: Services) -> AsyncIterator[bytes]:
    async with services.events.listener() as listener:
        yield PING  # the client knows that it is heard from now on
        while (event := await listener.next(services.limits.ping_interval_s)) is not None:
            yield PING if event.name == "ping" else sse_frame(event.name, event.data)
