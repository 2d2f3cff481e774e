"""`GET /v1/events`: what happens in the daemon, as it happens."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter
from fastapi.responses import StreamingResponse

from api.errors import ApiError
from api.openapi import error_responses
from api.services import Services, ServicesDep
from api.sse import PING, sse_frame

router = APIRouter(tags=["events"])

_CONTENT: dict[str, Any] = {
    "text/event-stream": {
        "schema": {"type": "string"},
        "x-events": {
            "index": {"$ref": "#/components/schemas/IndexEventAnswer"},
            "dictation": {"$ref": "#/components/schemas/DictationEventAnswer"},
            "pairing": {
                "type": "object",
                "properties": {
                    "id": {"type": "string"},
                    "state": {"enum": ["paired", "refused", "ended"]},
                    "client": {"type": ["string", "null"]},
                },
            },
            "dropped": {"type": "object", "properties": {"n": {"type": "integer"}}},
        },
    }
}


@router.get(
    "/v1/events",
    summary="Stream events until the client leaves or the daemon stops",
    response_class=StreamingResponse,
    responses={**error_responses(401, 403, 421, 503), 200: {"content": _CONTENT}},
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
