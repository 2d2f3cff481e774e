"""The runtime as its callers see it: events, supersession, ends, limits, health, drain."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from adapters.errors import AdapterNotFound
from pushkin_runtime.engines.scripted_engine import ScriptedEngine
from pushkin_runtime.errors import (
    CapabilityMissing,
    Draining,
    EngineFailed,
    EngineUnavailable,
    InvalidRequest,
    NotReady,
    QueueFull,
)
from pushkin_runtime.runtime import Runtime, RuntimeOptions
from pushkin_runtime.types import (
    AdapterRef,
    Delta,
    Done,
    Failed,
    GenerationRequest,
    PersonaRequest,
    Progress,
    Started,
)

Start = Callable[..., Runtime]
Generate = Callable[..., Done]
WARM_UP_STEPS = 1


def request(request_id: str = "r", **fields: Any) -> GenerationRequest:
    fields = {"task": "continue", "text": "Однажды", "max_tokens": 200, **fields}
    return GenerationRequest(request_id=request_id, **fields)


@pytest.fixture
def permits() -> threading.Semaphore:
    """Two for the warm-up and three up to the first letter of a request; tests release the rest."""
    return threading.Semaphore(5)


@pytest.fixture
def gated(permits: threading.Semaphore) -> ScriptedEngine:
    return ScriptedEngine(texts=["абвгд " * 20], endless=True, permits=permits)


def drain(permits: threading.Semaphore) -> None:
    while permits.acquire(blocking=False):
        pass


def test_events_come_in_order_and_carry_the_text(start_runtime: Start, recorder: Any) -> None:
    runtime = start_runtime(scripted=ScriptedEngine(texts=[" жил-был 🦊 лис\n"]))
    sink = recorder()
    runtime.submit(request(text="Однажды"), sink)
    done = sink.finish()

    kinds = [type(event) for event in sink.events]
    assert kinds[0] is Started
    assert kinds[-1] is Done
    assert set(kinds[1:-1]) == {Delta}
    assert "".join(e.text for e in sink.events if isinstance(e, Delta)) == " жил-был 🦊 лис\n"
    choice = done.result.choices[0]
    assert (choice.text, choice.finish_reason, choice.score) == (" жил-был 🦊 лис\n", "stop", -1.0)
    assert done.result.usage.completion_tokens == len(" жил-был 🦊 лис\n".encode()) + 1
    assert done.result.timings.ttft_ms is not None
    assert done.result.timings.total_ms >= done.result.timings.ttft_ms


def test_stop_strings_split_over_tokens_never_leak(
    start_runtime: Start, generate: Generate
) -> None:
    runtime = start_runtime(scripted=ScriptedEngine(texts=["раз два три"]))
    choice = generate(runtime, text="а", stop=("два", "три")).result.choices[0]

    assert (choice.text, choice.finish_reason) == ("раз ", "stop")


def test_length_is_a_finish_reason(start_runtime: Start, generate: Generate) -> None:
    runtime = start_runtime(scripted=ScriptedEngine(texts=["abcdef"]))
    choice = generate(runtime, text="x", max_tokens=3).result.choices[0]

    assert (choice.text, choice.finish_reason) == ("abc", "length")


def test_newest_wins_within_a_step(
    start_runtime: Start, gated: ScriptedEngine, permits: threading.Semaphore, recorder: Any
) -> None:
    runtime = start_runtime(scripted=gated)
    old, new = recorder(), recorder()
    runtime.submit(request("old", document_id="d", revision=1), old)
    old.until(Delta)
    drain(permits)
    runtime.submit(request("new", document_id="d", revision=2, max_tokens=2), new)
    permits.release(1)  # at most the step already begun
    ended = old.finish()

    assert ended.result.choices[0].finish_reason == "superseded"
    permits.release(50)
    assert new.finish().result.choices[0].finish_reason == "length"


def test_an_older_revision_does_not_win(
    start_runtime: Start, gated: ScriptedEngine, permits: threading.Semaphore, recorder: Any
) -> None:
    runtime = start_runtime(scripted=gated)
    current, stale = recorder(), recorder()
    runtime.submit(request("current", document_id="d", revision=5, max_tokens=8), current)
    current.until(Delta)
    runtime.submit(request("stale", document_id="d", revision=4), stale)
    permits.release(50)

    assert stale.finish().result.choices[0].finish_reason == "superseded"
    assert current.finish().result.choices[0].finish_reason == "length"


def test_other_tasks_and_documents_are_left_alone(
    start_runtime: Start, gated: ScriptedEngine, permits: threading.Semaphore, recorder: Any
) -> None:
    runtime = start_runtime(scripted=gated)
    sinks = [recorder() for _ in range(3)]
    runtime.submit(request("a", document_id="d", max_tokens=4), sinks[0])
    runtime.submit(request("b", document_id="e", max_tokens=4), sinks[1])
    runtime.submit(request("c", document_id="d", task="story", max_tokens=4), sinks[2])
    permits.release(100)

    assert [s.finish().result.choices[0].finish_reason for s in sinks] == ["length"] * 3


def test_cancel_in_the_middle_of_a_prefill(
    start_runtime: Start, gated: ScriptedEngine, permits: threading.Semaphore, recorder: Any
) -> None:
    runtime = start_runtime(scripted=gated, prefill_chunk=8)
    drain(permits)
    sink = recorder()
    handle = runtime.submit(request(text="x" * 400), sink)
    permits.release(2)
    sink.until(Progress)
    sink.until(Progress)
    n_prefills = gated.n_prefills
    handle.cancel()
    permits.release(1)
    done = sink.finish()

    assert done.result.choices[0].finish_reason == "cancelled"
    assert gated.n_prefills <= n_prefills + 1
    permits.release(1000)
    again = recorder()
    runtime.submit(request("again", text="x" * 400, max_tokens=1), again)
    assert again.finish().result.usage.cached_tokens >= 16  # the work done before was kept


def test_cancel_by_id(
    start_runtime: Start, gated: ScriptedEngine, permits: threading.Semaphore, recorder: Any
) -> None:
    runtime = start_runtime(scripted=gated)
    sink = recorder()
    runtime.submit(request("mine"), sink)
    sink.until(Delta)

    assert runtime.cancel("mine")
    permits.release(5)
    assert sink.finish().result.choices[0].finish_reason == "cancelled"
    assert not runtime.cancel("mine")
    assert not runtime.cancel("never")


def test_deadline_returns_what_exists(
    start_runtime: Start, gated: ScriptedEngine, permits: threading.Semaphore, recorder: Any
) -> None:
    runtime = start_runtime(scripted=gated)
    sink = recorder()
    handle = runtime.submit(request(deadline_ms=300), sink)
    sink.until(Delta)
    while handle.end_reason() is None:  # the clock itself is what is tested
        time.sleep(0.01)
    permits.release(3)
    choice = sink.finish().result.choices[0]

    assert choice.finish_reason == "deadline"
    assert choice.text.startswith("а")


def test_a_request_that_expires_in_the_queue_ends_without_work(
    start_runtime: Start, gated: ScriptedEngine, permits: threading.Semaphore, recorder: Any
) -> None:
    runtime = start_runtime(scripted=gated, max_active=1)
    first, second = recorder(), recorder()
    runtime.submit(request("first", max_tokens=9), first)
    first.until(Delta)
    handle = runtime.submit(request("second"), second)
    handle.cancel()
    permits.release(2)
    done = second.finish()

    assert done.result.choices[0].finish_reason == "cancelled"
    assert done.result.usage.completion_tokens == 0
    assert done.result.choices[0].score == float("-inf")
    permits.release(500)
    first.finish()


def test_a_long_story_does_not_starve_a_keystroke(
    start_runtime: Start, generate: Generate, recorder: Any
) -> None:
    engine = ScriptedEngine(texts=["x"], endless=True)
    runtime = start_runtime(scripted=engine)
    story = recorder()
    handle = runtime.submit(request("story", task="story", max_tokens=1024), story)
    story.until(Delta)
    generate(runtime, text="a", max_tokens=3)

    assert not any(isinstance(event, Done) for event in story.events)
    handle.cancel()
    story.finish()


def test_the_queue_is_bounded(
    start_runtime: Start, gated: ScriptedEngine, permits: threading.Semaphore, recorder: Any
) -> None:
    runtime = start_runtime(scripted=gated, queue_limit=2, max_active=1)
    sinks = [recorder() for _ in range(4)]
    runtime.submit(request("0", max_tokens=2), sinks[0])
    sinks[0].until(Started)
    runtime.submit(request("1", max_tokens=2), sinks[1])
    runtime.submit(request("2", max_tokens=2), sinks[2])

    with pytest.raises(QueueFull, match="2 requests are already waiting"):
        runtime.submit(request("3", max_tokens=2), sinks[3])
    permits.release(100)
    assert [s.finish().result.choices[0].finish_reason for s in sinks[:3]] == ["length"] * 3


def test_one_failure_is_one_failure(start_runtime: Start, recorder: Any) -> None:
    engine = ScriptedEngine(texts=["abcdef"], fail_at=WARM_UP_STEPS + 3)
    runtime = start_runtime(scripted=engine)
    sink = recorder()
    runtime.submit(request("broken"), sink)

    with pytest.raises(EngineFailed):
        sink.finish()
    assert isinstance(sink.events[-1], Failed)
    engine.fail_at = None
    after = recorder()
    runtime.submit(request("after"), after)
    assert after.finish().result.choices[0].text == "abcdef"


def test_requests_that_cannot_be_done_are_refused_at_once(start_runtime: Start) -> None:
    runtime = start_runtime(scripted=ScriptedEngine())
    refused: list[tuple[dict[str, Any], type[Exception], str]] = [
        ({"adapters": (AdapterRef("formal"),)}, AdapterNotFound, "adapters[0].name"),
        ({"quality": "best"}, CapabilityMissing, "quality"),
        ({"persona": PersonaRequest(documents=("d1",))}, InvalidRequest, "persona"),
    ]
    for fields, error, param in refused:
        with pytest.raises(error) as caught:
            runtime.submit(request(**fields), lambda _: None)
        assert caught.value.param == param  # type: ignore[attr-defined]


def test_a_request_id_is_unique_while_it_runs(
    start_runtime: Start, gated: ScriptedEngine, permits: threading.Semaphore, recorder: Any
) -> None:
    runtime = start_runtime(scripted=gated)
    sink = recorder()
    runtime.submit(request("same", max_tokens=2), sink)
    with pytest.raises(InvalidRequest):
        runtime.submit(request("same"), lambda _: None)
    permits.release(50)
    sink.finish()


def test_whoever_hears_the_last_event_finds_the_request_gone(start_runtime: Start) -> None:
    runtime = start_runtime(scripted=ScriptedEngine(texts=["a"]))
    ended = threading.Event()
    known: list[bool] = []

    def sink(event: object) -> None:
        if isinstance(event, Done):
            known.append(runtime.cancel("r"))
            ended.set()

    runtime.submit(request("r"), sink)

    assert ended.wait(10)
    assert known == [False]


def test_status_health_and_load_failure(start_runtime: Start, tmp_path: Path) -> None:
    ready = start_runtime(scripted=ScriptedEngine())
    assert ready.status().state == "ready"
    assert ready.health().ok

    broken = start_runtime(tmp_path / "nowhere", engine="torch")
    assert broken.status().state == "failed"
    assert "No model folder" in (broken.status().error or "")
    assert not broken.health().ok
    with pytest.raises(NotReady) as caught:
        broken.submit(request(), lambda _: None)
    assert caught.value.retry_after_s is None


def test_while_loading_callers_are_told_to_come_back() -> None:
    gate = threading.Event()

    def create(*_: object) -> ScriptedEngine:
        gate.wait(10)
        return ScriptedEngine()

    runtime = Runtime(RuntimeOptions(model_dir=Path(), engine="scripted"), create=create)
    runtime.start()
    with pytest.raises(NotReady) as caught:
        runtime.submit(request(), lambda _: None)
    assert caught.value.retry_after_s == 1
    assert (runtime.health().ok, runtime.health().retry_after_s) == (False, 1)
    gate.set()
    runtime.wait_loaded(timeout_s=10)
    assert runtime.health().ok
    assert runtime.close(drain_s=5)


def test_close_ends_open_streams_as_cancelled(
    gated: ScriptedEngine, permits: threading.Semaphore, start_runtime: Start, recorder: Any
) -> None:
    runtime = start_runtime(scripted=gated)
    sink = recorder()
    runtime.submit(request(max_tokens=1024), sink)
    sink.until(Delta)
    closed: list[bool] = []
    closing = threading.Thread(target=lambda: closed.append(runtime.close(drain_s=10)))
    closing.start()
    while runtime.status().state != "draining":
        time.sleep(0.001)
    permits.release(500)
    closing.join()

    assert closed == [True]
    assert sink.finish().result.choices[0].finish_reason == "cancelled"
    with pytest.raises(Draining):
        runtime.submit(request(), lambda _: None)


def test_unknown_engine_names_the_known_ones() -> None:
    with pytest.raises(EngineUnavailable, match="auto, mlx, onnx, torch"):
        Runtime(RuntimeOptions(model_dir=Path(), engine="cuda"))
