"""Several prompts of one request, as the dialects take them: submitted together, ended together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial

from starlette.requests import Request

from api.generation import EventChannel, cancel_when_gone
from api.request_record import record_of
from api.services import GenerationHandle, GenerationRuntime
from pushkin_runtime.types import Done, Event, Failed, GenerationRequest, GenerationResult

PromptEvent = tuple[int, Event]
"""An event, and the position of its prompt in the request."""


class GenerationGroup:
    """Running generations. Owned by the dependency that made it; used on the loop's thread."""

    def __init__(
        self, handles: Sequence[GenerationHandle], channel: EventChannel[PromptEvent]
    ) -> None:
        self._handles = handles
        self._channel = channel
        self._results: dict[int, GenerationResult] = {}

    @property
    def request_id(self) -> str:
        """The request's, and its first prompt's; the others' have a number after it."""
        return self._handles[0].request_id

    @property
    def is_over(self) -> bool:
        """Whether every generation has ended."""
        return len(self._results) == len(self._handles)

    async def next_events(self, timeout_s: float | None) -> list[PromptEvent]:
        """The next events, none when none came in time; ended is all that one cancelled prompt ends.

        Raises ClientDisconnect.
        """
        events = await self._channel.receive(timeout_s)
        for prompt, event in events:
            if isinstance(event, Done):
                self._results[prompt] = event.result
                if any(choice.finish_reason == "cancelled" for choice in event.result.choices):
                    self._cancel_all()  # by `DELETE /v1/requests/{id}`: it names the request
        return events

    async def results(self) -> list[GenerationResult]:
        """Wait for the end of all. Raises what the first to fail failed with, or ClientDisconnect."""
        while not self.is_over:
            for _, event in await self.next_events(None):
                if isinstance(event, Failed):
                    raise event.error
        return [self._results[prompt] for prompt in range(len(self._handles))]

    def _cancel_all(self) -> None:
        for handle in self._handles:
            handle.cancel()


def _unchanged(event: Event) -> Event:
    return event


@asynccontextmanager
async def owned_generations(
    runtime: GenerationRuntime,
    wanted: Sequence[GenerationRequest],
    client: Request,
    *,
    through: Callable[[Event], Event] = _unchanged,
) -> AsyncIterator[GenerationGroup]:
    """Submit all, hand over the group, and cancel what is left of it on the way out.

    through: what every event passes on the inference thread before it is told.
    The client's body must have been read: from here on `receive` only tells of its departure.
    Raises what `submit` raises, with nothing left running.
    """
    channel: EventChannel[PromptEvent] = EventChannel(asyncio.get_running_loop())
    handles: list[GenerationHandle] = []
    record = record_of(client.scope)
    try:
        for prompt, request in enumerate(wanted):
            name = f"{request.request_id}-{prompt}" if prompt else request.request_id
            sink = partial(_put, channel, prompt, through)
            handles.append(record.submit(runtime, replace(request, request_id=name), sink))
        watch = asyncio.create_task(cancel_when_gone(client.receive, handles, channel))
        try:
            yield GenerationGroup(handles, channel)
        finally:
            watch.cancel()
    finally:
        for handle in handles:
            handle.cancel()


def _put(
    channel: EventChannel[PromptEvent],
    prompt: int,
    through: Callable[[Event], Event],
    event: Event,
) -> None:
    channel((prompt, through(event)))
