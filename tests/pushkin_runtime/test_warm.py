"""Reading ahead: alone, last of all, ended by whatever comes, and never computed twice."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pushkin_runtime.engines.scripted_engine import ScriptedEngine
from pushkin_runtime.reading import AHEAD_CHUNK
from pushkin_runtime.runtime import Runtime
from pushkin_runtime.types import Done, GenerationRequest, Progress, Started

Start = Callable[..., Runtime]
Generate = Callable[..., Done]
TEXT = "The old house stood by the river, and nobody had lived in it. " * 3
WARM_UP = 2  # permits that loading takes


def ahead(request_id: str, **fields: Any) -> GenerationRequest:
    fields = {"task": "continue", "text": TEXT, **fields}
    return GenerationRequest(request_id=request_id, ahead=True, **fields)


@pytest.fixture
def permits() -> threading.Semaphore:
    return threading.Semaphore(WARM_UP)


@pytest.fixture
def gated(permits: threading.Semaphore) -> ScriptedEngine:
    return ScriptedEngine(texts=["abc"], permits=permits)


def finish_reason(done: Done) -> str:
    return done.result.choices[0].finish_reason


@pytest.mark.parametrize("task", ["continue", "rephrase", "story"])
def test_what_was_read_ahead_is_not_read_again_for_the_first_token(
    task: str, tiny_model: Path, start_runtime: Start, generate: Generate
) -> None:
    runtime = start_runtime(tiny_model, engine="torch")
    fields = {"task": task, "text": TEXT, "max_tokens": 20}
    warmed = generate(runtime, ahead=True, **fields).result
    real = generate(runtime, **fields).result

    assert warmed.usage.completion_tokens == 0
    assert warmed.choices[0].text == ""
    assert real.usage.cached_tokens == real.usage.prompt_tokens
    assert real.choices[0].text


def test_a_real_request_ends_it_within_a_chunk_and_has_what_was_read(
    start_runtime: Start, gated: ScriptedEngine, permits: threading.Semaphore, recorder: Any
) -> None:
    runtime = start_runtime(scripted=gated)
    warming, real = recorder(), recorder()
    runtime.submit(ahead("w"), warming)
    permits.release(2)
    warming.until(Progress)
    warming.until(Progress)
    request = GenerationRequest(request_id="r", task="continue", text=TEXT, max_tokens=2)
    runtime.submit(request, real)
    permits.release(1)  # the chunk that is under way
    assert finish_reason(warming.finish()) == "superseded"
    permits.release(100)
    started = real.until(Started)
    assert isinstance(started, Started)
    real.finish()

    assert started.cached_tokens == 3 * AHEAD_CHUNK


def test_it_waits_until_there_is_nothing_else(
    start_runtime: Start, gated: ScriptedEngine, permits: threading.Semaphore, recorder: Any
) -> None:
    gated.endless = True
    runtime = start_runtime(scripted=gated)
    real, warming = recorder(), recorder()
    request = GenerationRequest(request_id="r", task="continue", text="a", max_tokens=30)
    runtime.submit(request, real)
    real.until(Started)
    runtime.submit(ahead("w"), warming)
    permits.release(1000)
    real.finish()
    warming.finish()

    n_real = len(real.events)
    assert finish_reason(real.events[n_real - 1]) == "length"
    assert finish_reason(warming.events[-1]) == "length"


def test_a_newer_one_for_the_document_replaces_it_and_no_real_request(
    start_runtime: Start, gated: ScriptedEngine, permits: threading.Semaphore, recorder: Any
) -> None:
    runtime = start_runtime(scripted=gated)
    sinks = {name: recorder() for name in ("real", "old", "new", "other")}
    request = GenerationRequest(
        request_id="real", task="continue", text="a", document_id="d", max_tokens=2
    )
    runtime.submit(request, sinks["real"])
    runtime.submit(ahead("old", document_id="d", revision=1), sinks["old"])
    runtime.submit(ahead("new", document_id="d", revision=2, task="rephrase"), sinks["new"])
    runtime.submit(ahead("other", document_id="e"), sinks["other"])
    permits.release(1000)

    reasons = {name: finish_reason(sink.finish()) for name, sink in sinks.items()}
    assert reasons == {"real": "length", "old": "superseded", "new": "length", "other": "length"}


def test_it_can_be_cancelled_by_its_id(
    start_runtime: Start, gated: ScriptedEngine, permits: threading.Semaphore, recorder: Any
) -> None:
    runtime = start_runtime(scripted=gated)
    sink = recorder()
    runtime.submit(ahead("w"), sink)
    assert runtime.cancel("w")
    permits.release(1000)

    assert finish_reason(sink.finish()) == "cancelled"
