"""Search over the paragraphs' vectors: in memory, exact, rebuilt from the store whenever it may differ.

FAISS holds float16 codes and compares by inner product, on one thread: two are slower (platform.md §3.2).
Without FAISS, NumPy gives the same results, several times slower at 100,000 paragraphs.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from indexer.records import LANGUAGES, Change, VectorRows
from indexer.types import EmbeddingSpace, Language


class VectorSource(Protocol):
    """The part of the store that the index is rebuilt from."""

    @property
    def generation(self) -> int: ...

    def load_vectors(self) -> tuple[int, EmbeddingSpace | None, VectorRows]: ...

    def frozen(self) -> AbstractContextManager[object]:
        """Nothing changes inside."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchFilter:
    """Which paragraphs may be found. documents: None is all; exclude wins."""

    languages: Collection[Language] | None = None
    documents: Collection[str] | None = None
    exclude: Collection[str] = ()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Hits:
    """The nearest paragraphs, best first. similarities: inner products, cosines for unit vectors.

    vectors: (n, n_dimensions), where they were asked for: later a paragraph may have been deleted.
    """

    ids: NDArray[np.int64]
    documents: tuple[str, ...]
    similarities: NDArray[np.float32]
    vectors: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.ids)


class Flat(Protocol):
    """Vectors under ids. mask, where given, has one bit an id: `mask[id >> 3] >> (id & 7) & 1`."""

    def add(self, ids: NDArray[np.int64], vectors: NDArray[np.float16]) -> None: ...

    def remove(self, ids: NDArray[np.int64]) -> None: ...

    def search(
        self, vector: NDArray[np.float32], k: int, mask: NDArray[np.uint8] | None
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]: ...

    def vectors(self, ids: NDArray[np.int64]) -> NDArray[np.float32]: ...


class FaissFlat:
    """`IndexIDMap2` over a flat float16 scalar quantiser."""

    def __init__(self, n_dimensions: int) -> None:
        import faiss

        # Its stubs describe the C++ side, not what the Python wrapper takes.
        self._faiss: Any = faiss
        self._faiss.omp_set_num_threads(1)
        flat = self._faiss.IndexScalarQuantizer(
            n_dimensions, self._faiss.ScalarQuantizer.QT_fp16, self._faiss.METRIC_INNER_PRODUCT
        )
        self._index: Any = self._faiss.IndexIDMap2(flat)

    def add(self, ids: NDArray[np.int64], vectors: NDArray[np.float16]) -> None:
        # Its codes are little-endian float16 themselves: nothing has to be encoded.
        codes = np.ascontiguousarray(vectors, "<f2").view(np.uint8)
        self._index.add_sa_codes(codes, np.ascontiguousarray(ids))

    def remove(self, ids: NDArray[np.int64]) -> None:
        self._index.remove_ids(ids)

    def search(
        self, vector: NDArray[np.float32], k: int, mask: NDArray[np.uint8] | None
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        parameters: Any = None
        if mask is not None:
            selector = self._faiss.IDSelectorBitmap(mask)
            parameters = self._faiss.SearchParameters(sel=selector)
        similarities, ids = self._index.search(vector[None, :], k, params=parameters)
        found = ids[0] >= 0
        return similarities[0][found], ids[0][found]

    def vectors(self, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        found: NDArray[np.float32] = self._index.reconstruct_batch(ids)
        return found


class NumpyFlat:
    """The same with NumPy only. Vectors are kept as float32: converting them costs more than comparing."""

    def __init__(self, n_dimensions: int) -> None:
        self._ids = np.zeros(0, np.int64)
        self._vectors = np.zeros((0, n_dimensions), np.float32)

    def add(self, ids: NDArray[np.int64], vectors: NDArray[np.float16]) -> None:
        self._ids = np.concatenate([self._ids, ids])
        self._vectors = np.concatenate([self._vectors, vectors.astype(np.float32)])

    def remove(self, ids: NDArray[np.int64]) -> None:
        stays = ~np.isin(self._ids, ids)
        self._ids, self._vectors = self._ids[stays], self._vectors[stays]

    def search(
        self, vector: NDArray[np.float32], k: int, mask: NDArray[np.uint8] | None
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        similarities = self._vectors @ vector
        if mask is not None:
            allowed = (mask[self._ids >> 3] >> (self._ids & 7).astype(np.uint8)) & 1
            similarities = np.where(allowed, similarities, -np.inf).astype(np.float32)
        k = min(k, len(self._ids))
        best = np.argpartition(-similarities, k - 1)[:k] if k else np.zeros(0, np.int64)
        best = best[np.lexsort((self._ids[best], -similarities[best]))]
        best = best[np.isfinite(similarities[best])]
        return similarities[best], self._ids[best]

    def vectors(self, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        return self._vectors[np.searchsorted(self._ids, ids)]


def new_flat(n_dimensions: int) -> Flat:
    """FAISS where it can be imported, else NumPy."""
    try:
        return FaissFlat(n_dimensions)
    except ImportError:
        return NumpyFlat(n_dimensions)


class VectorIndex:
    """A view of a store. Any thread; a search waits at most for one change or one rebuild.

    is_allowed: while it says False nothing can be found, as if nothing had been indexed.
    """

    def __init__(
        self,
        source: VectorSource,
        *,
        make_flat: Callable[[int], Flat] = new_flat,
        is_allowed: Callable[[], bool] = lambda: True,
    ) -> None:
        self._source = source
        self._make_flat = make_flat
        self._is_allowed = is_allowed
        self._lock = threading.Lock()
        self._generation = -1
        self._space: EmbeddingSpace | None = None
        self._flat: Flat | None = None
        self._ids = np.zeros(0, np.int64)
        self._documents = np.zeros(0, np.int64)
        self._languages = np.zeros(0, np.uint8)
        self._names: dict[int, str] = {}

    @property
    def space(self) -> EmbeddingSpace | None:
        """The space of the vectors, None while nothing has been indexed."""
        with self._fresh():
            return self._space if self._is_allowed() else None

    def __len__(self) -> int:
        with self._fresh():
            return len(self._ids) if self._is_allowed() else 0

    def knows(self, document_id: str) -> bool:
        """Whether a document has paragraphs that can be found."""
        with self._fresh():
            return self._is_allowed() and document_id in self._names.values()

    def search(
        self,
        vector: NDArray[np.float32],
        k: int,
        only: SearchFilter | None = None,
        *,
        with_vectors: bool = False,
    ) -> Hits:
        """Return the `k` paragraphs nearest to `vector`, (n_dimensions,), or fewer."""
        with self._fresh():
            is_empty = not len(self._ids) or not self._is_allowed()
            if self._flat is None or is_empty or k < 1:
                return _no_hits()
            assert self._space is not None
            if vector.shape != (self._space.n_dimensions,):
                raise ValueError(
                    f"search: expected ({self._space.n_dimensions},), got {vector.shape}"
                )
            mask = self._mask(only)
            query = np.ascontiguousarray(vector, np.float32)
            similarities, ids = self._flat.search(query, min(k, len(self._ids)), mask)
            keys = self._documents[np.searchsorted(self._ids, ids)]
            return Hits(
                ids=ids,
                documents=tuple(self._names[key] for key in keys.tolist()),
                similarities=similarities,
                vectors=self._flat.vectors(ids) if with_vectors else None,
            )

    def vectors(self, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return (len(ids), n_dimensions). Raises KeyError for an id that is not there (any more)."""
        with self._fresh():
            is_there = self._is_allowed() and np.isin(ids, self._ids).all()
            if self._flat is None or not is_there:
                raise KeyError("a paragraph is not in the index any more; search again")
            return self._flat.vectors(np.ascontiguousarray(ids, np.int64))

    def all_vectors(self) -> VectorRows:
        """A copy of everything, for attention over all paragraphs."""
        with self._fresh():
            is_empty = self._flat is None or not len(self._ids) or not self._is_allowed()
            if self._flat is None or is_empty:
                return no_rows(self._space)
            return VectorRows(
                ids=self._ids.copy(),
                documents=self._documents.copy(),
                languages=self._languages.copy(),
                vectors=self._flat.vectors(self._ids).astype(np.float16),
                names=dict(self._names),
            )

    def holds_any(self, ids: Sequence[int]) -> bool:
        """Whether one of these paragraphs is still here, allowed or not."""
        with self._fresh():
            return bool(np.isin(np.asarray(ids, np.int64), self._ids).any())

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing at all, allowed or not."""
        with self._fresh():
            return not len(self._ids)

    def apply(self, change: Change) -> None:
        """Follow one change of the store, in its order; anything unexpected leads to a rebuild."""
        with self._lock:
            if self._generation != change.generation - 1 or self._flat is None:
                return
            added = change.added
            if len(change.removed):
                self._remove(change.removed)
            if added is not None:
                fits = self._space and added.vectors.shape[1] == self._space.n_dimensions
                if not fits or (len(self._ids) and added.ids[0] <= self._ids[-1]):
                    return
                self._append(added)
            self._generation = change.generation

    def rebuild(self) -> int:
        """Load everything from the store again; returns the number of paragraphs."""
        # The store's lock comes before ours everywhere: `apply` is called under it.
        with self._source.frozen():
            return self._load()

    def _fresh(self) -> _Held:
        """Hold the lock on an index that has every change the store had at the time of the call."""
        wanted = self._source.generation
        while True:
            self._lock.acquire()
            if self._generation >= wanted:
                return _Held(self._lock)
            self._lock.release()
            with self._source.frozen():
                if self._generation < wanted:  # the change may have come while we waited
                    self._load()

    def _load(self) -> int:
        generation, space, rows = self._source.load_vectors()
        flat = None if space is None else self._make_flat(space.n_dimensions)
        if flat is not None and len(rows.ids):
            flat.add(rows.ids, rows.vectors)
        with self._lock:
            self._generation, self._space, self._flat = generation, space, flat
            self._ids, self._documents = rows.ids, rows.documents
            self._languages, self._names = rows.languages, dict(rows.names)
            return len(self._ids)

    def _append(self, rows: VectorRows) -> None:
        assert self._flat is not None
        self._flat.add(rows.ids, rows.vectors)
        self._ids = np.concatenate([self._ids, rows.ids])
        self._documents = np.concatenate([self._documents, rows.documents])
        self._languages = np.concatenate([self._languages, rows.languages])
        self._names |= rows.names

    def _remove(self, ids: NDArray[np.int64]) -> None:
        assert self._flat is not None
        stays = ~np.isin(self._ids, ids)
        self._flat.remove(self._ids[~stays])
        touched = np.unique(self._documents[~stays])
        for key in touched[~np.isin(touched, self._documents[stays])].tolist():
            del self._names[key]
        self._ids, self._documents = self._ids[stays], self._documents[stays]
        self._languages = self._languages[stays]

    def _mask(self, only: SearchFilter | None) -> NDArray[np.uint8] | None:
        """One bit for each id up to the largest, None when everything may be found."""
        if only is None:
            return None
        allowed = np.ones(len(self._ids), np.bool_)
        if only.languages is not None:
            codes = [LANGUAGES.index(language) for language in only.languages]
            allowed &= np.isin(self._languages, codes)
        if only.documents is not None:
            allowed &= np.isin(self._documents, self._keys(only.documents))
        if only.exclude:
            allowed &= ~np.isin(self._documents, self._keys(only.exclude))
        if allowed.all():
            return None
        bits = np.zeros(int(self._ids[-1]) + 1, np.bool_)
        bits[self._ids[allowed]] = True
        return np.packbits(bits, bitorder="little")

    def _keys(self, names: Collection[str]) -> list[int]:
        wanted = set(names)
        return [key for key, name in self._names.items() if name in wanted]


class _Held:
    """Releases a lock that is held already."""

    def __init__(self, lock: threading.Lock) -> None:
        self._lock = lock

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        self._lock.release()


def no_rows(space: EmbeddingSpace | None) -> VectorRows:
    """No paragraphs at all."""
    return VectorRows(
        ids=np.zeros(0, np.int64),
        documents=np.zeros(0, np.int64),
        languages=np.zeros(0, np.uint8),
        vectors=np.zeros((0, space.n_dimensions if space else 1), np.float16),
        names={},
    )


def _no_hits() -> Hits:
    return Hits(
        ids=np.zeros(0, np.int64),
        documents=(),
        similarities=np.zeros(0, np.float32),
        vectors=np.zeros((0, 1), np.float32),
    )
