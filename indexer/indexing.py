"""The indexer's thread: pushed documents first, folders and re-embedding when none waits, typing before all.

Whatever takes long is a generator that yields between two pieces of work, so that nothing has to be
interrupted: a document that is pushed while a folder is read waits for one file.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

from indexer.errors import IndexerError, IndexQueueFull, code_of
from indexer.job_log import add_job, new_job, save_job
from indexer.pipeline import Incoming, Pipeline, Watcher
from indexer.records import IndexEvent, Job, JobKind, JobState, Push, PushedText
from indexer.types import ExtractedText
from indexer.work_queue import Waiting, WorkQueue

log = logging.getLogger("pushkin.indexer")

MAX_BACKGROUND = 64  # long jobs, those given up included until their turn comes

EventSink = Callable[[IndexEvent], None]
Background = Callable[["Progress"], Iterator[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexingOptions:
    """max_yield_s: after this long beside somebody who types without a pause, one batch is embedded.

    rest_after_s: after this long without work the child process that reads files is ended.
    """

    max_waiting: int = 256
    max_waiting_bytes: int = 256 * 2**20
    max_yield_s: float = 10.0
    busy_poll_s: float = 0.05
    rest_after_s: float = 30.0


@dataclass(slots=True, eq=False)
class Progress:
    """The job of a piece of background work, which that work itself counts up."""

    job: Job
    report: Callable[[Job], None]
    is_cancelled: bool = False

    def count(self, *, n_failed: int = 0, **counts: int) -> None:
        """Add to the counts and tell."""
        added = {name: getattr(self.job, name) + n for name, n in counts.items()}
        self.job = replace(self.job, **added, n_failed=self.job.n_failed + n_failed)
        self.report(self.job)


class Indexer:
    """Owns the thread. `submit` and `start_background` may be called from any other one.

    is_busy: whether somebody waits for the model; asked between batches. sink: gets every event, on the
    thread that caused it; must not block.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        *,
        is_busy: Callable[[], bool],
        sink: EventSink,
        options: IndexingOptions,
    ) -> None:
        self._pipeline = pipeline
        self._db = pipeline.store.db
        self._clock = pipeline.store.clock
        self._is_busy, self._sink, self._options = is_busy, sink, options
        self._queue = WorkQueue(
            max_documents=options.max_waiting, max_bytes=options.max_waiting_bytes
        )
        self._background: deque[tuple[str, Progress, Iterator[None]]] = deque()
        self._due: dict[str, tuple[float, Callable[[], None]]] = {}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="indexer", daemon=True)

    def start(self) -> None:
        """Begin to work."""
        self._thread.start()

    def close(self, timeout_s: float = 5.0) -> bool:
        """Stop after the piece of work in hand; what waits is given up. False: it is still at it."""
        for entry in self._queue.close():
            self._finish(entry.job, "interrupted", error_code="interrupted")
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def submit(self, push: Push) -> Job:
        """Let a document wait to be indexed. Raises IndexQueueFull or IndexClosed."""
        job = new_job("index", self._clock(), push.document_id)
        entry = Waiting(push=push, job=job)
        add_job(self._db, job)
        try:
            superseded = self._queue.put(entry)
        except IndexerError as error:
            self._finish(job, "failed", error_code=code_of(error))
            raise
        self._tell(job)
        if superseded is not None:
            ended = self._finish(superseded.job, "superseded")
            return ended if superseded is entry else job
        return job

    def cancel(self, document_id: str | None = None) -> int:
        """Give up a document, or everything that waits or runs; returns how many documents that were."""
        given_up = self._queue.cancel(document_id)
        for entry in given_up:
            self._finish(entry.job, "cancelled")
        if document_id is None:
            self.cancel_background(None)
        return len(given_up)

    def cancel_background(self, name: str | None) -> None:
        """Give up long work (None: all of it); a piece that is in hand ends without a change."""
        for known, progress, _ in list(self._background):
            if name in (None, known) and not progress.is_cancelled:
                progress.is_cancelled = True
                self._finish(progress.job, "cancelled")

    def background_watcher(self, progress: Progress) -> Watcher:
        """What the pipeline asks while it works for a background job."""
        return Watcher(
            pause=self.pause,
            is_wanted=lambda: not (progress.is_cancelled or self.is_stopping),
        )

    def start_background(self, kind: JobKind, name: str, work: Background) -> Job:
        """Do something long when no document waits; one of that name that has not begun is enough.

        Raises IndexQueueFull.
        """
        for known, waiting, _ in list(self._background):
            is_waiting = waiting.job.state == "queued" and not waiting.is_cancelled
            if known == name and is_waiting:
                return waiting.job
        if len(self._background) >= MAX_BACKGROUND:
            raise IndexQueueFull(
                f"{MAX_BACKGROUND} long jobs are waiting; ask again when they are done."
            )
        job = new_job(kind, self._clock())
        add_job(self._db, job)
        progress = Progress(job, self._tell)
        # One that runs is not enough: what it has seen may have changed again.
        self._background.append((name, progress, work(progress)))
        self._tell(job)
        self._queue.wake()
        return job

    def call_later(self, name: str, delay_s: float, call: Callable[[], None]) -> None:
        """Call from the indexer's thread after a while; an earlier call of that name is forgotten."""
        self._due[name] = (time.monotonic() + delay_s, call)
        self._queue.wake()

    @property
    def is_stopping(self) -> bool:
        """Whether `close` was called."""
        return self._stopping.is_set()

    def is_idle(self) -> bool:
        """Whether nothing waits; what is in hand is known from its job's events."""
        return self._queue.is_empty and not self._background

    def pause(self) -> None:
        """Return when nobody types, at the latest after `max_yield_s`."""
        give_up_at = time.monotonic() + self._options.max_yield_s
        while self._is_busy() and time.monotonic() < give_up_at:
            if self._stopping.wait(self._options.busy_poll_s):
                return

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._step()
            except Exception as error:  # noqa: BLE001 - the thread must outlive whatever happens
                log.error("indexing failed", extra={"error_type": type(error).__qualname__})
                self._sink(IndexEvent(kind="failed", code=code_of(error)))
        self._pipeline.close()

    def _step(self) -> None:
        entry = self._queue.take(0 if self._background else self._time_to_wait())
        if entry is not None or self._background:
            self.call_later("rest", self._options.rest_after_s, self._pipeline.stages.rest)
        if entry is not None:
            self._index(entry)
            return
        self._call_due()
        if self._background and not self._stopping.is_set():
            self._continue_background()

    def _index(self, entry: Waiting) -> None:
        entry.job = replace(entry.job, state="running")
        self._tell(entry.job)

        def progress(n_paragraphs: int, n_embedded: int) -> None:
            entry.job = replace(entry.job, n_paragraphs=n_paragraphs, n_embedded=n_embedded)
            self._tell(entry.job)

        watcher = Watcher(
            pause=self.pause,
            is_wanted=lambda: not (entry.is_cancelled or self._stopping.is_set()),
            progress=progress,
        )
        try:
            outcome = self._pipeline.bring_in(self._incoming(entry.push), watcher)
        except Exception as error:  # noqa: BLE001 - one document must not end the thread
            self._log_failure(entry.job, error)
            if not entry.is_cancelled:
                self._finish(entry.job, "failed", error_code=code_of(error))
            return
        if entry.is_cancelled:
            return  # `cancel` has said so
        entry.job = replace(
            entry.job,
            n_paragraphs=outcome.n_paragraphs,
            n_embedded=outcome.n_embedded,
            n_kept=outcome.n_kept,
            n_removed=outcome.n_removed,
        )
        is_stopped = outcome.state == "cancelled"
        self._finish(entry.job, "interrupted" if is_stopped else outcome.state)

    def _incoming(self, push: Push) -> Incoming:
        content, stages = push.content, self._pipeline.stages
        read: Callable[[], ExtractedText]
        if isinstance(content, PushedText):
            # The marks matter as much as the text does: with other marks it is another document.
            marks = repr((content.markdown, content.ai_ranges)) if content.ai_ranges else ""
            raw = (content.text + marks).encode("utf-8", "surrogatepass")
            read = partial(stages.read_text, content)
        else:
            raw = content.content
            read = partial(stages.read_file, content)
        return Incoming(
            document_id=push.document_id,
            raw=raw,
            read=read,
            revision=push.revision,
            consent_given=push.consent_given,
        )

    def _continue_background(self) -> None:
        _, progress, work = self._background[0]
        if progress.is_cancelled:
            self._background.popleft()
            return
        if progress.job.state == "queued":
            progress.job = replace(progress.job, state="running")
            self._tell(progress.job)
        self.pause()
        try:
            next(work)
        except StopIteration:
            self._end_background(progress, "done")
        except Exception as error:  # noqa: BLE001 - one folder must not end the thread
            self._log_failure(progress.job, error)
            self._end_background(progress, "failed", error_code=code_of(error))

    def _end_background(
        self, progress: Progress, state: JobState, *, error_code: str | None = None
    ) -> None:
        self._background.popleft()  # others only append
        if not progress.is_cancelled:
            self._finish(progress.job, state, error_code=error_code)

    def _time_to_wait(self) -> float | None:
        if not self._due:
            return None
        return max(0.0, min(when for when, _ in list(self._due.values())) - time.monotonic())

    def _call_due(self) -> None:
        now = time.monotonic()
        for name in [name for name, (when, _) in list(self._due.items()) if when <= now]:
            _, call = self._due.pop(name)
            call()

    def _finish(self, job: Job, state: JobState, *, error_code: str | None = None) -> Job:
        ended = replace(job, state=state, error_code=error_code, finished_at=self._clock())
        save_job(self._db, ended)
        self._tell(ended)
        return ended

    def _tell(self, job: Job) -> None:
        self._sink(IndexEvent(kind="job", job=job, document_id=job.document_id))

    def _log_failure(self, job: Job, error: Exception) -> None:
        level = logging.INFO if isinstance(error, IndexerError) else logging.ERROR
        extra = {"job_id": job.id, "code": code_of(error), "error_type": type(error).__qualname__}
        log.log(level, "job failed", extra=extra)
