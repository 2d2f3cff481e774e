"""Ends a process whose generation is dead, so that launchd starts one that lives.

A native call that hangs cannot be interrupted, and a thread that is gone does not come back; what is left is
to say so in the logs and to end at once. The kernel drops the lock and the sockets, and the next start clears
the endpoint file, as after `kill -9`.

Only looks that found a stall count towards the end, one a second: neither a sleeping machine nor a stopped
process looks. While nothing is generated nobody looks at all. A call that holds the interpreter lock stops this thread
as well: then `guardian.py` ends the process, from outside.
"""

from __future__ import annotations

import faulthandler
import logging
import math
import os
import threading
from collections.abc import Callable
from typing import IO, NoReturn, Protocol

from daemon.terminal import print_error

log = logging.getLogger(__name__)

TICK_S = 1.0
EXIT_DEAD = 70  # EX_SOFTWARE of sysexits.h: launchd restarts after anything but 0
_FLUSH_S = 2.0  # for the log, whose lock what hangs may hold


class Watched(Protocol):
    """The part of the runtime that is watched."""

    def wait_for_work(self, timeout_s: float | None = None) -> bool:
        """Wait until there is something to watch."""

    def is_stalled(self) -> bool:
        """Whether there is work and nothing moves."""


class Guarding(Protocol):
    """The part of a guardian that is told what goes on."""

    def beat(self) -> None:
        """There is work, and Python runs."""

    def rest(self) -> None:
        """There is nothing to do."""

    def close(self) -> None:
        """Nobody will tell more."""


class Watchdog:
    """A thread that looks every `tick_s` while there is work.

    grace_s: how long generation stays dead, and `/health` says so, before `end` is called; 0 is for ever.
    guard: makes what watches over this thread.
    """

    def __init__(
        self,
        runtime: Watched,
        *,
        grace_s: float,
        end: Callable[[], object],
        guard: Callable[[], Guarding] | None = None,
        tick_s: float = TICK_S,
    ) -> None:
        self._runtime = runtime
        self._patience = math.ceil(grace_s / tick_s)
        self._end, self._guard, self._tick_s = end, guard, tick_s
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)

    def start(self) -> None:
        """Begin to look, unless it would lead to nothing."""
        if self._patience:
            self._thread.start()

    def stop(self) -> None:
        """Look no more: the daemon drains, which has a limit of its own. Idempotent; returns at once."""
        self._stopping.set()

    def _run(self) -> None:
        guardian = self._guard() if self._guard else None
        try:
            self._look_on(guardian)
        finally:
            if guardian is not None:
                guardian.close()

    def _look_on(self, guardian: Guarding | None) -> None:
        n_stalled = 0
        while self._await_work(guardian) and not self._stopping.wait(self._tick_s):
            n_stalled = n_stalled + 1 if self._runtime.is_stalled() else 0
            if n_stalled == 1:
                log.error("generation does not move", extra={"grace_looks": self._patience})
            if n_stalled > self._patience:
                self._end()
                return

    def _await_work(self, guardian: Guarding | None) -> bool:
        if guardian is None:
            return self._runtime.wait_for_work()
        if not self._runtime.wait_for_work(0):
            guardian.rest()
        has_work = self._runtime.wait_for_work()
        guardian.beat()
        return has_work


def end_dead(faults: IO[bytes]) -> NoReturn:
    """Write where every thread stands (functions and lines, no values) to `faults`, and end the process."""
    faulthandler.dump_traceback(faults, all_threads=True)
    last_resort = threading.Timer(_FLUSH_S, os._exit, (EXIT_DEAD,))
    last_resort.daemon = True
    last_resort.start()
    log.critical("generation is dead, the process ends", extra={"exit_code": EXIT_DEAD})
    for handler in logging.getLogger().handlers:
        handler.flush()
    print_error("Generation hangs; the process ends, to be started again. See faults.log.")
    os._exit(EXIT_DEAD)
