"""The seam for whoever looks on: metrics, usage, traces. Nothing of it is known here, and off it costs nothing.

Each method wraps what it is given, or gives it back as it is; what nobody watches runs unwrapped.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Protocol, TypeVar

from pushkin_runtime.types import EventSink, GenerationRequest

T = TypeVar("T")


class Observer(Protocol):
    """Looks on from the runtime's own threads: it must not block, raise, or change anything."""

    def events(self, request: GenerationRequest, sink: EventSink) -> EventSink:
        """Return where the events of a request go; called by `submit`, on the caller's thread."""

    def units(
        self, request_id: str, stage: Callable[[], str], units: Generator[bool, None, None]
    ) -> Generator[bool, None, None]:
        """Return the units of work of a generation; `stage` names the one that has just been done."""

    def load(self, n_adapters: int, load: Callable[[], T]) -> Callable[[], T]:
        """Return the reading of adapters from disk, which runs on the loader thread."""


class Unobserved:
    """See `Observer`: nobody looks."""

    def events(self, request: GenerationRequest, sink: EventSink) -> EventSink:
        return sink

    def units(
        self, request_id: str, stage: Callable[[], str], units: Generator[bool, None, None]
    ) -> Generator[bool, None, None]:
        return units

    def load(self, n_adapters: int, load: Callable[[], T]) -> Callable[[], T]:
        return load


class ObserverDesk:
    """Whoever looks on at the moment: metrics are built after the model has begun to load."""

    def __init__(self) -> None:
        self.observer: Observer = Unobserved()
