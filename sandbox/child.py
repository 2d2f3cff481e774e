"""A locked-down child from the daemon's side: its pipes, how long it may take, and how it ended.

The child's module calls `sandbox.lockdown` once it has imported all it needs, and then writes `READY`.
"""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import IO, Literal

from sandbox.lockdown import OUT_OF_MEMORY_STATUS, READY

_END_TIMEOUT_S = 5.0
# A library that makes a thread for every core would spend its address space on stacks.
_ENVIRONMENT = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


@dataclass(frozen=True, slots=True)
class Ending:
    """Why a child gave no answer. signal_name: of a "crash"."""

    cause: Literal["late", "processor_time", "memory", "crash", "silence"]
    signal_name: str = ""


class Child:
    """`python -I -m module argument`, used from one thread at a time; whoever makes it calls `end`."""

    def __init__(
        self, module: str, argument: str, environment: Mapping[str, str] = MappingProxyType({})
    ) -> None:
        """argument, environment: others can read them, so they must say nothing private."""
        self._process = subprocess.Popen(
            # Isolated: no PYTHONPATH, no user site, no working directory in the path, nothing of our environment.
            [sys.executable, "-I", "-B", "-m", module, argument],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            # A parser's complaints may quote the file.
            stderr=subprocess.DEVNULL,
            cwd="/",
            env={**_ENVIRONMENT, **environment},
            start_new_session=True,
        )
        self.stdin, self.stdout = _piped(self._process.stdin), _piped(self._process.stdout)
        self._is_ready = False
        self._is_late = False

    def becomes_ready(self, start_s: float) -> bool:
        """Wait until it has locked itself down; False when it ended or took too long instead."""
        if not self._is_ready:
            with self.killed_after(start_s):
                self._is_ready = self.stdout.read(len(READY)) == READY
        return self._is_ready

    @contextlib.contextmanager
    def killed_after(self, seconds: float) -> Iterator[None]:
        """Kill the process when the body takes longer: what waits for its pipe then goes on."""

        def kill() -> None:
            self._is_late = True
            self._process.kill()

        timer = threading.Timer(seconds, kill)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def ending(self) -> Ending:
        """What the file did to the process, as far as its end tells; ends it if it still runs."""
        if self._is_late:
            return Ending("late")
        self._process.kill()
        try:
            status = self._process.wait(_END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            status = 0
        if status == -signal.SIGXCPU:
            return Ending("processor_time")
        if status == OUT_OF_MEMORY_STATUS:
            return Ending("memory")
        if status < 0 and status != -signal.SIGKILL:
            return Ending("crash", signal.Signals(-status).name)
        return Ending("silence")

    def end(self) -> None:
        """Kill it and close its pipes. Idempotent."""
        self._process.kill()
        for pipe in (self.stdin, self.stdout):
            with contextlib.suppress(OSError):
                pipe.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_END_TIMEOUT_S)


def _piped(pipe: IO[bytes] | None) -> IO[bytes]:
    assert pipe is not None
    return pipe
