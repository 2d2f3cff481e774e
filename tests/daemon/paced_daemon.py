"""A daemon whose engine takes one step for each permit that arrives on stdin. Run by the tests."""

from __future__ import annotations

import sys
import threading

from daemon.announce import JsonAnnouncer
from daemon.config import Loaded, load
from daemon.lifecycle import Serving, serve
from daemon.terminal import print_json_line
from pushkin_runtime.engines.scripted_engine import ScriptedEngine
from pushkin_runtime.runtime import Runtime, RuntimeOptions

N_WARM_UP = 16


class Permits(threading.Semaphore):
    """Says on stdout when the engine has to wait for one."""

    def acquire(self, blocking: bool = True, timeout: float | None = None) -> bool:
        if super().acquire(blocking=False):
            return True
        print_json_line({"event": "waiting"})
        return super().acquire()


def main() -> None:
    permits = Permits(N_WARM_UP)

    def read_permits() -> None:
        for line in sys.stdin:
            permits.release(int(line))

    def build(loaded: Loaded) -> Runtime:
        options = RuntimeOptions(model_dir=loaded.paths.models, engine="scripted")
        engine = ScriptedEngine(texts=("word ",), endless=True, permits=permits)
        return Runtime(options, create=lambda choice, options: engine)

    threading.Thread(target=read_permits, daemon=True).start()
    serve(Serving(loaded=load(), announcer=JsonAnnouncer(), build=build))


if __name__ == "__main__":
    main()
