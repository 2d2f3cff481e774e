"""What is known of one HTTP request when it has ended: the event in the log, and what metrics count.

Ids, lengths, times and fixed words. The path is its route's template: a path may hold ids and names.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace
from typing import cast

from starlette.types import Message, Scope

from api.metrics.instruments import HttpRequest, bounded_method
from api.services import GenerationHandle, GenerationRuntime, Services
from pushkin_runtime.types import (
    Done,
    Event,
    EventSink,
    Failed,
    GenerationRequest,
    GenerationResult,
)

log = logging.getLogger("pushkin.api")

_SWITCHING, _REFUSED = 101, 403


@dataclass(slots=True)
class RequestRecord:
    """Filled while a request is served; in `scope["state"]["record"]`.

    client: for whom its generations are done. n_started: generations of this request. results: those that ended before it did; the others but the failed
    ones are cancelled with it.
    """

    client: str = ""
    status: int = 0
    n_bytes_in: int = 0
    n_bytes_out: int = 0
    n_started: int = 0
    results: list[GenerationResult] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def received(self, message: Message) -> None:
        """Count what the client sent."""
        match message["type"]:
            case "http.request":
                self.n_bytes_in += len(message.get("body", b""))
            case "websocket.receive":
                self.n_bytes_in += _frame_bytes(message)

    def sent(self, message: Message) -> None:
        """Count what the client is sent, and note the status."""
        match message["type"]:
            case "http.response.start":
                self.status = message["status"]
            case "http.response.body":
                self.n_bytes_out += len(message.get("body", b""))
            case "websocket.accept":
                self.status = _SWITCHING
            case "websocket.close":
                self.status = self.status or _REFUSED
            case "websocket.send":
                self.n_bytes_out += _frame_bytes(message)

    def submit(
        self, runtime: GenerationRuntime, wanted: GenerationRequest, sink: EventSink
    ) -> GenerationHandle:
        """Submit a generation of this request and note how it ends. Raises what `submit` raises."""

        def look(event: Event) -> None:
            match event:
                case Done(result):
                    self.results.append(result)
                case Failed(error):
                    self.failures.append(type(error).__name__)
            sink(event)

        handle = runtime.submit(replace(wanted, client=self.client), look)
        self.n_started += 1
        return handle


def record_of(scope: Scope) -> RequestRecord:
    """Return the record of a request that came in through `RequestScopeMiddleware`."""
    return cast("RequestRecord", scope["state"]["record"])


def request_ended(
    scope: Scope, record: RequestRecord, request_id: str, duration_s: float, services: Services
) -> None:
    """Log one event and count the request."""
    method: str = scope.get("method", "WEBSOCKET")
    route = getattr(scope.get("route"), "path", None)
    ended = HttpRequest(
        request_id=request_id,
        method=method,
        route=route,
        status=record.status,
        duration_s=duration_s,
    )
    services.metrics.http_ended(ended)
    if services.trace is not None:
        services.trace.http_ended(ended)
    if services.usage is not None and route and method != "GET" and record.status < 400:
        services.usage.count(f"{method} {route}")
    # Watchers ask for /health and /v1/status every second.
    is_look = method == "GET" and record.status == 200
    log.log(
        logging.DEBUG if is_look else logging.INFO,
        "request finished",
        extra={
            "request_id": request_id,
            "method": bounded_method(method),
            "route": route,
            "status": record.status,
            "duration_ms": round(1000 * duration_s, 3),
            "n_bytes_in": record.n_bytes_in,
            "n_bytes_out": record.n_bytes_out,
            **_generations(record),
        },
    )


def _generations(record: RequestRecord) -> dict[str, object]:
    """What the generations of a request came to; nothing for a request without any."""
    results = record.results
    reasons: list[str] = [c.finish_reason for result in results for c in result.choices]
    reasons += ["failed"] * len(record.failures)
    reasons += ["cancelled"] * (record.n_started - len(results) - len(record.failures))
    if not reasons:
        return {}
    found: dict[str, object] = {"finish_reasons": reasons}
    if results:
        found |= {
            "prompt_tokens": sum(result.usage.prompt_tokens for result in results),
            "cached_tokens": sum(result.usage.cached_tokens for result in results),
            "completion_tokens": sum(result.usage.completion_tokens for result in results),
            "queue_ms": round(max(result.timings.queue_ms for result in results), 3),
            "ttft_ms": _rounded(results[0].timings.ttft_ms),
        }
    return found


def _frame_bytes(message: Message) -> int:
    return len(message.get("bytes") or b"") + len((message.get("text") or "").encode())


def _rounded(milliseconds: float | None) -> float | None:
    return None if milliseconds is None else round(milliseconds, 3)
