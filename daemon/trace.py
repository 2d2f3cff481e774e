"""`pushkin serve --trace FILE`: what ran on which thread and when, for chrome://tracing or ui.perfetto.dev.

The file is Trace Event Format (JSON): spans of the inference, loader and indexer threads, and of requests from
the first byte in to the last byte out. Ids, counts and fixed words, no text. Only the newest events are kept.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from daemon.log_ids import LogIds
from daemon.paths import replace_private
from pushkin_runtime.types import Done, Event, EventSink, Failed, GenerationRequest

if TYPE_CHECKING:
    from api.metrics.instruments import HttpRequest
    from indexer.records import IndexEvent

log = logging.getLogger(__name__)

MAX_EVENTS = 200_000  # some 30 MB as a file; a story of 512 tokens is about 520

T = TypeVar("T")
Args = Mapping[str, object]


class Trace:
    """Watches the runtime (`pushkin_runtime.observer.Observer`), requests and the index; any thread.

    ids: how ids that clients chose are written.
    """

    def __init__(self, path: Path, ids: LogIds) -> None:
        self._path, self._ids = path, ids
        self._events: deque[dict[str, Any]] = deque(maxlen=MAX_EVENTS)
        self._lock = threading.Lock()
        self._threads: dict[int, str] = {}
        self._pid = os.getpid()
        self._jobs: dict[str, int] = {}
        self.write()  # a file that cannot be written is told at the start

    # -- the runtime ----------------------------------------------------------------------------

    def events(self, request: GenerationRequest, sink: EventSink) -> EventSink:
        began = time.perf_counter_ns()
        shown = self._ids.shown(request.request_id)

        def look(event: Event) -> None:
            match event:
                case Done(result):
                    reasons = ",".join(choice.finish_reason for choice in result.choices)
                    usage = result.usage
                    counts = {
                        "finish_reasons": reasons,
                        "prompt_tokens": usage.prompt_tokens,
                        "cached_tokens": usage.cached_tokens,
                        "completion_tokens": usage.completion_tokens,
                    }
                    self._overlapping(f"generation: {request.task}", shown, began, counts)
                case Failed(error):
                    failed = {"error_type": type(error).__name__}
                    self._overlapping(f"generation: {request.task}", shown, began, failed)
            sink(event)

        return look

    def units(
        self, request_id: str, stage: Callable[[], str], units: Generator[bool, None, None]
    ) -> Generator[bool, None, None]:
        args = {"request_id": self._ids.shown(request_id)}
        with contextlib.closing(units):
            while True:
                began = time.perf_counter_ns()
                try:
                    did_work = next(units)
                except StopIteration:
                    self._span(stage(), began, args)
                    return
                if did_work:
                    self._span(stage(), began, args)
                yield did_work

    def load(self, n_adapters: int, load: Callable[[], T]) -> Callable[[], T]:
        def timed() -> T:
            began = time.perf_counter_ns()
            try:
                return load()
            finally:
                self._span("load adapters", began, {"n_adapters": n_adapters})

        return timed

    # -- the rest of the daemon -----------------------------------------------------------------

    def http_ended(self, request: HttpRequest) -> None:
        """A request has ended, on the event loop."""
        began = time.perf_counter_ns() - round(request.duration_s * 1e9)
        shown = self._ids.shown(request.request_id)
        self._overlapping(request.route or "other", shown, began, {"status": request.status})

    def index_heard(self, event: IndexEvent) -> None:
        """The index told of something; a job's first event on the indexer's thread begins its span."""
        job = event.job
        if job is None or job.state == "queued":
            return
        began = self._jobs.setdefault(job.id, time.perf_counter_ns())
        if job.finished_at is not None:
            del self._jobs[job.id]
            counts = {"state": job.state, "n_paragraphs": job.n_paragraphs}
            self._span(f"index: {job.kind}", began, counts | {"n_embedded": job.n_embedded})

    def write(self) -> None:
        """Put the file (0600) in its place, whole. Raises OSError."""
        with self._lock:
            events = list(self._events)
            threads = dict(self._threads)
        names = [
            {"ph": "M", "name": "thread_name", "pid": self._pid, "tid": tid, "args": {"name": name}}
            for tid, name in threads.items()
        ]
        trace = {"traceEvents": [*names, *events], "displayTimeUnit": "ms"}
        replace_private(self._path, json.dumps(trace, separators=(",", ":")).encode())

    def write_aside(self) -> None:
        """Write on another thread, for a signal's handler."""
        threading.Thread(target=self._try_to_write, name="trace", daemon=True).start()

    # -- helpers --------------------------------------------------------------------------------

    def _try_to_write(self) -> None:
        try:
            self.write()
        except OSError as error:
            log.error("trace not written", extra={"error_type": type(error).__name__})

    def _span(self, name: str, began_ns: int, args: Args) -> None:
        """Something that kept this thread busy from then until now."""
        duration = (time.perf_counter_ns() - began_ns) / 1000
        self._add({"ph": "X", "name": name, "ts": began_ns / 1000, "dur": duration, "args": args})

    def _overlapping(self, name: str, shown_id: str, began_ns: int, args: Args) -> None:
        """Something that went on from then until now, beside others like it."""
        common = {"name": name, "cat": "request", "id": shown_id}
        self._add({**common, "ph": "b", "ts": began_ns / 1000, "args": args})
        self._add({**common, "ph": "e", "ts": time.perf_counter_ns() / 1000})

    def _add(self, event: dict[str, Any]) -> None:
        tid = threading.get_ident()
        with self._lock:
            if tid not in self._threads:
                self._threads[tid] = threading.current_thread().name
            self._events.append({**event, "pid": self._pid, "tid": tid})
