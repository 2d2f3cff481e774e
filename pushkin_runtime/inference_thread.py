"""The one thread that owns the model: it loads, prefills, decodes and closes; others submit.

Clients take turns, one prefill chunk or decode step each, and of long work only one gives way to all
keystrokes, so a story, or thirty, never starves one. Work that nobody waits for runs alone, when there is nothing
else, and ends when there is; what it computed stays. The thread sleeps on a condition when there is nothing to do.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from adapters.errors import AdapterError
from pushkin_runtime.errors import Draining, EngineFailed, NotReady, RuntimeFault
from pushkin_runtime.fair_queue import FairQueue
from pushkin_runtime.generate import Generation
from pushkin_runtime.handle import GenerationHandle
from pushkin_runtime.liveness import Liveness
from pushkin_runtime.types import FinishReason
from pushkin_runtime.upkeep import Upkeep
from pushkin_runtime.workshop import Workshop

WAIT_S = 0.05  # how often a generation that waits for its adapters looks at its deadline


class Job:
    """Short work for the inference thread besides generations.

    steps: like `Generation.run`; what it returns is the future's result, what it raises its exception.
    """

    client = ""
    is_long = is_ahead = False

    def __init__(self, steps: Callable[[Workshop], Generator[bool, None, Any]]) -> None:
        self._steps = steps
        self._is_ended = False
        self.future: Future[Any] = Future()

    def run(self, shop: Workshop) -> Iterator[bool]:
        """Do the work, one unit per `next`. Raises Draining when the thread is being closed."""
        if not self.future.set_running_or_notify_cancel():
            return  # nobody waits for it any more
        steps = self._steps(shop)
        while not self._is_ended:
            try:
                did_work = next(steps)
            except StopIteration as done:
                self.future.set_result(done.value)
                return
            yield did_work
        raise _draining()

    def fail(self, error: Exception) -> None:
        """The work broke."""
        self.future.set_exception(error)

    def end_quietly(self, reason: FinishReason) -> None:
        """Have the work end at its next unit."""
        del reason
        self._is_ended = True

    def end_reason(self) -> FinishReason | None:
        """Whether it must end."""
        return "cancelled" if self._is_ended else None


@dataclass(slots=True, eq=False)
class _Active:
    """served: the number of the unit it last did. is_waiting: that one did no work (an adapter is read)."""

    work: GenerationHandle | Job
    turns: Iterator[bool]
    served: int = 0
    is_waiting: bool = False


class InferenceThread:
    """Queue and turn-taking. `load` runs on the thread first; what it returns lives and dies there.

    on_failed_load: told what `load` raised. liveness: told of every unit of work. upkeep: looks after memory, and
    says when nobody has come for so long that the thread ends.
    """

    def __init__(
        self,
        load: Callable[[], Workshop],
        *,
        queue_limit: int,
        max_active: int,
        on_failed_load: Callable[[Exception], None],
        liveness: Liveness,
        upkeep: Upkeep,
    ) -> None:
        self._load = load
        self._max_active = max_active
        self._on_failed_load = on_failed_load
        self._liveness, self._upkeep = liveness, upkeep
        self._condition = threading.Condition()
        self._queue: FairQueue[GenerationHandle | Job] = FairQueue(queue_limit)
        self._active: list[_Active] = []
        self._n_served = 0
        self._is_waiting = False  # nothing that is active can go on before the next wake
        self._is_woken = False
        self._is_closing = False
        self._has_died = self._has_idled = False
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

    def submit(self, work: GenerationHandle | Job, *, is_urgent: bool = False) -> None:
        """Queue a generation or a job. Raises QueueFull, Draining, EngineFailed from a thread that died, or NotReady
        from one that has just ended for want of work.

        is_urgent: take it next, however many wait.
        """
        with self._condition:
            if self._is_closing:
                raise _draining()
            if self._has_died:
                raise _died()
            if self._has_idled:
                raise NotReady("The model is being unloaded; ask again at once.", retry_after_s=1)
            self._queue.put(work, is_urgent=is_urgent)
            if not is_urgent:
                self._upkeep.worked()
            if not work.is_ahead:
                self._end_ahead()
            self._liveness.work()
            self._is_woken = True
            self._condition.notify()

    def _end_ahead(self) -> None:
        for work in (*self._queue, *(active.work for active in self._active)):
            if work.is_ahead:
                work.end_quietly("superseded")

    def wake(self) -> None:
        """Have flags looked at soon; called when a handle is ended or a load is done."""
        with self._condition:
            self._is_woken = True
            self._condition.notify()

    def close(self, timeout_s: float) -> bool:
        """End everything as cancelled, stop and join; whether the thread stopped in time."""
        with self._condition:
            self._is_closing = True
            for work in (*self._queue, *(active.work for active in self._active)):
                work.end_quietly("cancelled")
            self._is_woken = True
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
        self._upkeep.worked()  # whoever had it loaded comes now
        try:
            while self._rest(shop):
                self._admit(shop)
                self._turn()
        except BaseException:
            self._die()
            raise
        finally:
            if not self._has_idled:
                self._liveness.stop()
            shop.close()
        del shop  # the model with it
        if self._has_idled:
            self._upkeep.unloaded()

    def _die(self) -> None:
        """Something broke between two units of work: nobody may wait for ever for what is left."""
        with self._condition:
            self._has_died = True
            left = [*self._queue.remove(lambda _: True), *(active.work for active in self._active)]
            self._active.clear()
        self._liveness.stop()
        for work in left:
            with contextlib.suppress(Exception):  # it may be what broke
                work.fail(_died())

    def _rest(self, shop: Workshop) -> bool:
        """Sleep until there is work, doing odd jobs first; False when it is time to stop."""
        while True:
            with self._condition:
                if self._is_woken:
                    self._is_woken = self._is_waiting = False
                if self._active and not self._is_waiting:
                    return True
                if self._queue and not self._active:
                    return True
                if self._is_closing and not self._active:
                    return False
            if not self._active and self._did_idle_work(shop):
                continue
            self._upkeep.look(shop)
            with self._condition:
                if not self._is_woken:
                    if not self._active:
                        self._liveness.rest()
                        if self._upkeep.wants_unload:
                            self._has_idled = True
                            return False
                    self._condition.wait(WAIT_S if self._active else self._upkeep.wait_s(shop))
                self._is_waiting = False

    def _did_idle_work(self, shop: Workshop) -> bool:
        self._liveness.begin()
        try:
            return shop.adapters.idle_work() or (self._upkeep.is_quiet and shop.renewal.idle_work())
        finally:
            self._liveness.end()

    def _admit(self, shop: Workshop) -> None:
        """Say goodbye to what has ended, then move queued work to the active."""
        with self._condition:
            # Ended ones first: their caches must be back before others start.
            ended = [active for active in self._active if active.work.end_reason()]
            over = self._queue.remove(lambda work: work.end_reason())
        for active in ended:
            self._active.remove(active)
            self._finish(active)
        for work in over:
            self._finish(_start(work, shop))
        with self._condition:
            while len(self._active) < self._max_active and (taken := self._take()) is not None:
                self._active.append(_start(taken, shop))

    def _take(self) -> GenerationHandle | Job | None:
        """Take what may become active now. The last place is kept for keystrokes, one for long work."""
        n_long = sum(active.work.is_long for active in self._active)
        is_only_place = self._max_active == 1
        if self._queue.has_long and not n_long and not is_only_place:
            return self._queue.take(is_long=True)
        work = self._queue.take(is_long=False)
        if work is None and (is_only_place or n_long < self._max_active - 1):
            work = self._queue.take(is_long=True)
        if work is None and not self._active:
            work = self._queue.take_ahead()
        return work

    def _turn(self) -> None:
        """Advance what is due by one unit of work each."""
        for active in self._due():  # stays listed while it works, so that `close` sees it
            did_work = self._advance(active)
            self._n_served += 1
            active.served, active.is_waiting = self._n_served, did_work is False
            if did_work is None:
                self._active.remove(active)
        self._is_waiting = all(active.is_waiting for active in self._active)

    def _due(self) -> list[_Active]:
        """One of each client, the longest unserved; of long work one in all while there are keystrokes.

        What waits for its adapters is asked every time: it costs nobody anything.
        """
        due: dict[tuple[bool, str], _Active] = {}
        for active in sorted(self._active, key=lambda active: active.served):
            if not active.is_waiting:
                due.setdefault((active.work.is_long, active.work.client), active)
        long = [active for active in due.values() if active.work.is_long]
        short = [active for active in due.values() if not active.work.is_long]
        waiting = [active for active in self._active if active.is_waiting]
        return [*waiting, *short, *(long[:1] if short else long)]

    def _finish(self, active: _Active) -> None:
        while self._advance(active) is not None:
            pass

    def _advance(self, active: _Active) -> bool | None:
        """Do one unit; whether it did any work, None when there is no more."""
        self._liveness.begin()
        try:
            return next(active.turns)
        except StopIteration:
            return None
        except Exception as error:  # noqa: BLE001 - one generation's failure is its own
            if isinstance(error, EngineFailed) or not isinstance(
                error, RuntimeFault | AdapterError
            ):
                self._liveness.doubt()  # it may be broken for the next one too
            active.work.fail(error)
            return None
        finally:
            self._liveness.end()


def _start(work: GenerationHandle | Job, shop: Workshop) -> _Active:
    if isinstance(work, Job):
        return _Active(work, work.run(shop))
    return _Active(work, Generation(work, shop).run())


def _draining() -> Draining:
    return Draining("The daemon is shutting down; ask again when it is back.")


def _died() -> EngineFailed:
    return EngineFailed("The inference thread has ended; the daemon has to be started again.")
