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


async def stream_frames(
    generation: Generation, first: Event | None, render: RenderResult, ping_interval_s: float
) -> AsyncIterator[bytes]:
    """The frames of a generation; `first` is its first event, or None when none came in time.

    Ends after `done` or `error`, or silently when the client has gone.
    """
    event = first
    while True:
        try:
            frame = PING if event is None else _frame(event, render)
        except Exception as error:  # noqa: BLE001 - past the headers only an event can tell
            log_failure(error, generation.request_id)
            yield sse_frame("error", as_api_error(error).body(generation.request_id))
            return
        yield frame
        if isinstance(event, Done):
            return
        try:
            event = await generation.next_event(ping_interval_s)
        except TimeoutError:
            event = None
        except ClientDisconnect:
            return


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
