"""What happens in the daemon, told to everyone who listens at `GET /v1/events`."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

from pushkin_runtime.pace import Pace

MAX_WAITING = 1000  # events of a listener that does not read
MAX_LISTENERS = 32


@dataclass(frozen=True, slots=True)
class HubEvent:
    """name: the SSE event, "index" for example. data: JSON; no text but what is dictated, no title, no file name."""

    name: str
    data: Mapping[str, object]


class Listener:
    """One client's queue; lives on the event loop it was made on."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._queue: asyncio.Queue[HubEvent | None] = asyncio.Queue()
        self._n_dropped = 0

    def offer(self, event: HubEvent | None) -> None:
        """Any thread. None ends the stream."""
        try:
            self._loop.call_soon_threadsafe(self._put, event)
        except RuntimeError:
            return  # the loop is closed: nobody listens any more

    async def next(self, timeout_s: float) -> HubEvent | None:
        """The next event; one named "ping" after the time without any; None at the end."""
        try:
            async with asyncio.timeout(timeout_s):
                event = await self._queue.get()
        except TimeoutError:
            return HubEvent("ping", {})
        if self._n_dropped and event is not None and self._queue.qsize() < MAX_WAITING // 2:
            dropped, self._n_dropped = self._n_dropped, 0
            self._queue.put_nowait(HubEvent("dropped", {"n": dropped}))
        return event

    def _put(self, event: HubEvent | None) -> None:
        if event is not None and self._queue.qsize() >= MAX_WAITING:
            self._n_dropped += 1
            return
        self._queue.put_nowait(event)


class EventHub:
    """Any thread may publish; publishing never blocks and costs nothing when nobody listens."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._listeners: set[Listener] = set()
        self._pace = Pace()
        self._is_closed = False

    def publish(self, name: str, data: Mapping[str, object]) -> None:
        """Tell every listener."""
        with self._lock:
            listeners = tuple(self._listeners)
        for listener in listeners:
            listener.offer(HubEvent(name, data))

    def close(self) -> None:
        """End every stream, now and in future: the daemon stops."""
        with self._lock:
            self._is_closed = True
            listeners = tuple(self._listeners)
        for listener in listeners:
            listener.offer(None)

    @property
    def n_listeners(self) -> int:
        """Clients that listen now."""
        return len(self._listeners)

    @property
    def is_full(self) -> bool:
        """Whether no more listeners are taken."""
        return self.n_listeners >= MAX_LISTENERS

    @property
    def retry_after_s(self) -> int:
        """Seconds until a listener should have left, by the pace at which they do."""
        return self._pace.retry_after_s()

    @asynccontextmanager
    async def listener(self) -> AsyncIterator[Listener]:
        """A listener for as long as the block lasts."""
        made = Listener(asyncio.get_running_loop())
        with self._lock:
            self._listeners.add(made)
            is_closed = self._is_closed
        if is_closed:
            made.offer(None)
        try:
            yield made
        finally:
            with self._lock:
                self._listeners.discard(made)
                self._pace.moved(is_wanted=bool(self._listeners))
