"""Errors of the indexer; messages name kinds, sizes and limits, never a text, a title or a file name.

IndexerError
├── DocumentError             one document cannot be indexed
│   ├── DocumentEncrypted     it needs a password
│   ├── DocumentScanned       it has pages but no text layer, and there is no OCR here
│   ├── DocumentParseFailed   it is broken, or its parser crashed or ran out of its limits
│   ├── DocumentTooLarge      it is larger than the limits, or would become so when unpacked
│   ├── DocumentUnsupported   of a kind that is not read
│   ├── DocumentEmpty         it was read, and there is no text in it
│   └── DocumentNotFound      no document has this id
├── ConsentRequired           the user has not allowed this (yet)
├── PersonaUnavailable        there is no index, plug or encoder to make a persona from
├── IndexFault                the database could not be read or written (a full disk, …)
│   ├── IndexDamaged          it cannot be opened or repaired
│   └── IndexLocked           another process has the index open
├── EmbeddingFailed           the encoder failed, or gave something that is no vector
├── IndexQueueFull            more documents wait than may
├── EmbeddingQueueFull        more requests for embeddings wait than may
└── IndexClosed               the index is shutting down or was never started
"""

from __future__ import annotations

import re


class IndexerError(Exception):
    """Base of everything that can go wrong with documents and the index; `param` is the request field."""

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class DocumentError(IndexerError):
    """A document cannot be indexed."""


class DocumentEncrypted(DocumentError):
    """The document needs a password."""


class DocumentScanned(DocumentError):
    """The document has pages but no text layer."""


class DocumentParseFailed(DocumentError):
    """The document is broken, or its parser crashed or ran out of time or memory."""


class DocumentTooLarge(DocumentError):
    """The document is over a limit."""


class DocumentUnsupported(DocumentError):
    """The document is of a kind that is not read."""


class DocumentEmpty(DocumentError):
    """There is no text in the document."""


class DocumentNotFound(DocumentError):
    """No document has this id."""


class ConsentRequired(IndexerError):
    """The user has not allowed this."""


class PersonaUnavailable(IndexerError):
    """There is nothing to make a persona from."""


class IndexFault(IndexerError):
    """The database could not be read or written."""


class IndexDamaged(IndexFault):
    """The database cannot be opened or repaired."""


class IndexLocked(IndexFault):
    """Another process has the index open."""


class EmbeddingFailed(IndexerError):
    """The encoder failed, or gave something that is no vector."""


class IndexQueueFull(IndexerError):
    """More documents wait to be indexed than may; `retry_after_s` by the pace at which they are."""

    def __init__(self, message: str, *, retry_after_s: int = 5) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class EmbeddingQueueFull(IndexerError):
    """More requests for embeddings wait than may."""

    def __init__(self, message: str, *, retry_after_s: int = 1) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class IndexClosed(IndexerError):
    """The index is shutting down or was never started."""


def code_of(error: BaseException) -> str:
    """The code of an error as the API writes it: DocumentEmpty is `document_empty`."""
    if not isinstance(error, IndexerError):
        return "internal_error"
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", type(error).__name__).lower()
