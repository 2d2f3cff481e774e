"""Ends a process in which no Python runs any more: a native call that hangs and holds the interpreter lock stops the
watchdog's thread too, so another process has to look.

`python -I -S guardian.py LOOKS PID`, a process of some megabytes, reads a byte a second from the watchdog while there is
work and sleeps while there is none. Each look without a byte counts once, however long the machine slept meanwhile, and
none counts while the process is stopped or under a debugger. At the end SIGABRT has `faulthandler` write the stacks, without
that lock, and kills; launchd starts anew after any death by a signal. Run as a script, so it imports nothing of ours.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable

BEAT = b"."
REST = b"_"
LOOK_S = 1.0
_ABORT_S = 5.0  # to write the stacks
_HELD = frozenset("tTX")  # of `ps -o state=`: stopped, traced


class Guardian:
    """The daemon's side. Made, used and closed by the watchdog's thread."""

    def __init__(self, patience_s: float) -> None:
        """patience_s: how long nothing may be heard while there is work."""
        looks = max(2, round(patience_s / LOOK_S))
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", __file__, str(looks), str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            env={},
            start_new_session=True,  # Ctrl-C is for the daemon
        )
        assert self._process.stdin is not None
        self._descriptor = self._process.stdin.fileno()
        os.set_blocking(self._descriptor, False)

    def beat(self) -> None:
        """There is work, and Python runs."""
        self._tell(BEAT)

    def rest(self) -> None:
        """There is nothing to do: nothing will be heard, and nothing has to be."""
        self._tell(REST)

    def close(self) -> None:
        """Let it go; it ends when its pipe does. Idempotent."""
        with contextlib.suppress(OSError):
            self._process.communicate(timeout=LOOK_S)

    def _tell(self, what: bytes) -> None:
        # A guardian that somebody has killed protects no more, and one that is suspended hears later.
        with contextlib.suppress(OSError, ValueError):
            os.write(self._descriptor, what)


def watch(
    hear: Callable[[float | None], bytes],
    n_looks: int,
    is_held: Callable[[], bool],
) -> bool:
    """Return True once `n_looks` looks in a row heard nothing while there was work, False when the other side has gone.

    hear: waits so many seconds, None for ever; returns what came, b"" at the end, raises TimeoutError without any.
    """
    is_working, n_silent = False, 0
    while True:
        try:
            heard = hear(LOOK_S if is_working else None)
        except TimeoutError:
            n_silent += 1
            if n_silent > 1 and is_held():  # one silent look is between two beats
                n_silent = 0
            if n_silent >= n_looks:
                return True
            continue
        if not heard:
            return False
        is_working, n_silent = heard.endswith(BEAT), 0


def is_held(pid: int) -> bool:
    """Whether a process is stopped or traced, and so has no say in its silence."""
    command = ["/bin/ps", "-o", "state=", "-p", str(pid)]
    try:
        told = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return False
    return bool(_HELD.intersection(told.stdout))


def main(arguments: list[str]) -> None:
    """The guardian's process."""
    n_looks, pid = int(arguments[0]), int(arguments[1])

    def hear(timeout_s: float | None) -> bytes:
        if not select.select([0], [], [], timeout_s)[0]:
            raise TimeoutError
        return os.read(0, 4096)

    if not watch(hear, n_looks, lambda: is_held(pid)) or os.getppid() != pid:
        return
    os.kill(pid, signal.SIGABRT)
    if not select.select([0], [], [], _ABORT_S)[0]:  # its end of the pipe closes when it dies
        os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    main(sys.argv[1:])
