"""An observer sees every unit and every event, and changes nothing."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from pushkin_runtime.adapter_pool import AdapterOptions
from pushkin_runtime.engines.scripted_engine import BASE, ScriptedEngine
from pushkin_runtime.observer import Unobserved
from pushkin_runtime.runtime import Runtime, RuntimeOptions
from pushkin_runtime.types import AdapterRef, Done, Event, EventSink, GenerationRequest

T = TypeVar("T")


class Watcher:
    """Writes down what it is shown."""

    def __init__(self) -> None:
        self.seen: list[Event] = []
        self.stages: list[str] = []
        self.loads: list[int] = []

    def events(self, request: GenerationRequest, sink: EventSink) -> EventSink:
        def look(event: Event) -> None:
            self.seen.append(event)
            sink(event)

        return look

    def units(
        self, request_id: str, stage: Callable[[], str], units: Iterator[bool]
    ) -> Iterator[bool]:
        for did_work in units:
            self.stages.append(stage())
            yield did_work

    def load(self, n_adapters: int, load: Callable[[], T]) -> Callable[[], T]:
        self.loads.append(n_adapters)
        return load


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[], Runtime]]:
    made: list[Runtime] = []

    def started() -> Runtime:
        options = RuntimeOptions(
            model_dir=tmp_path,
            engine="scripted",
            prefill_chunk=4,
            adapters=AdapterOptions(roots=(tmp_path,)),
        )
        runtime = Runtime(options, create=lambda *_: ScriptedEngine(texts=("abcdef",)))
        made.append(runtime)
        runtime.start()
        assert runtime.wait_loaded(10)
        return runtime

    yield started
    for runtime in made:
        runtime.close(drain_s=10)


def write(runtime: Runtime, *adapters: AdapterRef) -> str:
    events: queue.SimpleQueue[Event] = queue.SimpleQueue()
    request = GenerationRequest(
        request_id="r", task="continue", text="0123456789", max_tokens=5, adapters=adapters
    )
    runtime.submit(request, events.put)
    while True:
        event = events.get(timeout=10)
        if isinstance(event, Done):
            return event.result.choices[0].text


def test_what_is_watched_is_what_would_be_done_anyway(start, tmp_path, write_adapter):
    write_adapter(tmp_path, "formal", BASE)
    watcher = Watcher()
    watched, alone = start(), start()
    watched.observe(watcher)

    texts = [write(runtime, AdapterRef("formal")) for runtime in (watched, alone)]

    assert texts[0] == texts[1]
    assert watcher.loads == [1]
    assert watcher.stages.count("prefill") == 3  # <bos> and 10 bytes but the last, 4 at a time
    # Of 5 tokens: the first comes with the last prefill, the last unit ends the generation.
    assert watcher.stages.count("decode") == 3
    assert watcher.stages[0] in ("adapter", "prefill")
    assert isinstance(watcher.seen[-1], Done)


def test_without_an_observer_nothing_is_wrapped():
    nobody, units, sink = Unobserved(), iter((True,)), lambda event: None
    request = GenerationRequest(request_id="r", task="continue", text="a")

    assert nobody.units("r", str, units) is units
    assert nobody.events(request, sink) is sink
    assert nobody.load(1, str) is str
