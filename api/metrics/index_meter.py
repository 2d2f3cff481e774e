"""The indexer's work, counted from the events it sends, and what it holds."""

from __future__ import annotations

import asyncio
import threading

from prometheus_client import CollectorRegistry, Counter

from indexer.errors import IndexerError
from indexer.records import IndexEvent, Job
from indexer.service import DocumentIndex
from indexer.store import Totals

_WAIT_S = 0.25


class IndexMeter:
    """Any thread; as large as the indexer's own queue."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._lock = threading.Lock()
        self._open: dict[str, Job] = {}
        self._embedded = Counter(
            "pushkin_index_embedded_paragraphs",
            "Paragraphs that got a new vector; its rate is the speed of indexing.",
            registry=registry,
        )
        self._jobs = Counter(
            "pushkin_index_jobs", "Jobs that have ended.", ("kind", "state"), registry=registry
        )

    def heard(self, event: IndexEvent) -> None:
        """Take in one event of the index."""
        job = event.job
        if job is None:
            return
        with self._lock:
            before = self._open.get(job.id)
            if job.finished_at is None:
                self._open[job.id] = job
            else:
                self._open.pop(job.id, None)
        n_before = before.n_embedded if before is not None else 0
        self._embedded.inc(max(0, job.n_embedded - n_before))
        if job.finished_at is not None:
            self._jobs.labels(job.kind, job.state).inc()

    @property
    def n_waiting(self) -> int:
        """Jobs that have not ended."""
        return len(self._open)


async def index_totals(index: DocumentIndex | None) -> Totals | None:
    """What the index holds; None where there is none to ask, or none that answers soon."""
    if index is None:
        return None
    try:
        async with asyncio.timeout(_WAIT_S):
            return await asyncio.wrap_future(index.totals())
    except (IndexerError, TimeoutError):
        return None
