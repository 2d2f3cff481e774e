"""A store on a temporary folder, and documents to put into it."""

from __future__ import annotations

import hashlib
import os
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from indexer import spaces
from indexer.consent import GlobalConsent
from indexer.errors import DocumentEmpty, DocumentEncrypted
from indexer.folders import FolderOptions
from indexer.indexing import IndexingOptions
from indexer.pipeline import PipelineOptions, Stages
from indexer.records import (
    Committed,
    DocumentUpdate,
    IndexEvent,
    Job,
    Push,
    PushedFile,
    PushedText,
    Source,
)
from indexer.service import ConsentChange, DocumentIndex, IndexOptions
from indexer.store import Store
from indexer.types import Block, EmbeddingSpace, ExtractedText, Paragraph
from indexer.watch import WatchOptions

PATIENCE_S = 20.0
SPACE = EmbeddingSpace(id="tests", n_dimensions=16)


class HashEmbedder:
    """Unit vectors made from a digest of the text; `batches` keeps the texts of every call."""

    def __init__(self, space: EmbeddingSpace = SPACE) -> None:
        self.space = space
        self.batches: list[list[str]] = []

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        self.batches.append(list(texts))
        return np.stack([vector_of(text, self.space) for text in texts])

    def close(self) -> None:
        pass


class GatedEmbedder(HashEmbedder):
    """Waits for `permits` before each batch; `begun` counts the batches it was asked for."""

    def __init__(self, space=None):
        super().__init__(*([space] if space else []))
        self.permits = threading.Semaphore(0)
        self.begun = threading.Semaphore(0)

    def embed(self, texts):
        self.begun.release()
        assert self.permits.acquire(timeout=PATIENCE_S)
        return super().embed(texts)


def vector_of(text: str, space: EmbeddingSpace = SPACE) -> NDArray[np.float32]:
    """The vector that a text has in a space of the tests."""
    seed = hashlib.sha256(f"{space.id} {text}".encode()).digest()
    made = np.random.default_rng(list(seed)).standard_normal(space.n_dimensions)
    return (made / np.linalg.norm(made)).astype(np.float32)


def bytes_of(text: str, space: EmbeddingSpace = SPACE) -> bytes:
    """The bytes of that vector in the database."""
    return vector_of(text, space).astype("<f2").tobytes()


def paragraphs_of(texts: Sequence[str]) -> list[Paragraph]:
    return [
        Paragraph(
            text=text,
            language="ru" if any("а" <= letter <= "я" for letter in text.lower()) else "en",
            n_words=len(text.split()),
        )
        for text in texts
    ]


Put = Callable[..., Committed]


@pytest.fixture
def quick_path(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory where the system has one: the store waits for the disk at every commit."""
    in_memory = Path("/dev/shm")
    if not os.access(in_memory, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=in_memory, prefix="pushkin-tests-") as made:
        yield Path(made)


@pytest.fixture
def folder(quick_path: Path) -> Path:
    return quick_path / "index.noindex"


@pytest.fixture
def store(folder: Path) -> Iterator[Store]:
    opened = Store(folder)
    yield opened
    opened.close()


def put(store: Store, document_id: str, texts: Sequence[str], **options: object) -> Committed:
    """Index texts as the paragraphs of a document; what is not given is that of a consented push."""
    embedder = options.pop("embedder", None) or HashEmbedder()
    source = Source(
        id=document_id,
        origin=options.pop("origin", "push"),
        consent=options.pop("consent", "global"),
        consented_at=0.0,
        revision=options.pop("revision", None),
        folder=options.pop("folder", None),
        path=options.pop("path", None),
    )
    space = spaces.space_to_write(store.db, embedder.space)
    digests = store.digests(texts)
    missing = store.digests_to_embed(document_id, digests, space.key)
    wanted = [texts[position] for position in missing.values()]
    vectors = dict(zip(missing, embedder.embed(wanted), strict=True)) if wanted else {}
    update = DocumentUpdate(
        source=source,
        content_digest=store.content_digest("\n".join(texts).encode()),
        media_type="text/plain",
        paragraphs=paragraphs_of(texts),
        digests=digests,
        vectors=vectors,
        space=space.key,
        **options,
    )
    committed = store.commit(update)
    assert committed is not None
    return committed


def files_hold(folder: Path, needle: bytes) -> list[str]:
    """Names of the files under a folder in which some bytes stand."""
    return [
        path.name for path in folder.rglob("*") if path.is_file() and needle in path.read_bytes()
    ]


@pytest.fixture(name="put")
def put_fixture() -> Put:
    return put


class Watching:
    """An open index with everything it tells; `finished` waits for a job's end."""

    def __init__(self, index: DocumentIndex, embedder: HashEmbedder) -> None:
        self.index = index
        self.embedder = embedder
        self.events: list[IndexEvent] = []
        self._changed = threading.Condition()

    def hear(self, event: IndexEvent) -> None:
        with self._changed:
            self.events.append(event)
            self._changed.notify_all()

    def wait_for(self, is_so: Callable[[IndexEvent], object]) -> IndexEvent:
        with self._changed:
            assert self._changed.wait_for(lambda: any(map(is_so, self.events)), PATIENCE_S), [
                (event.kind, event.code, event.job) for event in self.events
            ]
            return next(event for event in self.events if is_so(event))

    def finished(self, job: Job) -> Job:
        found = self.wait_for(lambda e: e.job and e.job.id == job.id and e.job.finished_at).job
        assert found is not None
        return found

    def push(self, document_id: str, text: str, **options: Any) -> Job:
        """Push a text and wait for the end of its job."""
        content = PushedText(text=text, ai_ranges=options.pop("ai_ranges", ()))
        pushed = self.index.push(Push(document_id=document_id, content=content, **options))
        return self.finished(pushed.result(PATIENCE_S))

    def looked_through(self, n_times: int = 1) -> list[Job]:
        """Wait until folders have been looked through so many times; returns those jobs."""
        ends = lambda: [  # noqa: E731
            e.job for e in self.events if e.job and e.job.kind == "reconcile" and e.job.finished_at
        ]
        with self._changed:
            assert self._changed.wait_for(lambda: len(ends()) >= n_times, PATIENCE_S), self.events
        return ends()


def lines_as_paragraphs(embedder: HashEmbedder) -> Stages:
    """Every line is a paragraph; what looks like `[error …]` cannot be read."""

    def read_text(pushed: PushedText) -> ExtractedText:
        lines = [line for line in pushed.text.splitlines() if line.strip()]
        if not lines:
            raise DocumentEmpty("There is no text in the document.")
        return ExtractedText(blocks=tuple(map(Block, lines)), media_type="text/plain")

    def read_file(pushed: PushedFile) -> ExtractedText:
        if pushed.content.startswith(b"[encrypted]"):
            raise DocumentEncrypted("The document needs a password.")
        return read_text(PushedText(text=pushed.content.decode()))

    return Stages(
        read_text=read_text,
        read_file=read_file,
        segment=lambda blocks: paragraphs_of([block.text for block in blocks]),
        make_embedder=lambda: embedder,
    )


@pytest.fixture
def open_index(folder: Path) -> Iterator[Callable[..., Watching]]:
    """`open_index(consent="on", folders={...}, keep_text=..., is_busy=..., embedder=..., stages=...)`."""
    opened: list[Watching] = []

    def open_one(
        consent: GlobalConsent | None = "on",
        *,
        folders: dict[str, Path] | None = None,
        keep_text: bool = False,
        is_busy: Callable[[], bool] = lambda: False,
        embedder: HashEmbedder | None = None,
        stages: Stages | None = None,
        **indexing: Any,
    ) -> Watching:
        embedder = embedder or HashEmbedder()
        options = IndexOptions(
            path=folder,
            folders=FolderOptions(
                allowed=folders or {},
                watch=WatchOptions(quiet_ms=50, longest_ms=500, retry_s=0.2),
                absent_grace_s=0.2,
            ),
            pipeline=PipelineOptions(keep_text=keep_text, batch_size=4),
            indexing=IndexingOptions(busy_poll_s=0.005, **indexing),
            space_check_s=0.0,
        )
        watching: Watching
        index = DocumentIndex(
            options,
            stages or lines_as_paragraphs(embedder),
            is_busy=is_busy,
            sink=lambda event: watching.hear(event),
        )
        watching = Watching(index, embedder)
        opened.append(watching)
        index.start().result(PATIENCE_S)
        if consent is not None:
            index.set_consent(ConsentChange(global_consent=consent)).result(PATIENCE_S)
        return watching

    yield open_one
    for watching in opened:
        watching.index.close()
