"""Vectors for clients that ask: one per text, on a thread of its own.

Nothing is stored and nothing of the index is read, so it needs no consent.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from indexer.embedding import embedded, made_embedder
from indexer.errors import EmbeddingQueueFull, IndexClosed
from indexer.types import Embedder, EmbeddingSpace
from pushkin_runtime.pace import Pace

PIECE_CHARS = 4_000  # what an encoder reads at once; a paragraph of the index has at most as many
MAX_WAITING = 16  # requests, the one in work included
_BATCH = 32


@dataclass(frozen=True, slots=True, eq=False)
class Embedded:
    """vectors: (n_texts, space.n_dimensions) float32, rows of unit length."""

    space: EmbeddingSpace
    vectors: NDArray[np.float32]


class EmbeddingDesk:
    """Owns an embedder, made at the first request. Every method may be called on any thread.

    name: what clients call it.
    """

    def __init__(self, name: str, make_embedder: Callable[[], Embedder]) -> None:
        self.name = name
        self._make = make_embedder
        self._embedder: Embedder | None = None
        self._lock = threading.Lock()
        self._n_waiting = 0
        self._pace = Pace()
        self._is_closed = False
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="embeddings")

    def embed(self, texts: Sequence[str]) -> Future[Embedded]:
        """Embed texts of any length; one longer than PIECE_CHARS gets the mean of its pieces.

        Raises EmbeddingQueueFull or IndexClosed at once; the future raises EmbeddingFailed or IndexClosed.
        """
        with self._lock:
            if self._is_closed:
                raise _closed()
            if self._n_waiting >= MAX_WAITING:
                raise EmbeddingQueueFull(
                    f"{MAX_WAITING} requests for embeddings are waiting; ask again in a moment.",
                    retry_after_s=self._pace.retry_after_s(),
                )
            self._n_waiting += 1
            future = self._thread.submit(self._embed, tuple(texts))
        future.add_done_callback(self._leave)
        return future

    def close(self) -> None:
        """Stop after the batch in hand; what waits fails with IndexClosed."""
        with self._lock:
            self._is_closed = True
        self._thread.shutdown()
        if self._embedder is not None:
            self._embedder.close()

    def _leave(self, _: Future[Embedded]) -> None:
        with self._lock:
            self._n_waiting -= 1
            self._pace.moved(is_wanted=self._n_waiting > 0)

    def _embed(self, texts: Sequence[str]) -> Embedded:
        if self._is_closed:
            raise _closed()
        if self._embedder is None:
            self._embedder = made_embedder(self._make)
        embedder = self._embedder
        owners, pieces = [], []
        for owner, text in enumerate(texts):
            for piece in pieces_of(text):
                owners.append(owner)
                pieces.append(piece)
        sums = np.zeros((len(texts), embedder.space.n_dimensions), np.float32)
        for start in range(0, len(pieces), _BATCH):
            if self._is_closed:
                raise _closed()
            batch = pieces[start : start + _BATCH]
            lengths = np.array([[max(1, len(piece))] for piece in batch], np.float32)
            np.add.at(sums, owners[start : start + _BATCH], lengths * embedded(embedder, batch))
        norms = np.linalg.norm(sums, axis=1, keepdims=True)
        return Embedded(embedder.space, sums / np.maximum(norms, 1e-12))


def pieces_of(text: str) -> Iterator[str]:
    """Cut a text into pieces of at most PIECE_CHARS: at ends of lines if it can be, else between words."""
    while len(text) > PIECE_CHARS:
        found = (text.rfind(mark, PIECE_CHARS // 2, PIECE_CHARS) for mark in "\n ")
        cut = next((at + 1 for at in found if at >= 0), PIECE_CHARS)
        yield text[:cut]
        text = text[cut:]
    yield text


def _closed() -> IndexClosed:
    return IndexClosed("The daemon is shutting down.")
