"""Server-sent events: framing, and one generation as a stream of them."""

from __future__ import annotations

from collections.abc import AsyncIterator

from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from api.answers import RenderResult, delta_event, progress_event, start_event
from api.errors import as_api_error, log_failure
from api.generation import Generation
from api.json_text import json_bytes
from pushkin_runtime.types import Delta, Done, Event, Failed, Progress, Started

PING = b": ping\n\n"


class EventStream(Response):
    """Sends frames as they come.

    Starlette's StreamingResponse would read `receive` itself, and the generation already does.
    """

    media_type = "text/event-stream"

    def __init__(self, frames: AsyncIterator[bytes]) -> None:
        super().__init__()
        del self.headers["content-length"]
        self._frames = frames

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        async for frame in self._frames:
            await send({"type": "http.response.body", "body": frame, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def sse_frame(event: str, data: object) -> bytes:
    """One event. The JSON holds no line break, so it is always a single `data:` line."""
    return b"event: %b\ndata: %b\n\n" % (event.encode(), json_bytes(data))


def data_frame(data: object) -> bytes:
    """One event without a name, as the dialects' clients expect it."""
    return b"data: %b\n\n" % json_bytes(data)


async def stream_frames(
    generation: Generation, first: list[Event], render: RenderResult, ping_interval_s: float
) -> AsyncIterator[bytes]:
    """The frames of a generation, those of events that came together in one piece.

    first: the events received so far, none when none came in time. Ends after `done` or `error`, or
    silently when the client has gone.
    """
    events = first
    while True:
        if events:
            frames, is_over = _frames(events, generation.request_id, render)
            yield frames
            if is_over:
                return
        else:
            yield PING
        try:
            events = await generation.next_events(ping_interval_s)
        except ClientDisconnect:
            return


def _frames(events: list[Event], request_id: str, render: RenderResult) -> tuple[bytes, bool]:
    """The frames of some events, and whether they are the last."""
    frames: list[bytes] = []
    for event in events:
        try:
            frames.append(_frame(event, render))
        except Exception as error:  # noqa: BLE001 - past the headers only an event can tell
            log_failure(error, request_id)
            frames.append(sse_frame("error", as_api_error(error).body(request_id)))
            return b"".join(frames), True
    return b"".join(frames), isinstance(events[-1], Done)


def _frame(event: Event, render: RenderResult) -> bytes:
    match event:
        case Delta():
            return sse_frame("delta", delta_event(event))
        case Progress():
            return sse_frame("progress", progress_event(event))
        case Started():
            return sse_frame("start", start_event(event))
        case Done(result):
            return sse_frame("done", render(result))
        case Failed(error):
            raise error
