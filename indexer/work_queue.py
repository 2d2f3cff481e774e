"""What waits to be indexed: one entry a document, the newest; bounded in number and in bytes."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

from indexer.errors import IndexClosed, IndexQueueFull
from indexer.records import Job, Push, PushedText
from pushkin_runtime.pace import Pace


@dataclass(slots=True, kw_only=True, eq=False)
class Waiting:
    """A pushed document on its way. is_cancelled: it was deleted or excluded since."""

    push: Push
    job: Job
    is_cancelled: bool = False
    n_bytes: int = field(init=False)

    def __post_init__(self) -> None:
        content = self.push.content
        if isinstance(content, PushedText):
            self.n_bytes = 4 * len(content.text)  # as a str may take
        else:
            self.n_bytes = len(content.content)


class WorkQueue:
    """Many put, one thread takes. A document in work is not interrupted by a newer push: that one waits."""

    def __init__(self, *, max_documents: int, max_bytes: int) -> None:
        self._max_documents, self._max_bytes = max_documents, max_bytes
        self._changed = threading.Condition()
        self._waiting: dict[str, Waiting] = {}
        self._running: Waiting | None = None
        self._is_closed = False
        self._has_news = False
        self._pace = Pace()

    def put(self, entry: Waiting) -> Waiting | None:
        """Let a document wait; returns the entry that is superseded by this, perhaps `entry` itself.

        Raises IndexQueueFull or IndexClosed.
        """
        with self._changed:
            if self._is_closed:
                raise IndexClosed("The index is shutting down.")
            document_id = entry.push.document_id
            older = self._waiting.get(document_id)
            for other in (older, self._running):
                if other is not None and _is_older(entry, other):
                    return entry
            n_bytes = sum(waiting.n_bytes for waiting in self._waiting.values()) + entry.n_bytes
            n_bytes -= older.n_bytes if older else 0
            is_full = older is None and len(self._waiting) >= self._max_documents
            if is_full or (n_bytes > self._max_bytes and (older is None or len(self._waiting) > 1)):
                raise IndexQueueFull(
                    f"{len(self._waiting)} documents wait to be indexed; push this one again later.",
                    retry_after_s=self._pace.retry_after_s(),
                )
            self._waiting[document_id] = entry
            self._changed.notify_all()
            return older

    def take(self, timeout_s: float | None) -> Waiting | None:
        """Wait for a document and begin with it; None after the time, on `wake` and on `close`."""
        with self._changed:
            self._running = None
            self._changed.wait_for(
                lambda: self._waiting or self._is_closed or self._has_news, timeout_s
            )
            self._has_news = False
            if self._is_closed or not self._waiting:
                return None
            self._running = self._waiting.pop(next(iter(self._waiting)))
            self._pace.moved(is_wanted=bool(self._waiting))
            return self._running

    def cancel(self, document_id: str | None = None) -> list[Waiting]:
        """Give up a document (None: all), also the one in work; returns what was given up."""
        with self._changed:
            given_up = [
                entry
                for entry in (*self._waiting.values(), self._running)
                if entry is not None and document_id in (None, entry.push.document_id)
            ]
            for entry in given_up:
                entry.is_cancelled = True
                self._waiting.pop(entry.push.document_id, None)
            return given_up

    def wake(self) -> None:
        """Make the taker look around."""
        with self._changed:
            self._has_news = True
            self._changed.notify_all()

    def close(self) -> list[Waiting]:
        """Take nothing more; returns what was still waiting. Idempotent."""
        with self._changed:
            self._is_closed = True
            left = list(self._waiting.values())
            self._waiting.clear()
            self._changed.notify_all()
            return left

    @property
    def is_closed(self) -> bool:
        return self._is_closed

    @property
    def is_empty(self) -> bool:
        return not self._waiting

    def __len__(self) -> int:
        return len(self._waiting)


def _is_older(entry: Waiting, other: Waiting) -> bool:
    if entry.push.document_id != other.push.document_id:
        return False
    mine, theirs = entry.push.revision, other.push.revision
    return mine is not None and theirs is not None and mine < theirs
