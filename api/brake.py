"""Slows down who guesses tokens. The refusal stays 401 and a right token never waits.

429 would be repeated by the OpenAI clients, and counting against everybody would let any program on the
machine lock the editor out. So it is the wrong guess that waits for its refusal.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable

log = logging.getLogger("pushkin.api")

FREE_PER_MINUTE = 10
_MINUTE_S = 60.0
_MAX_WAITING = 16  # a refusal that waits holds a connection: the others get theirs at once


class Brake:
    """Counts wrong tokens of the last minute; on the event loop."""

    def __init__(
        self,
        pause_s: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._pause_s = pause_s
        self._clock = clock
        self._sleep = sleep
        self._recent: deque[float] = deque(maxlen=FREE_PER_MINUTE + 1)
        self._n_waiting = 0
        self._warned_at = -_MINUTE_S

    async def hold(self) -> None:
        """Called for each wrong token before it is refused."""
        now = self._clock()
        self._recent.append(now)
        if len(self._recent) <= FREE_PER_MINUTE or now - self._recent[0] >= _MINUTE_S:
            return
        if now - self._warned_at >= _MINUTE_S:
            self._warned_at = now
            log.warning("many wrong tokens", extra={"per_minute_more_than": FREE_PER_MINUTE})
        if self._n_waiting >= _MAX_WAITING:
            return
        self._n_waiting += 1
        try:
            await self._sleep(self._pause_s)
        finally:
            self._n_waiting -= 1
