"""The index for the command line: through the running daemon, or opened here when none runs.

Both ways speak the API's JSON. The index is locked by whoever has it open, so two can never write.
"""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from daemon.client import DaemonClient, fault
from daemon.errors import RequestFailed
from daemon.instance import find_daemon
from daemon.stats_access import open_desk, settled

if TYPE_CHECKING:
    from daemon.config import Loaded
    from indexer.service import DocumentIndex
    from usage.desk import UsageDesk

Answer = dict[str, Any]
T = TypeVar("T")

_JOB_S = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    """A file to be indexed under an id. suffix: of its name, with the dot."""

    document_id: str
    content: bytes
    suffix: str
    consent: bool


class IndexAccess(Protocol):
    """What the commands need; answers are those of the API. Raises DaemonError subclasses."""

    def upload(self, upload: Upload) -> Answer:
        """Begin to index a file; returns the job."""

    def progress(self, job: Answer) -> Iterator[Answer]:
        """Yield a job's states from now until it has ended."""

    def documents(self) -> list[Answer]: ...

    def delete(self, document_id: str) -> Answer: ...

    def rebuild(self, *, force: bool) -> Answer: ...

    def consent(self) -> Answer: ...

    def set_consent(self, change: Answer) -> Answer: ...

    def watch(self, name: str, *, consent: bool) -> Answer: ...

    def unwatch(self, name: str) -> Answer: ...

    def persona(self) -> Answer: ...

    def export(self, *, vectors: bool) -> Iterator[str]: ...

    def forget(self) -> Answer: ...


@contextmanager
def open_access(loaded: Loaded) -> Iterator[IndexAccess]:
    """The way that is open: the daemon's if it runs, else the database itself."""
    endpoint = find_daemon(loaded.paths)
    if endpoint is None:
        with _local_access(loaded) as access:
            yield access
        return
    with DaemonClient(loaded, endpoint) as client, client.events() as events:
        yield RemoteAccess(client, events)


class RemoteAccess:
    """Through the daemon. events: its `/v1/events` since before the first command."""

    def __init__(self, client: DaemonClient, events: Iterator[tuple[str, Answer]]) -> None:
        self._client, self._events = client, events

    def upload(self, upload: Upload) -> Answer:
        form = {"consent": "true" if upload.consent else "false"}
        answer = self._client.send(
            "PUT",
            self._path(upload.document_id),
            data=form,
            files={"file": (f"document{upload.suffix}", upload.content)},
        )
        return dict(answer["job"])

    def progress(self, job: Answer) -> Iterator[Answer]:
        yield job
        for name, event in self._events:
            found = event.get("job")
            if name == "index" and found is not None and found["id"] == job["id"]:
                yield found
                if found["finished_at"] is not None:
                    return
        raise RequestFailed("The daemon stopped before the work was done.")

    def documents(self) -> list[Answer]:
        return list(self._client.get("/v1/documents")["documents"])

    def delete(self, document_id: str) -> Answer:
        return self._client.send("DELETE", self._path(document_id))

    def rebuild(self, *, force: bool) -> Answer:
        answer = self._client.send("POST", "/v1/index/rebuild", json={"force": force})
        return dict(answer["job"])

    def consent(self) -> Answer:
        return self._client.get("/v1/consent")

    def set_consent(self, change: Answer) -> Answer:
        return self._client.send("PUT", "/v1/consent", json=change)

    def watch(self, name: str, *, consent: bool) -> Answer:
        answer = self._client.send("POST", "/v1/folders", json={"name": name, "consent": consent})
        return dict(answer["job"])

    def unwatch(self, name: str) -> Answer:
        return self._client.send("DELETE", f"/v1/folders/{_quoted(name)}")

    def persona(self) -> Answer:
        return self._client.get("/v1/persona")

    def export(self, *, vectors: bool) -> Iterator[str]:
        return self._client.text_of(f"/v1/persona/export?vectors={str(vectors).lower()}")

    def forget(self) -> Answer:
        return self._client.send("DELETE", "/v1/persona")

    def _path(self, document_id: str) -> str:
        return f"/v1/documents/{_quoted(document_id)}"


class LocalAccess:
    """The database, opened in this process."""

    def __init__(
        self, index: DocumentIndex, events: queue.SimpleQueue[Answer], usage: UsageDesk
    ) -> None:
        self._index, self._events, self._usage = index, events, usage

    def upload(self, upload: Upload) -> Answer:
        from indexer.records import Push, PushedFile

        push = Push(
            document_id=upload.document_id,
            content=PushedFile(content=upload.content, suffix=upload.suffix),
            consent_given=upload.consent,
        )
        return self._job(self._index.push(push))

    def progress(self, job: Answer) -> Iterator[Answer]:
        yield job
        while True:
            found = self._events.get(timeout=_JOB_S)["job"]
            if found is not None and found["id"] == job["id"]:
                yield found
                if found["finished_at"] is not None:
                    return

    def documents(self) -> list[Answer]:
        from api.document_answers import document_answer

        return [dict(document_answer(record)) for record in _result(self._index.documents())]

    def delete(self, document_id: str) -> Answer:
        from api.document_answers import receipt_answer

        return dict(receipt_answer(_result(self._index.delete(document_id))))

    def rebuild(self, *, force: bool) -> Answer:
        return self._job(self._index.rebuild(force=force))

    def consent(self) -> Answer:
        from api.document_answers import consent_answer

        return dict(consent_answer(_result(self._index.consent())))

    def set_consent(self, change: Answer) -> Answer:
        from api.document_answers import consent_answer, receipt_answer
        from indexer.service import ConsentChange

        wanted = ConsentChange(
            global_consent=change.get("global"), documents=change.get("documents", {})
        )
        state, receipts = _result(self._index.set_consent(wanted))
        return {
            "consent": dict(consent_answer(state)),
            "receipts": [dict(receipt_answer(receipt)) for receipt in receipts],
        }

    def watch(self, name: str, *, consent: bool) -> Answer:
        return self._job(self._index.watch_folder(name, consent_given=consent))

    def unwatch(self, name: str) -> Answer:
        n_documents = _result(self._index.unwatch_folder(name))
        return {"name": name, "documents_removed": n_documents}

    def persona(self) -> Answer:
        from api.persona_answers import Learned, as_json, persona_answer

        learned = Learned(
            consent=_result(self._index.consent()).global_consent,
            totals=_result(self._index.totals()),
            profiled=_result(self._index.profiles()),
        )
        return as_json(persona_answer(learned))

    def export(self, *, vectors: bool) -> Iterator[str]:
        return _result(self._index.export(with_vectors=vectors))

    def forget(self) -> Answer:
        from api.document_answers import receipt_answer
        from api.usage_answers import erased_answer

        erased = dict(erased_answer(settled(self._usage.forget())))
        receipt = receipt_answer(_result(self._index.forget_everything()))
        return {**receipt, "statistics": erased}

    def _job(self, future: Future[Any]) -> Answer:
        from api.document_answers import job_answer

        return dict(job_answer(_result(future)))


@contextmanager
def _local_access(loaded: Loaded) -> Iterator[IndexAccess]:
    from api.document_answers import index_event
    from daemon.index import build_index

    events: queue.SimpleQueue[Answer] = queue.SimpleQueue()
    hear: Callable[[Any], None] = lambda event: events.put(dict(index_event(event)))  # noqa: E731
    with open_desk(loaded) as usage:  # first: it makes the process and the folders private
        index = build_index(loaded, is_busy=lambda: False, sink=hear)
        try:
            _result(index.start())
            yield LocalAccess(index, events, usage)
        finally:
            index.close()


def _result(future: Future[T]) -> T:
    """Wait; the indexer's errors become those of the command line, by way of the API's."""
    from indexer.errors import IndexerError

    try:
        return future.result()
    except IndexerError as error:
        from api.errors import as_api_error

        answer = as_api_error(error)
        raise fault(dict(answer.body("local")["error"]), status=answer.status_code) from error


def _quoted(name: str) -> str:
    from urllib.parse import quote

    return quote(name, safe="")
