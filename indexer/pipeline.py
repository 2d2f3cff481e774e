"""One document through all its stages: consent, extraction, paragraphs, embedding, commit."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from indexer import spaces
from indexer.consent import Asking, Consent
from indexer.embedding import embedded, made_embedder
from indexer.errors import ConsentRequired, DocumentEmpty, DocumentError
from indexer.records import DocumentUpdate, PushedFile, PushedText, Source
from indexer.store import Store
from indexer.types import Block, Embedder, EmbeddingSpace, ExtractedText, Paragraph

# YAML front matter that says `killah: private`; it stands at the very beginning, or it is none.
_PRIVATE = re.compile(
    rb"\A(?:\xef\xbb\xbf)?---[ \t]*\r?\n(?:[^\n]{0,999}\n){0,99}?killah:[ \t]*private[ \t]*\r?\n"
)
_PRIVATE_WITHIN = 16_384


@dataclass(frozen=True, slots=True, kw_only=True)
class Stages:
    """What others do for the pipeline, on the indexer's thread.

    read_text, read_file: raise DocumentError subclasses. segment: gives what may enter the persona.
    make_embedder: called at the first document. profile: paragraphs → JSON of counts, stored beside them.
    rest: called when there has been nothing to do for a while. close: called once, at the end.
    """

    read_text: Callable[[PushedText], ExtractedText]
    read_file: Callable[[PushedFile], ExtractedText]
    segment: Callable[[Sequence[Block]], list[Paragraph]]
    make_embedder: Callable[[], Embedder]
    profile: Callable[[Sequence[Paragraph]], str] | None = None
    rest: Callable[[], None] = lambda: None
    close: Callable[[], None] = lambda: None


@dataclass(frozen=True, slots=True, kw_only=True)
class Incoming:
    """A document that wants in. raw: all that its text depends on. read: turns it into text.

    place: folder and path of a watched file, None for a push.
    """

    document_id: str
    raw: bytes
    read: Callable[[], ExtractedText]
    revision: int | None = None
    consent_given: bool = False
    place: tuple[str, str] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How it ended. state: "cancelled" when nobody wants it any more, "superseded" by a newer revision."""

    state: Literal["done", "unchanged", "superseded", "cancelled"]
    n_paragraphs: int = 0
    n_embedded: int = 0
    n_kept: int = 0
    n_removed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Watcher:
    """What the pipeline asks and tells between two pieces of work.

    pause: returns when there is time for more. is_wanted: False stops before anything is committed.
    progress: gets the paragraphs of the document, and how many of them got a vector so far.
    """

    pause: Callable[[], None] = lambda: None
    is_wanted: Callable[[], bool] = lambda: True
    progress: Callable[[int, int], None] = lambda _all, _embedded: None


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineOptions:
    """keep_text: store paragraphs' text. batch_size: paragraphs between two looks at whether someone types."""

    keep_text: bool = False
    batch_size: int = 32


class Pipeline:
    """Used by the indexer's thread alone."""

    def __init__(
        self, store: Store, consent: Consent, stages: Stages, options: PipelineOptions
    ) -> None:
        self.store = store
        self.consent = consent
        self.stages = stages
        self.options = options
        self._embedder: Embedder | None = None

    def close(self) -> None:
        """Close the embedder, if there is one, and the stages."""
        self._close_embedder()
        self.stages.close()

    @property
    def space(self) -> EmbeddingSpace:
        """The space that is written; makes the embedder. Raises EmbeddingFailed."""
        return self._ready_embedder().space

    def use(self, make_embedder: Callable[[], Embedder]) -> None:
        """Embed with another model from the next document on."""
        self._close_embedder()
        self.stages = replace(self.stages, make_embedder=make_embedder)

    def bring_in(self, incoming: Incoming, watcher: Watcher) -> Outcome:
        """Make the index hold this version of a document. Raises IndexerError subclasses."""
        content_digest = self.store.content_digest(incoming.raw)
        basis = self.consent.check(_asking(incoming, content=content_digest))
        if _PRIVATE.match(incoming.raw[:_PRIVATE_WITHIN]):
            raise ConsentRequired("The document says `killah: private` in its front matter.")
        known = self.store.revision(incoming.document_id)
        if known is not None and incoming.revision is not None and incoming.revision < known:
            return Outcome(state="superseded")
        document_id, keep_text = incoming.document_id, self.options.keep_text
        if self.store.is_current(document_id, content_digest, keep_text=keep_text):
            self.store.set_revision(document_id, incoming.revision)
            self._count_what_was_not(incoming)
            return Outcome(state="unchanged")
        extracted = self._read(incoming)
        paragraphs = self.stages.segment(extracted.blocks)
        digests = self.store.digests([paragraph.text for paragraph in paragraphs])
        self.consent.check(_asking(incoming, text=self.store.text_digest(digests)))
        space = spaces.space_to_write(self.store.db, self.space)
        missing = self.store.digests_to_embed(document_id, digests, space.key)
        watcher.progress(len(paragraphs), 0)
        texts = [paragraphs[position].text for position in missing.values()]
        vectors = self.embed(texts, watcher, len(paragraphs))
        if vectors is None:
            return Outcome(state="cancelled")
        update = DocumentUpdate(
            source=Source(
                id=document_id,
                origin="push" if incoming.place is None else "folder",
                consent=basis,
                consented_at=self.store.clock(),
                revision=incoming.revision,
                folder=incoming.place[0] if incoming.place else None,
                path=incoming.place[1] if incoming.place else None,
            ),
            content_digest=content_digest,
            media_type=extracted.media_type,
            paragraphs=paragraphs,
            digests=digests,
            vectors=dict(zip(missing, vectors, strict=True)),
            space=space.key,
            keep_text=keep_text,
            profile=self.stages.profile(paragraphs) if self.stages.profile else None,
        )

        def is_wanted() -> bool:
            # Decisions may have changed while the document was read and embedded.
            self.consent.check(_asking(incoming, content=content_digest))
            return watcher.is_wanted()

        return self._commit(update, is_wanted, is_served=space.state == "active")

    def embed(
        self, texts: Sequence[str], watcher: Watcher, n_paragraphs: int = 0
    ) -> list[NDArray[np.float32]] | None:
        """Embed in batches, with a pause before each; None when nobody wants it any more."""
        vectors: list[NDArray[np.float32]] = []
        for start in range(0, len(texts), self.options.batch_size):
            watcher.pause()
            if not watcher.is_wanted():
                return None
            batch = texts[start : start + self.options.batch_size]
            vectors.extend(embedded(self._ready_embedder(), batch))
            watcher.progress(n_paragraphs, len(vectors))
        return vectors

    def _close_embedder(self) -> None:
        if self._embedder is not None:
            self._embedder.close()
            self._embedder = None

    def _commit(
        self, update: DocumentUpdate, is_wanted: Callable[[], bool], *, is_served: bool
    ) -> Outcome:
        done = self.store.commit(update, is_wanted)
        if done is None:
            return Outcome(state="cancelled")
        if not is_served:
            self.store.switch_space()
        return Outcome(
            state="done",
            n_paragraphs=done.n_paragraphs,
            n_embedded=done.n_embedded,
            n_kept=done.n_kept,
            n_removed=done.n_removed,
        )

    def _count_what_was_not(self, incoming: Incoming) -> None:
        """Give a document its profile that was indexed before there were any; it is read again for that alone."""
        profile = self.stages.profile
        if profile is None or self.store.has_profile(incoming.document_id):
            return
        with contextlib.suppress(
            DocumentError
        ):  # what was indexed stays so, with or without a portrait
            paragraphs = self.stages.segment(self._read(incoming).blocks)
            self.store.set_profile(incoming.document_id, profile(paragraphs))

    def _read(self, incoming: Incoming) -> ExtractedText:
        """The text; none at all is an error only for a document that is not indexed yet."""
        try:
            return incoming.read()
        except DocumentEmpty:
            if not self.store.has(incoming.document_id):
                raise
            return ExtractedText(blocks=(), media_type="text/plain")

    def _ready_embedder(self) -> Embedder:
        if self._embedder is None:
            self._embedder = made_embedder(self.stages.make_embedder)
        return self._embedder


def _asking(
    incoming: Incoming, *, content: bytes | None = None, text: bytes | None = None
) -> Asking:
    return Asking(
        document_id=incoming.document_id,
        given=incoming.consent_given,
        place=incoming.place,
        content=content,
        text=text,
    )
