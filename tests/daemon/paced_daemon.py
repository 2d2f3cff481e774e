"""A daemon whose engine takes one step for each permit that arrives on stdin. Run by the tests."""

from __future__ import annotations

import sys
import threading

from daemon.announce import JsonAnnouncer
from daemon.config import Loaded, load
from daemon.lifecycle import Serving, serve
from pushkin_runtime.engines.scripted_engine import ScriptedEngine
from pushkin_runtime.runtime import Runtime, RuntimeOptions

N_WARM_UP = 8


def main() -> None:
    permits = threading.Semaphore(N_WARM_UP)

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
