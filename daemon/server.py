"""Run the web application on open sockets until a signal, then drain.

uvicorn's own `serve` re-raises the signal it was stopped with (exit by SIGTERM, not 0) and wakes
ten times a second for ever; its public steps are called here instead, around an event.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from socket import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from pushkin_runtime.runtime import Runtime

log = logging.getLogger(__name__)

DRAIN_S = 3.0  # open generations: cancelled at once, so this is for the step in flight
_CLOSE_S = 1  # connections whose client does not read
_GIVE_UP_S = 4.8  # whatever hangs, the process is gone before 5 s
_KEEP_ALIVE_S = 120  # a writer's pause; the editor keeps its connection
_MESSAGE_BYTES = 2**20  # of a WebSocket
_READY_POLL_S = 0.02


@dataclass(frozen=True, slots=True)
class Hooks:
    """Called on the main thread. failed: gets the reason; returns whether to stop."""

    ready: Callable[[], None]
    failed: Callable[[str], bool]
    stopping: Callable[[], None]


def run_server(app: ASGIApp, sockets: list[socket], runtime: Runtime, hooks: Hooks) -> None:
    """Serve until SIGTERM or SIGINT; returns when every stream has ended, in at most 5 s."""
    asyncio.run(_serve(app, sockets, runtime, hooks))


async def _serve(app: ASGIApp, sockets: list[socket], runtime: Runtime, hooks: Hooks) -> None:
    import uvicorn

    from daemon.connections import bounded_protocol

    config = uvicorn.Config(
        app,
        http=bounded_protocol(),
        access_log=False,
        log_config=None,
        lifespan="on",
        proxy_headers=False,
        server_header=False,
        date_header=False,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=_CLOSE_S,
        ws="websockets-sansio",  # the other one leans on a deprecated part of that library
        ws_max_size=_MESSAGE_BYTES,
    )
    config.load()
    server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in _stop_signals():
        loop.add_signal_handler(number, stop.set)

    await server.startup(sockets=sockets)
    watcher = asyncio.create_task(_watch_loading(runtime, hooks, stop))
    watcher.add_done_callback(lambda task: stop.set() if _broke(task) else None)
    await stop.wait()

    started = time.monotonic()
    _limit_drain()
    log.info("draining")
    watcher.cancel()
    with contextlib.suppress(OSError):  # the terminal may be gone
        hooks.stopping()
    await _close_runtime(runtime)
    await server.shutdown(sockets=sockets)
    log.info("drained", extra={"drain_ms": round((time.monotonic() - started) * 1000)})
    if _broke(watcher):
        watcher.result()  # raises: a daemon that nobody was told of is none


def _broke(task: asyncio.Task[None]) -> bool:
    return task.done() and not task.cancelled() and task.exception() is not None


def _stop_signals() -> list[signal.Signals]:
    """A closed terminal stops the daemon too, unless `nohup` has asked otherwise."""
    hang_up = [] if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else [signal.SIGHUP]
    return [signal.SIGTERM, signal.SIGINT, *hang_up]


async def _watch_loading(runtime: Runtime, hooks: Hooks, stop: asyncio.Event) -> None:
    """Poll only while the model loads; an idle daemon does not wake up."""
    while True:
        status = runtime.status()
        if status.state == "ready":
            try:
                hooks.ready()
            except OSError:  # a full disk or a closed terminal does not stop the work
                log.exception("could not tell that the daemon is ready")
            return
        if status.state != "loading":
            if hooks.failed(status.error or "no reason given"):
                stop.set()
            return
        await asyncio.sleep(_READY_POLL_S)


async def _close_runtime(runtime: Runtime) -> None:
    """Close on a thread of its own, so that the ends of the streams still reach their clients."""
    closed = asyncio.Event()
    loop = asyncio.get_running_loop()

    def close() -> None:
        try:
            runtime.close(drain_s=DRAIN_S)
        finally:
            loop.call_soon_threadsafe(closed.set)

    threading.Thread(target=close, name="drain", daemon=True).start()
    await closed.wait()


def _limit_drain() -> None:
    """End the process if draining hangs in native code; exit 0, or launchd would start it again."""

    def give_up() -> None:
        log.error("drain gave up", extra={"after_s": _GIVE_UP_S})
        os._exit(0)

    timer = threading.Timer(_GIVE_UP_S, give_up)
    timer.daemon = True
    timer.start()
