"""The instruments: fed when something ends, never in between, so a token costs nothing.

Labels take fixed words only (tasks, stages, routes as templates); nothing a client chooses becomes one.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Histogram

from api.metrics.index_meter import IndexMeter
from api.metrics.recent import RecentGenerations
from pushkin_runtime.types import GenerationResult, Task, Timings

# From a cached keystroke to a long story on a slow machine, in seconds.
_BUCKETS = (
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
    30.0,
    60.0,
)
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "WEBSOCKET"})
OTHER = "other"


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpRequest:
    """An HTTP request that has ended. route: the template, None when no route was reached.

    request_id: may be one that a client chose.
    """

    request_id: str
    method: str
    route: str | None
    status: int
    duration_s: float


class Metrics:
    """Any thread. Owns the one registry; other parts add their instruments to `registry`.

    clock: seconds, for what is recent.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.registry = CollectorRegistry(auto_describe=True)
        self.recent = RecentGenerations(clock)
        self.index = IndexMeter(self.registry)
        self.llama = LlamaTotals()
        self._http = self._counter(
            "http_requests", "HTTP requests that have ended.", ("method", "route", "status")
        )
        self._http_seconds = self._histogram(
            "http_request_seconds", "From the first byte in to the last byte out.", ("route",)
        )
        self._generations = self._counter(
            "generations", "Generations by how their first choice ended.", ("task", "finish_reason")
        )
        self._stages = self._histogram(
            "stage_seconds",
            "Time of each stage of a generation; ttft and total count from submission.",
            ("task", "stage"),
        )
        self._prompt = self._counter("prompt_tokens", "Tokens of prompts.", ("task",))
        self._cached = self._counter(
            "cached_prompt_tokens", "Tokens of prompts that came from the KV cache.", ("task",)
        )
        self._completion = self._counter("completion_tokens", "Tokens written.", ("task",))

    def http_ended(self, request: HttpRequest) -> None:
        """Count a request of whatever kind."""
        route = request.route or OTHER
        method = bounded_method(request.method)
        self._http.labels(method, route, str(request.status)).inc()
        self._http_seconds.labels(route).observe(request.duration_s)

    def generation_ended(self, task: Task, result: GenerationResult) -> None:
        """Count a generation that did not fail."""
        usage, timings = result.usage, result.timings
        reason = result.choices[0].finish_reason if result.choices else "stop"
        self._generations.labels(task, reason).inc()
        for stage, milliseconds in _stages(timings).items():
            self._stages.labels(task, stage).observe(milliseconds / 1000)
        self._prompt.labels(task).inc(usage.prompt_tokens)
        self._cached.labels(task).inc(usage.cached_tokens)
        self._completion.labels(task).inc(usage.completion_tokens)
        self.recent.add(usage, timings)
        self.llama.add(result)

    def generation_failed(self, task: Task) -> None:
        """Count a generation that broke after it was accepted."""
        self._generations.labels(task, "failed").inc()

    def _counter(self, name: str, what: str, labels: tuple[str, ...]) -> Counter:
        return Counter(f"pushkin_{name}", what, labels, registry=self.registry)

    def _histogram(self, name: str, what: str, labels: tuple[str, ...]) -> Histogram:
        return Histogram(f"pushkin_{name}", what, labels, registry=self.registry, buckets=_BUCKETS)


@dataclass(slots=True)
class LlamaTotals:
    """The sums behind llama-server's names; written on the inference thread alone.

    n_steps: decode steps, each of which wrote one token for every sequence.
    """

    prompt_tokens: int = 0
    prompt_ms: float = 0.0
    predicted_tokens: int = 0
    predicted_ms: float = 0.0
    n_steps: int = 0

    def add(self, result: GenerationResult) -> None:
        """Add what a generation did; tokens from the cache were not processed."""
        usage, timings = result.usage, result.timings
        self.prompt_tokens += usage.prompt_tokens - usage.cached_tokens
        self.prompt_ms += timings.prefill_ms
        self.predicted_tokens += usage.completion_tokens
        self.predicted_ms += timings.decode_ms
        self.n_steps += round(timings.tokens_per_second * timings.decode_ms / 1000)


def bounded_method(method: str) -> str:
    """The method, if it is one that HTTP knows: a client may send any word."""
    return method if method in _METHODS else OTHER


def _stages(timings: Timings) -> dict[str, float]:
    """Milliseconds by stage; without text there is no time to the first of it."""
    stages = {
        "queue": timings.queue_ms,
        "adapter": timings.adapter_ms,
        "persona": timings.persona_ms,
        "prefill": timings.prefill_ms,
        "decode": timings.decode_ms,
        "total": timings.total_ms,
    }
    return stages if timings.ttft_ms is None else {**stages, "ttft": timings.ttft_ms}
