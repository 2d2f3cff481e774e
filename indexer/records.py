"""What the store takes and gives. Frozen data; arrays are the receiver's own unless it says otherwise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from indexer.types import Language, Paragraph

Origin = Literal["push", "folder"]
ConsentBasis = Literal["global", "request", "document", "folder"]
JobKind = Literal["index", "reconcile", "reembed", "rebuild"]
JobState = Literal[
    "queued", "running", "done", "unchanged", "failed", "superseded", "cancelled", "interrupted"
]

LANGUAGES: tuple[Language, ...] = ("en", "ru", "other")
"""Their positions are the codes in `VectorRows.languages`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where a document comes from, and by what right it is read.

    folder, path: of a file in a watched folder; path is relative to it. consented_at: Unix seconds.
    """

    id: str
    origin: Origin
    consent: ConsentBasis
    consented_at: float
    revision: int | None = None
    folder: str | None = None
    path: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentUpdate:
    """A document as it is now, to be committed whole.

    digests: those of the paragraphs, `Store.digests`. content_digest: of the bytes that were read. vectors: unit vectors of `space` by
    paragraph digest, for at least the digests that `Store.digests_to_embed` named.
    profile: counts for the portrait, as JSON. keep_text: store the paragraphs' text too.
    """

    source: Source
    content_digest: bytes
    media_type: str
    paragraphs: Sequence[Paragraph]
    digests: Sequence[bytes]
    vectors: Mapping[bytes, NDArray[np.float32]]
    space: int
    keep_text: bool = False
    profile: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentRecord:
    """An indexed document. stale: some paragraphs have no vector in the space that is coming or served."""

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
    weight: float
    stale: bool
    languages: Mapping[Language, int] = field(default_factory=dict)
    profile: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class VectorRows:
    """Paragraphs with their vectors, in ascending order of ids.

    ids: (n,) int64. documents: (n,) int64, keys of `names`. languages: (n,) uint8, positions in LANGUAGES.
    vectors: (n, n_dimensions) float16.
    """

    ids: NDArray[np.int64]
    documents: NDArray[np.int64]
    languages: NDArray[np.uint8]
    vectors: NDArray[np.float16]
    names: Mapping[int, str]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Change:
    """What one transaction did to the served vectors. generation: the store's after it.

    added: None when none were.
    """

    generation: int
    added: VectorRows | None
    removed: NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Committed:
    """What a commit did. n_embedded: rows that got a new vector; n_kept: rows that kept theirs."""

    document_key: int
    n_paragraphs: int
    n_embedded: int
    n_kept: int
    n_removed: int
    is_erased: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """What was deleted. verified: the rows, vectors and search results are gone, the log is empty."""

    document_id: str | None
    paragraphs_removed: int = 0
    documents_removed: int = 0
    verified: bool
    deleted_at: float
    n_bytes_erased: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A piece of work of the indexer.

    n_paragraphs: of the document, n_embedded grows up to what needs a vector. n_documents, n_failed: of a
    job over several files. error_code: as in `api/errors.py`, set when it failed.
    """

    id: str
    kind: JobKind
    state: JobState
    document_id: str | None = None
    n_paragraphs: int = 0
    n_embedded: int = 0
    n_kept: int = 0
    n_removed: int = 0
    n_documents: int = 0
    n_failed: int = 0
    error_code: str | None = None
    queued_at: float = 0.0
    finished_at: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexEvent:
    """What somebody who watches the index is told; never a text, a title or a file name.

    job: it changed. repair: `code` says what a start had to repair. folder: one cannot be read.
    space: `n` documents are needed again, because their text is not stored and the model has changed.
    deleted: `n` paragraphs are gone. consent: a decision changed. failed: `code` says why the index is unusable.
    """

    kind: Literal["job", "repair", "folder", "space", "deleted", "consent", "failed"]
    job: Job | None = None
    code: str | None = None
    document_id: str | None = None
    n: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class PushedText:
    """Text as an editor has it. ai_ranges: (offset, length) in UTF-16 code units of what a machine wrote."""

    text: str
    markdown: bool = False
    ai_ranges: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PushedFile:
    """A file as it was uploaded; of its name only the suffix is looked at."""

    content: bytes
    suffix: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Push:
    """A document to be indexed as it is now. consent_given: this request carries the user's consent."""

    document_id: str
    content: PushedText | PushedFile
    revision: int | None = None
    consent_given: bool = False
