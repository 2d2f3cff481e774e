"""One generation as a route sees it: submitted, awaited event by event, always cancelled at the end.

Events are born on the inference thread and cross to the event loop here. A client that leaves
cancels its generation at once, in prefill as in decode, streaming or not.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Generic, TypeVar

from starlette.requests import ClientDisconnect, Request
from starlette.types import Receive

from api.request_record import record_of
from api.services import GenerationHandle, GenerationRuntime
from pushkin_runtime.types import Done, Event, Failed, GenerationRequest, GenerationResult

T = TypeVar("T")


class EventChannel(Generic[T]):
    """Carries events from the inference thread to one consumer on the loop.

    Calling it is the `EventSink` (any thread); everything else belongs to the loop's thread.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._queue: asyncio.Queue[T | None] = asyncio.Queue()

    def __call__(self, event: T) -> None:
        try:
            self._loop.call_soon_threadsafe(self._queue.put_nowait, event)
        except RuntimeError:
            return  # the loop is closed: nobody listens, and the inference thread must not care

    def close(self) -> None:
        """Make `receive` raise ClientDisconnect: what is left unread no longer matters."""
        self._queue.put_nowait(None)

    async def receive(self, timeout_s: float | None = None) -> list[T]:
        """Wait for the next event; return it and those that have come with it, none when none came in time.

        Raises ClientDisconnect when the client has gone.
        """
        try:
            async with asyncio.timeout(timeout_s):
                received = [await self._queue.get()]
        except TimeoutError:
            return []
        while not self._queue.empty():
            received.append(self._queue.get_nowait())
        events = [event for event in received if event is not None]
        if len(events) < len(received):
            raise ClientDisconnect
        return events


class Generation:
    """A running generation. Owned by the dependency that made it; used on the loop's thread."""

    def __init__(self, handle: GenerationHandle, channel: EventChannel[Event]) -> None:
        self._handle = handle
        self._channel = channel

    @property
    def request_id(self) -> str:
        return self._handle.request_id

    async def next_events(self, timeout_s: float) -> list[Event]:
        """The next events, none when none came in time. Raises ClientDisconnect."""
        return await self._channel.receive(timeout_s)

    async def result(self) -> GenerationResult:
        """Wait for the end. Raises what the generation failed with, or ClientDisconnect."""
        while True:
            match (await self._channel.receive())[-1]:
                case Done(result):
                    return result
                case Failed(error):
                    raise error


@asynccontextmanager
async def owned_generation(
    runtime: GenerationRuntime, wanted: GenerationRequest, client: Request
) -> AsyncIterator[Generation]:
    """Submit, hand over the generation, and cancel it on the way out whatever happened.

    The client's body must have been read: from here on `receive` only tells of its departure.
    Raises what `submit` raises, while a status code can still be sent.
    """
    channel: EventChannel[Event] = EventChannel(asyncio.get_running_loop())
    handle = record_of(client.scope).submit(runtime, wanted, channel)
    watch = asyncio.create_task(cancel_when_gone(client.receive, [handle], channel))
    try:
        yield Generation(handle, channel)
    finally:
        handle.cancel()
        watch.cancel()


async def cancel_when_gone(
    receive: Receive, handles: Sequence[GenerationHandle], channel: EventChannel[T]
) -> None:
    """Wait for the client's departure, then end what it waited for."""
    while (await receive())["type"] != "http.disconnect":
        pass
    for handle in handles:
        handle.cancel()
    channel.close()
