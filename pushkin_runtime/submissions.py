"""Which generations are under way, and which one of a document is the newest."""

from __future__ import annotations

import threading
from collections.abc import Callable

from pushkin_runtime.errors import InvalidRequest
from pushkin_runtime.handle import GenerationHandle
from pushkin_runtime.types import GenerationRequest

Slot = tuple[str, str]
_AHEAD = "ahead"  # in the place of a task


class Submissions:
    """Any thread. n_entered: generations ever taken."""

    def __init__(self) -> None:
        self.n_entered = 0
        self._lock = threading.Lock()
        self._running: dict[str, GenerationHandle] = {}
        self._newest: dict[Slot, GenerationHandle] = {}

    def find(self, request_id: str) -> GenerationHandle | None:
        """The generation of that id, while it is queued or running."""
        return self._running.get(request_id)

    def enter(self, handle: GenerationHandle, put: Callable[[GenerationHandle], None]) -> None:
        """Queue `handle` with `put`, and end the older one of its document and task, or itself if it is the older.

        Raises InvalidRequest for an id in use, and what `put` raises, with nothing changed.
        """
        request = handle.request
        slot = _slot(request)
        with self._lock:
            if request.request_id in self._running:
                raise InvalidRequest(
                    "This request id is in use by a request that is still running.",
                    param="request_id",
                )
            older = self._newest.get(slot) if slot else None
            put(handle)
            self.n_entered += 1
            self._running[request.request_id] = handle
            if older is not None and _is_stale(request, older.request):
                handle.end("superseded")
            elif slot is not None:
                self._newest[slot] = handle
                if older is not None:
                    older.end("superseded")

    def leave(self, handle: GenerationHandle) -> None:
        """It has ended."""
        request = handle.request
        slot = _slot(request)
        with self._lock:
            self._running.pop(request.request_id, None)
            if slot is not None and self._newest.get(slot) is handle:
                del self._newest[slot]


def _slot(request: GenerationRequest) -> Slot | None:
    """What one generation at a time may have; None for a request that stands alone.

    Of what is done ahead there is one for a document, and one for all that have none.
    """
    if request.ahead:
        return request.document_id or "", _AHEAD
    return None if request.document_id is None else (request.document_id, request.task)


def _is_stale(new: GenerationRequest, running: GenerationRequest) -> bool:
    if new.revision is None or running.revision is None:
        return False
    return new.revision < running.revision
