"""What waits for the inference thread: bounded, nobody's more than a share, handed out in turns.

Keystrokes come before long work, and within each kind one client after another, so that a client with many
requests delays its own and nobody else's. What is done ahead of any request comes last.
"""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from typing import Generic, Protocol, TypeVar

from pushkin_runtime.errors import QueueFull
from pushkin_runtime.pace import Pace


class Work(Protocol):
    """A generation or a job. client: whose it is; is_long: no keystroke, so that it gives way to them; is_ahead:
    nobody waits for it."""

    @property
    def client(self) -> str: ...

    @property
    def is_long(self) -> bool: ...

    @property
    def is_ahead(self) -> bool: ...


W = TypeVar("W", bound=Work)


class FairQueue(Generic[W]):
    """Not thread-safe: its owner locks.

    limit: how many may wait; a client may have three quarters of the places, so that others find room.
    """

    def __init__(self, limit: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit, self._share = limit, limit - limit // 4
        self._pace = Pace(clock)
        self._urgent: deque[W] = deque()
        self._short: OrderedDict[str, deque[W]] = OrderedDict()
        self._long: OrderedDict[str, deque[W]] = OrderedDict()
        self._ahead: OrderedDict[str, deque[W]] = OrderedDict()

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __iter__(self) -> Iterator[W]:
        yield from self._urgent
        for lanes in (self._short, self._long, self._ahead):
            for lane in lanes.values():
                yield from lane

    @property
    def has_long(self) -> bool:
        """Whether long work waits."""
        return bool(self._long)

    def put(self, work: W, *, is_urgent: bool = False) -> None:
        """Let work wait. Raises QueueFull, with the time after which a place should be free.

        is_urgent: first of all, whatever the limit.
        """
        if is_urgent:
            self._urgent.append(work)
            return
        clients = [waiting.client for waiting in self]
        n_own = clients.count(work.client)
        if len(clients) >= self._limit or n_own >= self._share:
            raise QueueFull(
                f"{len(clients)} requests are already waiting, {n_own} of them from this client; "
                "ask again in a moment.",
                # A place of one's own is free after a turn of every client.
                retry_after_s=self._pace.retry_after_s(len(set(clients))),
            )
        self._lanes(work).setdefault(work.client, deque()).append(work)

    def take(self, *, is_long: bool) -> W | None:
        """Take what is next among keystrokes and urgent work, or among long work; None when there is none."""
        if not is_long and self._urgent:
            return self._urgent.popleft()
        return self._take(self._long if is_long else self._short)

    def take_ahead(self) -> W | None:
        """Take what nobody waits for; None when there is none, or anything else."""
        return None if self._urgent or self._short or self._long else self._take(self._ahead)

    def _lanes(self, work: W) -> OrderedDict[str, deque[W]]:
        if work.is_ahead:
            return self._ahead
        return self._long if work.is_long else self._short

    def _take(self, lanes: OrderedDict[str, deque[W]]) -> W | None:
        if not lanes:
            return None
        client, lane = next(iter(lanes.items()))
        work = lane.popleft()
        lanes.move_to_end(client)  # the others come first now
        if not lane:
            del lanes[client]
        self._pace.moved(is_wanted=len(self) > 0)
        return work

    def remove(self, is_over: Callable[[W], object]) -> list[W]:
        """Take out what is over, in whatever order."""
        over = [work for work in self if is_over(work)]
        for work in over:
            if work in self._urgent:
                self._urgent.remove(work)
                continue
            lanes = self._lanes(work)
            lanes[work.client].remove(work)
            if not lanes[work.client]:
                del lanes[work.client]
        return over
