"""The index as the rest of the daemon sees it: everything is asked for here and answered by a future.

Two threads work behind it: one answers questions and changes decisions, the indexer's thread takes documents in.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from indexer import spaces
from indexer.consent import Asking, Consent, ConsentState, Decision, GlobalConsent
from indexer.errors import DocumentNotFound, IndexClosed, IndexerError, code_of
from indexer.export import export_lines
from indexer.folders import FolderOptions, WatchedFolders
from indexer.indexing import EventSink, Indexer, IndexingOptions, Progress
from indexer.job_log import last_job
from indexer.pipeline import Pipeline, PipelineOptions, Stages
from indexer.records import DocumentRecord, IndexEvent, Job, Push, Receipt, VectorRows
from indexer.reembed import reembed
from indexer.repairs import repair
from indexer.store import Store, Totals, not_found
from indexer.types import Embedder, EmbeddingSpace
from indexer.vector_index import VectorIndex, no_rows

log = logging.getLogger("pushkin.indexer")

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexOptions:
    """path: the folder of the index.

    space_check_s: so long after the start it is looked whether the model of the vectors has changed.
    """

    path: Path
    folders: FolderOptions = field(default_factory=FolderOptions)
    pipeline: PipelineOptions = field(default_factory=PipelineOptions)
    indexing: IndexingOptions = field(default_factory=IndexingOptions)
    space_check_s: float = 5.0


@dataclass(frozen=True, slots=True)
class DocumentState:
    """A document as far as it is known: indexed, on its way, or both. At least one is set."""

    record: DocumentRecord | None
    job: Job | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsentChange:
    """Decisions to make; what is left out stays."""

    global_consent: GlobalConsent | None = None
    documents: Mapping[str, Decision] = field(default_factory=dict)


class DocumentIndex:
    """Owned by the daemon. Every method may be called on any thread and returns at once.

    Futures raise IndexerError subclasses; IndexLocked or IndexDamaged when the index cannot be opened.
    is_busy: whether somebody waits for the model. sink: gets every event on whichever thread; must not block.
    """

    def __init__(
        self, options: IndexOptions, stages: Stages, *, is_busy: Callable[[], bool], sink: EventSink
    ) -> None:
        self._options, self._stages = options, stages
        self._is_busy, self._sink = is_busy, sink
        self._calls = ThreadPoolExecutor(max_workers=1, thread_name_prefix="index")
        self._opened: _Opened | None = None
        self._vectors = VectorIndex(_LateSource(self), is_allowed=self._is_allowed)
        self._is_closed = False

    def start(self) -> Future[None]:
        """Open, repair and begin to work, on another thread."""
        return self._calls.submit(self._open)

    def close(self, timeout_s: float = 5.0) -> None:
        """Finish the piece of work in hand and close the database; idempotent."""
        if self._is_closed:
            return
        self._is_closed = True
        self._calls.submit(self._close, timeout_s).result()
        self._calls.shutdown()

    @property
    def generation(self) -> int:
        """Grows with every change of what a persona is made from; -1 until the index is open."""
        return self._opened.store.generation if self._opened else -1

    @property
    def vectors(self) -> VectorIndex:
        """The search over paragraphs; there are none until the index is open, and while consent is off."""
        return self._vectors

    def push(self, push: Push) -> Future[Job]:
        """Let a document wait to be indexed. Raises ConsentRequired at once where that is clear already."""

        def submit(opened: _Opened) -> Job:
            asking = Asking(document_id=push.document_id, given=push.consent_given)
            opened.consent.check(asking)
            return opened.indexer.submit(push)

        return self._call(submit)

    def documents(self) -> Future[list[DocumentRecord]]:
        """Every indexed document."""
        return self._call(lambda opened: opened.store.documents())

    def document(self, document_id: str) -> Future[DocumentState]:
        """One document and its newest job. Raises DocumentNotFound."""

        def find(opened: _Opened) -> DocumentState:
            store = opened.store
            record = store.document(document_id) if store.has(document_id) else None
            job = last_job(store.db, document_id)
            if record is None and job is None:
                raise not_found()
            return DocumentState(record, job)

        return self._call(find)

    def profiles(self) -> Future[tuple[list[DocumentRecord], dict[str, str]]]:
        """Every indexed document, and by id the counts for the portrait of those that have them."""
        return self._call(lambda opened: (opened.store.documents(), opened.store.profiles()))

    def delete(self, document_id: str) -> Future[Receipt]:
        """Forget a document for good, also one that is on its way. Raises DocumentNotFound."""
        return self._call(lambda opened: self._delete(opened, document_id))

    def set_weight(self, document_id: str, weight: float) -> Future[None]:
        """Set how much a document counts, 0 to 10. Raises DocumentNotFound."""
        return self._call(lambda opened: opened.store.set_weight(document_id, weight))

    def rebuild(self, *, force: bool = False) -> Future[Job]:
        """Check everything, load the vectors again, embed what has none, look through the folders.

        force: serve a new space even if documents are missing from it.
        """

        def begin(opened: _Opened) -> Job:
            def work(progress: Progress) -> Iterator[None]:
                yield from self._rebuild(opened, progress, force=force)

            return opened.indexer.start_background("rebuild", "rebuild", work)

        return self._call(begin)

    def consent(self) -> Future[ConsentState]:
        """Every decision of the user."""
        return self._call(lambda opened: opened.consent.state())

    def set_consent(self, change: ConsentChange) -> Future[tuple[ConsentState, list[Receipt]]]:
        """Make decisions; a document that is excluded is deleted, with a receipt."""
        return self._call(lambda opened: self._decide(opened, change))

    def watch_folder(self, name: str, *, consent_given: bool) -> Future[Job]:
        """Begin to watch a folder of the configuration. Raises DocumentNotFound or ConsentRequired."""
        return self._call(lambda opened: opened.folders.add(name, consent_given=consent_given))

    def unwatch_folder(self, name: str) -> Future[int]:
        """Stop watching a folder; its documents leave the index. Returns how many those were."""

        def end(opened: _Opened) -> int:
            n_documents = opened.folders.remove(name)
            self._sink(IndexEvent(kind="deleted", n=n_documents))
            return n_documents

        return self._call(end)

    def totals(self) -> Future[Totals]:
        """Counts."""
        return self._call(lambda opened: opened.store.totals())

    def export(self, *, with_vectors: bool = False) -> Future[Iterator[str]]:
        """Lines of JSON with everything that is known; each is read when it is asked for."""
        return self._call(
            lambda opened: export_lines(opened.store, opened.consent, with_vectors=with_vectors)
        )

    def forget_everything(self) -> Future[Receipt]:
        """Erase the index, its decisions and its secret; consent is off afterwards."""
        return self._call(self._forget_everything)

    def use_embedder(self, make_embedder: Callable[[], Embedder]) -> Future[Job]:
        """Embed with another model: a new space is filled beside the served one."""

        def begin(opened: _Opened) -> Job:
            def work(progress: Progress) -> Iterator[None]:
                opened.pipeline.use(make_embedder)
                yield from self._fill_space(opened, progress)

            return opened.indexer.start_background("reembed", "embedder", work)

        return self._call(begin)

    def _call(self, work: Callable[[_Opened], T]) -> Future[T]:
        def run() -> T:
            if self._opened is None:
                raise IndexClosed("The index is not open; the log says why.")
            return work(self._opened)

        try:
            return self._calls.submit(run)
        except RuntimeError as error:
            raise IndexClosed("The index is shutting down.") from error

    def _open(self) -> None:
        try:
            store = Store(self._options.path)
        except (IndexerError, OSError) as error:
            log.error("index cannot be opened", extra={"error_type": type(error).__qualname__})
            self._sink(IndexEvent(kind="failed", code=code_of(error)))
            raise
        repairs, interrupted = repair(store)
        for code in repairs:
            log.warning("index repaired", extra={"repair": code})
            self._sink(IndexEvent(kind="repair", code=code))
        for job in interrupted:
            self._sink(IndexEvent(kind="job", job=job, document_id=job.document_id))
        store.on_change = self._vectors.apply
        consent = Consent(store.db)
        pipeline = Pipeline(store, consent, self._stages, self._options.pipeline)
        indexer = Indexer(
            pipeline, is_busy=self._is_busy, sink=self._sink, options=self._options.indexing
        )
        folders = WatchedFolders(self._options.folders, indexer, pipeline, self._sink)
        opened = _Opened(store, consent, pipeline, indexer, folders)
        opened.is_allowed = consent.global_consent() != "off"
        indexer.start()
        self._opened = opened
        folders.start()
        if not self._is_empty(store):
            indexer.call_later("space", self._options.space_check_s, self._check_space)

    def _close(self, timeout_s: float) -> None:
        opened, self._opened = self._opened, None
        if opened is not None:
            opened.folders.close()
            opened.indexer.close(timeout_s)
            opened.store.close()

    def _delete(self, opened: _Opened, document_id: str) -> Receipt:
        n_cancelled = opened.indexer.cancel(document_id)
        try:
            receipt, ids = opened.store.delete(document_id)
        except DocumentNotFound:
            if not n_cancelled:
                raise
            opened.store.tombstone(document_id)
            now = opened.store.clock()
            receipt, ids = Receipt(document_id=document_id, verified=True, deleted_at=now), []
        verified = receipt.verified and not self._vectors.holds_any(ids)
        receipt = replace(receipt, verified=verified)
        self._sink(
            IndexEvent(kind="deleted", document_id=document_id, n=receipt.paragraphs_removed)
        )
        return receipt

    def _decide(self, opened: _Opened, change: ConsentChange) -> tuple[ConsentState, list[Receipt]]:
        receipts: list[Receipt] = []
        if change.global_consent is not None:
            opened.consent.set_global(change.global_consent)
            opened.is_allowed = change.global_consent != "off"
            if change.global_consent == "off":
                opened.indexer.cancel()
        opened.consent.decide(change.documents)
        for document_id, decision in change.documents.items():
            if decision == "exclude":
                try:
                    receipts.append(self._delete(opened, document_id))
                except DocumentNotFound:
                    continue
        opened.folders.retry_refused()
        self._sink(IndexEvent(kind="consent"))
        return opened.consent.state(), receipts

    def _check_space(self) -> None:
        """On the indexer's thread, some seconds after the start."""
        opened = self._opened
        if opened is None or self._is_empty(opened.store):
            return
        active = spaces.space_in_state(opened.store.db, "active")
        if active is None or active.space != opened.pipeline.space:
            opened.indexer.start_background(
                "reembed", "space", lambda progress: self._fill_space(opened, progress)
            )

    def _fill_space(self, opened: _Opened, progress: Progress) -> Iterator[None]:
        watcher = opened.indexer.background_watcher(progress)
        yield from reembed(opened.pipeline, watcher, self._sink, progress)
        opened.folders.look_through_all()  # texts that are not stored are read again

    def _rebuild(self, opened: _Opened, progress: Progress, *, force: bool) -> Iterator[None]:
        if not opened.store.db.is_sound():
            self._sink(IndexEvent(kind="failed", code="index_damaged"))
        yield
        if not self._is_empty(opened.store):
            yield from self._fill_space(opened, progress)
        if force:
            opened.store.switch_space(force=True)
        progress.count(n_paragraphs=self._vectors.rebuild())

    def _forget_everything(self, opened: _Opened) -> Receipt:
        opened.indexer.cancel()
        opened.folders.close()
        opened.is_allowed = False
        receipt = opened.store.erase()
        receipt = replace(receipt, verified=receipt.verified and self._vectors.is_empty)
        self._sink(IndexEvent(kind="deleted", n=receipt.paragraphs_removed))
        self._sink(IndexEvent(kind="consent"))
        return receipt

    def _is_allowed(self) -> bool:
        return self._opened is not None and self._opened.is_allowed

    @staticmethod
    def _is_empty(store: Store) -> bool:
        return bool(store.db.rows("SELECT NOT EXISTS (SELECT 1 FROM paragraphs)")[0][0])


class _LateSource:
    """The store of an index that may not be open yet, or not any more: then there is nothing."""

    def __init__(self, index: DocumentIndex) -> None:
        self._index = index

    @property
    def generation(self) -> int:
        return max(0, self._index.generation)

    def load_vectors(self) -> tuple[int, EmbeddingSpace | None, VectorRows]:
        opened = self._index._opened
        return opened.store.load_vectors() if opened is not None else (0, None, no_rows(None))

    def frozen(self) -> AbstractContextManager[object]:
        opened = self._index._opened
        return opened.store.frozen() if opened is not None else contextlib.nullcontext()


@dataclass(slots=True, eq=False)
class _Opened:
    """What exists while the index is open. is_allowed: the global consent is not off."""

    store: Store
    consent: Consent
    pipeline: Pipeline
    indexer: Indexer
    folders: WatchedFolders
    is_allowed: bool = False
