"""Health is what was proved: a recent token, work that moves, or a self-test that comes in time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pushkin_runtime.engines.scripted_engine import ScriptedEngine
from pushkin_runtime.runtime import FRESH_S, SELF_TEST_S, Runtime, RuntimeOptions
from pushkin_runtime.types import Done, GenerationRequest

WARM_UP = 2  # permits: a prefill chunk and a step


class Clock:
    """Seconds that pass only when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def permits() -> threading.Semaphore:
    return threading.Semaphore(WARM_UP)


@pytest.fixture
def runtime(clock: Clock, permits: threading.Semaphore) -> Iterator[Runtime]:
    engine = ScriptedEngine(texts=["a"], endless=True, permits=permits)
    runtime = Runtime(RuntimeOptions(model_dir=Path(), engine="scripted"), lambda *_: engine, clock)
    runtime.start()
    assert runtime.wait_loaded(timeout_s=10)
    yield runtime
    permits.release(1000)
    runtime.close(drain_s=10)


@pytest.fixture
def finished(runtime: Runtime) -> Callable[[GenerationRequest], threading.Event]:
    """Submit a request; the event is set when it is done."""

    def submit(request: GenerationRequest) -> threading.Event:
        done = threading.Event()
        runtime.submit(request, lambda event: done.set() if isinstance(event, Done) else None)
        return done

    return submit


REQUEST = GenerationRequest(request_id="r", task="continue", text="b", max_tokens=3)


def test_a_recent_token_is_health(runtime: Runtime) -> None:
    assert runtime.health().reason == "a token was produced recently"


def test_a_first_request_after_a_quiet_hour_is_no_alarm(
    runtime: Runtime,
    clock: Clock,
    permits: threading.Semaphore,
    finished: Callable[[GenerationRequest], threading.Event],
) -> None:
    clock.now += 3600
    done = finished(REQUEST)

    assert runtime.health().ok
    permits.release(10)
    assert done.wait(10)
    assert runtime.health().reason == "a token was produced recently"


def test_work_that_does_not_move_is_ill(
    runtime: Runtime, clock: Clock, finished: Callable[[GenerationRequest], threading.Event]
) -> None:
    clock.now += 3600
    finished(REQUEST)
    clock.now += FRESH_S + 1

    assert (runtime.health().ok, runtime.health().reason) == (
        False,
        "work is queued but nothing moves",
    )


def test_when_idle_a_self_test_decides(
    runtime: Runtime, clock: Clock, permits: threading.Semaphore
) -> None:
    clock.now += 3600
    assert runtime.health().ok  # starts the test and trusts it
    clock.now += SELF_TEST_S - 1
    assert runtime.health().ok
    clock.now += 2
    assert runtime.health().reason == "the self-test token did not come"

    permits.release(10)
    while runtime.status().last_token_age_s != 0:
        threading.Event().wait(0.005)
    assert runtime.health().ok
