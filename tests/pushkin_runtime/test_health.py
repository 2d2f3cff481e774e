"""Health is what was proved: a recent token, work that moves, or a self-test that comes in time.

Time passes only when told to; the engine works only when permitted to.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pushkin_runtime.engines.scripted_engine import ScriptedEngine
from pushkin_runtime.errors import EngineFailed, NotReady
from pushkin_runtime.liveness import SELF_TEST_S, SLACK, STALL_S, Clocks, Liveness
from pushkin_runtime.runtime import Runtime, RuntimeOptions
from pushkin_runtime.types import Done, Event, Failed, GenerationRequest

WARM_UP = 2  # permits: a prefill chunk and a step
GUARD_S = 10.0


class Clock:
    """The machine's two clocks."""

    def __init__(self) -> None:
        self.awake = 1000.0
        self.asleep = 0.0
        self.clocks = Clocks(awake=lambda: self.awake, continuous=lambda: self.awake + self.asleep)

    def watch(self, seconds: float, look: Callable[[], object]) -> None:
        """Let time pass while somebody looks every second."""
        for _ in range(round(seconds)):
            self.awake += 1
            look()

    def sleep(self, seconds: float) -> None:
        """Suspend the machine."""
        self.asleep += seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def permits() -> threading.Semaphore:
    return threading.Semaphore(WARM_UP)


@pytest.fixture
def engine(permits: threading.Semaphore) -> ScriptedEngine:
    return ScriptedEngine(texts=["a"], endless=True, permits=permits)


@pytest.fixture
def runtime(
    clock: Clock, permits: threading.Semaphore, engine: ScriptedEngine
) -> Iterator[Runtime]:
    options = RuntimeOptions(model_dir=Path(), engine="scripted")
    runtime = Runtime(options, lambda *_: engine, clock.clocks)
    runtime.start()
    assert runtime.wait_loaded(timeout_s=GUARD_S)
    yield runtime
    permits.release(1000)
    runtime.close(drain_s=GUARD_S)


@pytest.fixture
def finished(runtime: Runtime) -> Callable[[], threading.Event]:
    """Submit a request; the event is set when it is done."""
    request = GenerationRequest(request_id="r", task="continue", text="b", max_tokens=3)

    def submit() -> threading.Event:
        done = threading.Event()
        runtime.submit(request, lambda event: done.set() if isinstance(event, Done) else None)
        return done

    return submit


def until(is_so: Callable[[], bool]) -> None:
    """Wait for what another thread does without saying so."""
    for _ in range(int(GUARD_S * 1000)):
        if is_so():
            return
        threading.Event().wait(0.001)
    pytest.fail("waited in vain")


def test_a_recent_token_is_health(runtime: Runtime) -> None:
    assert runtime.health().reason == "a token was produced recently"


def test_a_first_request_after_a_quiet_hour_is_no_alarm(
    runtime: Runtime,
    clock: Clock,
    permits: threading.Semaphore,
    finished: Callable[[], threading.Event],
) -> None:
    clock.awake += 3600
    done = finished()

    assert runtime.health().ok
    permits.release(10)
    assert done.wait(GUARD_S)
    assert runtime.health().reason == "a token was produced recently"


def test_work_that_does_not_move_is_ill_and_no_more_is_taken(
    runtime: Runtime, clock: Clock, finished: Callable[[], threading.Event]
) -> None:
    finished()
    clock.watch(STALL_S - 1, runtime.health)
    assert runtime.health().ok
    assert not runtime.is_stalled()
    clock.watch(2, runtime.health)

    ill = runtime.health()
    assert (ill.ok, ill.reason) == (False, "work is queued but nothing moves")
    assert ill.retry_after_s is not None
    assert runtime.is_stalled()
    with pytest.raises(NotReady):
        finished()


def test_after_a_stall_a_self_test_decides(
    runtime: Runtime,
    clock: Clock,
    permits: threading.Semaphore,
    finished: Callable[[], threading.Event],
) -> None:
    done = finished()
    clock.watch(STALL_S + 2, runtime.health)
    permits.release(2)  # a chunk and a step come after all
    until(lambda: runtime.health().ok)
    permits.release(10)
    assert done.wait(GUARD_S)

    assert runtime.health().reason == "a token was produced recently"


def test_when_idle_a_self_test_decides(
    runtime: Runtime, clock: Clock, permits: threading.Semaphore
) -> None:
    clock.awake += 3600
    assert runtime.health().ok  # starts the test and trusts it
    clock.watch(SELF_TEST_S - 1, runtime.health)
    assert runtime.health().ok
    clock.watch(2, runtime.health)
    assert runtime.health().reason == "the self-test token did not come"

    permits.release(10)
    until(lambda: runtime.status().last_token_age_s == 0)
    assert runtime.health().ok


def test_an_engine_that_breaks_is_tested_and_one_that_stays_broken_is_ill(
    runtime: Runtime, clock: Clock, permits: threading.Semaphore, engine: ScriptedEngine
) -> None:
    permits.release(1000)
    ended: queue.SimpleQueue[Event] = queue.SimpleQueue()
    engine.fail_at = engine.n_steps
    request = GenerationRequest(request_id="r", task="continue", text="b", max_tokens=3)
    runtime.submit(request, lambda event: ended.put(event) if isinstance(event, Failed) else None)
    ended.get(timeout=GUARD_S)
    assert runtime.wait_for_work(0)  # whoever watches has something to look at
    until(runtime.is_stalled)  # each look asks for a self-test
    assert runtime.health().reason == "the self-test failed"
    assert not runtime.health().ok

    engine.fail_at = None
    until(lambda: not runtime.is_stalled())
    assert runtime.health().ok
    until(lambda: not runtime.wait_for_work(0))


def test_an_engine_that_broke_once_is_trusted_again_after_a_self_test(
    runtime: Runtime, permits: threading.Semaphore, engine: ScriptedEngine
) -> None:
    permits.release(1000)
    ended: queue.SimpleQueue[Event] = queue.SimpleQueue()
    engine.fail_at = engine.n_steps

    def heard(event: Event) -> None:
        if isinstance(event, Failed):
            engine.fail_at = None
            ended.put(event)

    runtime.submit(
        GenerationRequest(request_id="r", task="continue", text="b", max_tokens=3), heard
    )
    ended.get(timeout=GUARD_S)
    assert runtime.health().reason == "idle; a self-test token is on its way"
    assert not runtime.is_stalled()

    until(lambda: runtime.health().reason == "a token was produced recently")
    until(lambda: not runtime.wait_for_work(0))


def test_after_a_sleep_no_older_token_counts(
    runtime: Runtime, clock: Clock, permits: threading.Semaphore
) -> None:
    clock.awake += 1
    assert runtime.health().reason == "a token was produced recently"
    clock.sleep(20)  # shorter than a token stays fresh

    assert runtime.health().reason == "idle; a self-test token is on its way"
    permits.release(10)
    until(lambda: runtime.health().reason == "a token was produced recently")


@pytest.mark.parametrize("pause", ["sleep", "stop"])
def test_a_sleep_or_a_debugger_in_the_middle_of_a_step_is_no_stall(
    runtime: Runtime, clock: Clock, finished: Callable[[], threading.Event], pause: str
) -> None:
    finished()
    clock.watch(STALL_S / 2, runtime.health)
    if pause == "sleep":
        clock.sleep(8 * 3600)
    else:
        clock.awake += 8 * 3600  # the process was stopped: nobody looked

    assert runtime.health().ok
    assert not runtime.is_stalled()
    clock.watch(STALL_S / 2 + 2, runtime.health)
    assert runtime.is_stalled()


def test_an_idle_runtime_gives_nobody_a_reason_to_wake_up(
    runtime: Runtime, permits: threading.Semaphore, finished: Callable[[], threading.Event]
) -> None:
    until(lambda: not runtime.wait_for_work(0))
    done = finished()
    assert runtime.wait_for_work(0)
    permits.release(10)
    assert done.wait(GUARD_S)

    until(lambda: not runtime.wait_for_work(0))


def test_a_slow_model_may_take_long_over_a_chunk(clock: Clock) -> None:
    liveness = Liveness(clock.clocks, prefill_chunk=128)

    def unit(seconds: float, n_tokens: int) -> None:
        liveness.begin()
        clock.watch(seconds, lambda: liveness.is_stalled)
        liveness.note(n_tokens, True)
        liveness.end()

    assert liveness.limit_s == STALL_S
    liveness.work()
    unit(1, 1)  # a step of one second: a chunk of 128 tokens takes at most 128
    assert liveness.limit_s == 128
    liveness.begin()
    clock.watch(100, lambda: liveness.is_stalled)
    assert not liveness.is_stalled
    liveness.end()
    assert liveness.limit_s == pytest.approx(SLACK * 100)


def test_a_limit_forgets_one_slow_moment(clock: Clock) -> None:
    liveness = Liveness(clock.clocks, prefill_chunk=1)
    liveness.work()
    liveness.begin()
    clock.watch(20, lambda: liveness.is_stalled)
    liveness.end()
    assert liveness.limit_s == SLACK * 20
    for _ in range(300):
        liveness.begin()
        liveness.end()

    assert liveness.limit_s == STALL_S


def test_a_thread_that_died_is_ill_at_once_and_nobody_waits_for_it(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threading, "excepthook", lambda _: None)
    is_queued = threading.Event()
    ended: queue.SimpleQueue[Event] = queue.SimpleQueue()

    def broken(event: Event) -> None:
        is_queued.wait(GUARD_S)
        raise RuntimeError("a sink must not raise")

    def request(request_id: str) -> GenerationRequest:
        return GenerationRequest(request_id=request_id, task="continue", text="b")

    runtime.submit(request("breaks"), broken)
    runtime.submit(request("waits"), ended.put)
    is_queued.set()
    last = ended.get(timeout=GUARD_S)

    assert isinstance(last, Failed)
    assert isinstance(last.error, EngineFailed)
    assert runtime.health().reason == "the inference thread has ended"
    assert runtime.is_stalled()
    assert runtime.wait_for_work(0)  # whoever watches is told
    with pytest.raises(NotReady):
        runtime.submit(request("late"), ended.put)
