"""What the API says about documents, jobs and consent."""

from __future__ import annotations

from typing import Literal

from typing_extensions import TypedDict

from indexer.consent import ConsentState, Decision, GlobalConsent
from indexer.records import (
    ConsentBasis,
    DocumentRecord,
    IndexEvent,
    Job,
    JobKind,
    JobState,
    Origin,
    Receipt,
)
from indexer.service import DocumentState


class JobAnswer(TypedDict):
    """A piece of the indexer's work; its changes are events `index` of `GET /v1/events`.

    n_paragraphs: of the document; n_embedded: new ones that have a vector already; n_kept: unchanged ones.
    n_documents, n_failed: files of a folder. error_code: as in errors. Times are Unix seconds.
    """

    id: str
    kind: JobKind
    state: JobState
    document_id: str | None
    n_paragraphs: int
    n_embedded: int
    n_kept: int
    n_removed: int
    n_documents: int
    n_failed: int
    error_code: str | None
    queued_at: float
    finished_at: float | None


class DocumentAnswer(TypedDict):
    """An indexed document. path: only of a file in a watched folder, relative to it. consent: what allowed it.

    stale: the embedding model has changed, and the text, which is not stored, is needed again.
    """

    id: str
    revision: int | None
    origin: Origin
    folder: str | None
    path: str | None
    media_type: str
    consent: ConsentBasis
    consented_at: float
    indexed_at: float
    n_paragraphs: int
    n_words: int
    languages: dict[str, int]
    weight: float
    stale: bool


class DocumentList(TypedDict):
    documents: list[DocumentAnswer]


class DocumentStateAnswer(TypedDict):
    """document: null while it is not indexed (yet). job: the newest one, null when it is forgotten."""

    document: DocumentAnswer | None
    job: JobAnswer | None


class JobAccepted(TypedDict):
    job: JobAnswer


class ReceiptAnswer(TypedDict):
    """What was deleted. verified: it is in no row, no vector, no search result and no log of the database."""

    id: str | None
    documents_removed: int
    paragraphs_removed: int
    verified: bool
    deleted_at: float
    n_bytes_erased: int


ConsentAnswer = TypedDict(
    "ConsentAnswer",
    {
        "global": GlobalConsent,
        "documents": dict[str, Decision],
        "folders": dict[str, bool],
        "decided_at": float | None,
        "n_forgotten": int,
    },
)
"""folders: those that are watched, and whether the user agreed to each file in them."""


class ConsentChanged(TypedDict):
    """receipts: of documents that were deleted because they are excluded now."""

    consent: ConsentAnswer
    receipts: list[ReceiptAnswer]


class FolderRemoved(TypedDict):
    name: str
    documents_removed: int


class IndexEventAnswer(TypedDict):
    """The SSE event `index`."""

    kind: Literal["job", "repair", "folder", "space", "deleted", "consent", "failed"]
    job: JobAnswer | None
    code: str | None
    document_id: str | None
    n: int


def job_answer(job: Job) -> JobAnswer:
    """As clients read it."""
    return {
        "id": job.id,
        "kind": job.kind,
        "state": job.state,
        "document_id": job.document_id,
        "n_paragraphs": job.n_paragraphs,
        "n_embedded": job.n_embedded,
        "n_kept": job.n_kept,
        "n_removed": job.n_removed,
        "n_documents": job.n_documents,
        "n_failed": job.n_failed,
        "error_code": job.error_code,
        "queued_at": job.queued_at,
        "finished_at": job.finished_at,
    }


def document_answer(record: DocumentRecord) -> DocumentAnswer:
    """As clients read it; the profile is left out."""
    return {
        "id": record.id,
        "revision": record.revision,
        "origin": record.origin,
        "folder": record.folder,
        "path": record.path,
        "media_type": record.media_type,
        "consent": record.consent,
        "consented_at": record.consented_at,
        "indexed_at": record.indexed_at,
        "n_paragraphs": record.n_paragraphs,
        "n_words": record.n_words,
        "languages": {str(language): n for language, n in record.languages.items()},
        "weight": record.weight,
        "stale": record.stale,
    }


def state_answer(state: DocumentState) -> DocumentStateAnswer:
    """As clients read it."""
    return {
        "document": document_answer(state.record) if state.record else None,
        "job": job_answer(state.job) if state.job else None,
    }


def receipt_answer(receipt: Receipt) -> ReceiptAnswer:
    """As clients read it."""
    return {
        "id": receipt.document_id,
        "documents_removed": receipt.documents_removed,
        "paragraphs_removed": receipt.paragraphs_removed,
        "verified": receipt.verified,
        "deleted_at": receipt.deleted_at,
        "n_bytes_erased": receipt.n_bytes_erased,
    }


def consent_answer(state: ConsentState) -> ConsentAnswer:
    """As clients read it."""
    return {
        "global": state.global_consent,
        "documents": dict(state.documents),
        "folders": dict(state.folders),
        "decided_at": state.decided_at,
        "n_forgotten": state.n_forgotten,
    }


def index_event(event: IndexEvent) -> IndexEventAnswer:
    """As clients read it."""
    return {
        "kind": event.kind,
        "job": job_answer(event.job) if event.job else None,
        "code": event.code,
        "document_id": event.document_id,
        "n": event.n,
    }
