"""The bare generation loop: the daemon's own runtime in this process, without HTTP."""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.harness import Flags
from daemon.config import load
from daemon.lifecycle import build_runtime
from pushkin_runtime.runtime import Runtime
from pushkin_runtime.types import Delta, Done, Event, Failed, GenerationRequest, GenerationResult

WAIT_S = 600.0  # a long prompt of a large model


@dataclass(frozen=True, slots=True)
class BareRun:
    """One generation; milliseconds from just before `submit`. ttft_ms: None when no text came."""

    ttft_ms: float | None
    total_ms: float
    result: GenerationResult


def bare_runtime(home: Path, flags: Flags) -> contextlib.AbstractContextManager[Runtime]:
    """The runtime that `pushkin serve` with these flags would build, started and ready."""
    settings = {f"runtime.{name}": value for name, value in flags.items()}
    return started(build_runtime(load(settings, env={"PUSHKIN_HOME": str(home)})))


@contextlib.contextmanager
def started(runtime: Runtime) -> Iterator[Runtime]:
    """Start `runtime`, wait until it is ready, close it at the end. Raises RuntimeError if it is not."""
    runtime.start()
    try:
        deadline = time.monotonic() + WAIT_S
        while runtime.status().state == "loading" and time.monotonic() < deadline:
            time.sleep(0.02)
        if runtime.status().state != "ready":
            raise RuntimeError(f"The runtime is not ready: {runtime.status().error}")
        yield runtime
    finally:
        runtime.close(drain_s=5.0)


def run_bare(
    runtime: Runtime, request: GenerationRequest, *, cancel_after: int | None = None
) -> BareRun:
    """Submit, wait for the last event; cancel after so many events. Raises what it failed with."""
    ended = threading.Event()
    first_text_at: list[float] = []
    last: list[tuple[float, Event]] = []

    n_events = itertools.count(1)

    def sink(event: Event) -> None:
        if next(n_events) == cancel_after:
            runtime.cancel(request.request_id)
        if isinstance(event, Delta) and not first_text_at:
            first_text_at.append(time.perf_counter())
        if isinstance(event, Done | Failed):
            last.append((time.perf_counter(), event))
            ended.set()

    started = time.perf_counter()
    runtime.submit(request, sink)
    if not ended.wait(WAIT_S):
        raise RuntimeError(f"{request.request_id} did not end within {WAIT_S:g} s.")
    ended_at, event = last[0]
    if isinstance(event, Failed):
        raise event.error
    assert isinstance(event, Done)
    ttft_ms = (first_text_at[0] - started) * 1000 if first_text_at else None
    return BareRun(ttft_ms, (ended_at - started) * 1000, event.result)
