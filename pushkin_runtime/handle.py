"""A generation as its owner sees it: an id, and a way to end it. Safe from any thread."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from pushkin_runtime.adapter_pool import NO_ADAPTERS, AdapterSet
from pushkin_runtime.types import Done, Event, EventSink, Failed, FinishReason, GenerationRequest

KEYSTROKE_TOKENS = 64  # what is longer can wait for what is shorter


class GenerationHandle:
    """Made by `Runtime.submit`. Ending it is a request: the last event still comes to the sink, within
    one decode step or one prefill chunk.

    adapters: what the request's names stand for. wake: has the inference thread look at ended handles soon.
    on_end: called just before the last event, so that whoever hears it finds the request gone.
    """

    def __init__(
        self,
        request: GenerationRequest,
        sink: EventSink,
        *,
        adapters: AdapterSet = NO_ADAPTERS,
        wake: Callable[[], None],
        on_end: Callable[[GenerationHandle], None],
    ) -> None:
        self.request = request
        self.adapters = adapters
        self.submitted_at = time.monotonic()
        self._sink = sink
        self._wake = wake
        self._on_end = on_end
        self._lock = threading.Lock()
        self._reason: FinishReason | None = None

    @property
    def request_id(self) -> str:
        """The id the events carry."""
        return self.request.request_id

    @property
    def client(self) -> str:
        """Whom it is served for; others have their turns between."""
        return self.request.client

    @property
    def is_long(self) -> bool:
        """Whether nobody waits for it with the finger on a key."""
        request = self.request
        is_typed = request.task not in ("rephrase", "story")
        return not (
            is_typed and (request.max_tokens is None or 0 < request.max_tokens <= KEYSTROKE_TOKENS)
        )

    @property
    def is_ahead(self) -> bool:
        """Whether nobody waits for it at all."""
        return self.request.ahead

    def emit(self, event: Event) -> None:
        """Deliver an event; inference thread only."""
        if isinstance(event, Done | Failed):
            self._on_end(self)
        self._sink(event)

    def fail(self, error: Exception) -> None:
        """Report that the generation broke; inference thread only."""
        self.emit(Failed(error))

    def cancel(self) -> None:
        """End the generation with finish_reason "cancelled". Idempotent; never blocks."""
        self.end("cancelled")

    def end(self, reason: FinishReason) -> None:
        """End the generation with `reason`; the first reason given holds."""
        self.end_quietly(reason)
        self._wake()

    def end_quietly(self, reason: FinishReason) -> None:
        """Like `end`, for a caller that wakes the inference thread itself."""
        with self._lock:
            self._reason = self._reason or reason

    def end_reason(self) -> FinishReason | None:
        """Why the generation must end now, the deadline included; None while it may go on."""
        if self._reason is not None:
            return self._reason
        deadline_ms = self.request.deadline_ms
        if deadline_ms is not None and self.elapsed_ms() >= deadline_ms:
            return "deadline"
        return None

    def elapsed_ms(self) -> float:
        """Milliseconds since `submit`."""
        return (time.monotonic() - self.submitted_at) * 1000
