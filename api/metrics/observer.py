"""From the runtime's events to the instruments and the statistics; see `pushkin_runtime.observer.Observer`."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import TypeVar

from api.metrics.instruments import Metrics
from pushkin_runtime.observer import Observer
from pushkin_runtime.types import Done, Event, EventSink, Failed, GenerationRequest
from usage.desk import UsageDesk

T = TypeVar("T")


class GenerationEnds:
    """Counts every generation at its end, and remembers it for feedback, before its client hears of it.

    beyond: another observer.
    """

    def __init__(self, metrics: Metrics, usage: UsageDesk | None, beyond: Observer) -> None:
        self._metrics, self._usage, self._beyond = metrics, usage, beyond

    def events(self, request: GenerationRequest, sink: EventSink) -> EventSink:
        metrics, usage, task = self._metrics, self._usage, request.task
        sink = self._beyond.events(request, sink)

        def count(event: Event) -> None:
            match event:
                case Done(result):
                    metrics.generation_ended(task, result)
                    if usage is not None:
                        usage.remember(request, result)
                case Failed():
                    metrics.generation_failed(task)
            sink(event)

        return count

    def units(
        self, request_id: str, stage: Callable[[], str], units: Generator[bool, None, None]
    ) -> Generator[bool, None, None]:
        return self._beyond.units(request_id, stage, units)

    def load(self, n_adapters: int, load: Callable[[], T]) -> Callable[[], T]:
        return self._beyond.load(n_adapters, load)
