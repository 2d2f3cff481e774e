"""A daemon whose engine, told to on stdin, hangs in a native call that nothing interrupts. Run by the tests.

Told `lock`, the call keeps the interpreter lock as well, so that no Python runs any more.
"""

from __future__ import annotations

import ctypes
import sys
import threading
from collections.abc import Callable

from daemon.announce import JsonAnnouncer
from daemon.config import load
from daemon.lifecycle import Serving, serve
from daemon.runtime_options import runtime_options
from pushkin_runtime.engines.scripted_engine import ScriptedEngine
from pushkin_runtime.runtime import Runtime

HANG_S = 3600


class Trap(threading.Semaphore):
    """Lets every step pass until a line comes on stdin."""

    hang: Callable[[int], int] | None = None

    def acquire(self, blocking: bool = True, timeout: float | None = None) -> bool:
        if self.hang is not None:
            self.hang(HANG_S)
        return True


def main() -> None:
    trap = Trap()

    def listen() -> None:
        is_locking = sys.stdin.readline().strip() == "lock"
        library = ctypes.PyDLL(None) if is_locking else ctypes.CDLL(None)
        trap.hang = library.sleep

    threading.Thread(target=listen, daemon=True).start()
    engine = ScriptedEngine(texts=("word ",), endless=True, permits=trap)
    serve(
        Serving(
            loaded=load(),
            announcer=JsonAnnouncer(),
            build=lambda loaded: Runtime(runtime_options(loaded), create=lambda *_: engine),
        )
    )


if __name__ == "__main__":
    main()
