"""A store on a temporary folder, and documents to put into it."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from indexer import spaces
from indexer.records import Committed, DocumentUpdate, Source
from indexer.store import Store
from indexer.types import EmbeddingSpace, Paragraph

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
