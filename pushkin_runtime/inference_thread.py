"""The one thread that owns the model: it loads, prefills, decodes and closes; others submit.

Generations take turns, one prefill chunk or decode step each, so a long story never starves a
keystroke. The thread sleeps on a condition when there is nothing to do.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from pushkin_runtime.errors import Draining, QueueFull
from pushkin_runtime.generate import Generation, Workshop
from pushkin_runtime.handle import GenerationHandle
from pushkin_runtime.types import Failed


@dataclass(slots=True, eq=False)
class _Active:
    handle: GenerationHandle
    turns: Iterator[None]


class InferenceThread:
    """Queue and turn-taking. `load` runs on the thread first; what it returns lives and dies there.

    on_failed_load: told what `load` raised.
    """

    def __init__(
        self,
        load: Callable[[], Workshop],
        *,
        queue_limit: int,
        max_active: int,
        on_failed_load: Callable[[Exception], None],
    ) -> None:
        self._load = load
        self._queue_limit = queue_limit
        self._max_active = max_active
        self._on_failed_load = on_failed_load
        self._condition = threading.Condition()
        self._queue: deque[GenerationHandle] = deque()
        self._active: list[_Active] = []
        self._is_closing = False
        self._thread = threading.Thread(target=self._run, name="inference", daemon=True)

    @property
    def n_queued(self) -> int:
        """Generations waiting for a turn."""
        return len(self._queue)

    @property
    def n_active(self) -> int:
        """Generations taking turns."""
        return len(self._active)

    def start(self) -> None:
        """Start loading; returns at once."""
        self._thread.start()

    def submit(self, handle: GenerationHandle) -> None:
        """Queue a generation. Raises QueueFull or Draining."""
        with self._condition:
            if self._is_closing:
                raise Draining("The daemon is shutting down; ask again when it is back.")
            if len(self._queue) >= self._queue_limit:
                raise QueueFull(
                    f"{self._queue_limit} requests are already waiting; ask again in a moment."
                )
            self._queue.append(handle)
            self._condition.notify()

    def wake(self) -> None:
        """Have flags looked at soon; called when a handle is ended."""
        with self._condition:
            self._condition.notify()

    def close(self, timeout_s: float) -> bool:
        """End everything as cancelled, stop and join; whether the thread stopped in time."""
        with self._condition:
            self._is_closing = True
            for handle in (*self._queue, *(active.handle for active in self._active)):
                handle.end_quietly("cancelled")
            self._condition.notify()
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            shop = self._load()
        except Exception as error:  # noqa: BLE001 - reported to every caller through the runtime's state
            self._on_failed_load(error)
            return
        try:
            while self._admit(shop):
                self._turn()
        finally:
            shop.cache.clear()
            shop.engine.close()
            shop.engine.leave_thread()

    def _admit(self, shop: Workshop) -> bool:
        """Move queued generations to the active ones; False when it is time to stop."""
        with self._condition:
            while not self._queue and not self._active:
                if self._is_closing:
                    return False
                self._condition.wait()
            # Ended ones first: they only say goodbye, and their caches must be back before others start.
            ended = [active for active in self._active if active.handle.end_reason()]
            over = [handle for handle in self._queue if handle.end_reason()]
            for handle in over:
                self._queue.remove(handle)
        for active in ended:
            self._active.remove(active)
            self._finish(active)
        for handle in over:
            self._finish(_Active(handle, Generation(handle, shop).run()))
        with self._condition:
            while self._queue and len(self._active) < self._max_active:
                handle = self._queue.popleft()
                self._active.append(_Active(handle, Generation(handle, shop).run()))
        return True

    def _turn(self) -> None:
        """Advance every active generation by one unit of work."""
        for active in tuple(self._active):  # stays listed while it works, so that `close` sees it
            if not self._advance(active):
                self._active.remove(active)

    def _finish(self, active: _Active) -> None:
        while self._advance(active):
            pass

    def _advance(self, active: _Active) -> bool:
        """Do one unit; whether there is more."""
        try:
            next(active.turns)
        except StopIteration:
            return False
        except Exception as error:  # noqa: BLE001 - one generation's failure is its own
            active.handle.emit(Failed(error))
            return False
        return True
