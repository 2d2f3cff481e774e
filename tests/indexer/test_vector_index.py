"""Search: exact, filtered, in step with the store, the same with FAISS and with NumPy."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from indexer.records import Change, VectorRows
from indexer.types import EmbeddingSpace
from indexer.vector_index import FaissFlat, NumpyFlat, SearchFilter, VectorIndex

N_DIMENSIONS = 32


class Source:
    """Vectors in memory: of four documents in turn, in two languages."""

    def __init__(self, n_rows, seed=0):
        rng = np.random.default_rng(seed)
        vectors = rng.standard_normal((n_rows, N_DIMENSIONS))
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        self.rows = VectorRows(
            ids=np.cumsum(rng.integers(1, 5, n_rows)).astype(np.int64),
            documents=np.arange(n_rows, dtype=np.int64) % 4,
            languages=(np.arange(n_rows) % 2).astype(np.uint8),
            vectors=vectors.astype(np.float16),
            names={key: f"doc {key}" for key in range(4)},
        )
        self.generation = 1
        self.n_loads = 0
        self.lock = threading.RLock()

    def load_vectors(self):
        self.n_loads += 1
        return self.generation, EmbeddingSpace(id="s", n_dimensions=N_DIMENSIONS), self.rows

    def frozen(self):
        return self.lock


@pytest.fixture(params=[FaissFlat, NumpyFlat])
def make_flat(request):
    return request.param


@pytest.fixture
def source():
    return Source(3000)


def brute_force(source, query, k, allowed=None):
    similarities = source.rows.vectors.astype(np.float32) @ query
    if allowed is not None:
        similarities[~allowed] = -np.inf
    order = np.argsort(-similarities, kind="stable")[:k]
    return source.rows.ids[order], similarities[order]


def test_it_finds_what_comparing_with_everything_finds(make_flat, source):
    index = VectorIndex(source, make_flat=make_flat)
    for seed in range(20):
        query = np.random.default_rng(seed).standard_normal(N_DIMENSIONS).astype(np.float32)
        ids, similarities = brute_force(source, query, 10)

        hits = index.search(query, 10)

        assert hits.ids.tolist() == ids.tolist()
        np.testing.assert_allclose(hits.similarities, similarities, atol=1e-5)
        expected = source.rows.documents[np.searchsorted(source.rows.ids, ids)]
        assert hits.documents == tuple(f"doc {key}" for key in expected)


@pytest.mark.parametrize(
    ("only", "allowed"),
    [
        (SearchFilter(languages=["ru"]), lambda rows: rows.languages == 1),
        (SearchFilter(documents=["doc 2", "none"]), lambda rows: rows.documents == 2),
        (SearchFilter(exclude=["doc 0", "doc 1"]), lambda rows: rows.documents > 1),
        (
            SearchFilter(documents=["doc 0", "doc 1"], exclude=["doc 1"], languages=["en"]),
            lambda rows: rows.documents == 0,
        ),
    ],
)
def test_filters_leave_exactly_what_they_allow(make_flat, source, only, allowed):
    index = VectorIndex(source, make_flat=make_flat)
    query = np.random.default_rng(9).standard_normal(N_DIMENSIONS).astype(np.float32)

    hits = index.search(query, 25, only)

    ids, _ = brute_force(source, query, 25, allowed(source.rows))
    assert hits.ids.tolist() == ids.tolist()


def test_nothing_allowed_is_nothing_found(make_flat, source):
    index = VectorIndex(source, make_flat=make_flat)
    query = np.ones(N_DIMENSIONS, np.float32)

    assert len(index.search(query, 5, SearchFilter(documents=["none"]))) == 0
    assert len(index.search(query, 5, SearchFilter(languages=[]))) == 0
    assert len(index.search(query, 0)) == 0
    assert len(VectorIndex(Source(0), make_flat=make_flat).search(query, 5)) == 0


def test_fewer_rows_than_asked_for_are_all_of_them(make_flat):
    index = VectorIndex(Source(3), make_flat=make_flat)

    assert len(index.search(np.ones(N_DIMENSIONS, np.float32), 50)) == 3


def test_it_follows_changes_without_loading_again(make_flat, source):
    index = VectorIndex(source, make_flat=make_flat)
    assert len(index) == 3000
    removed = source.rows.ids[10:500:7]
    fresh = Source(5, seed=1).rows
    added = VectorRows(
        ids=source.rows.ids[-1] + 1 + np.arange(5),
        documents=np.full(5, 77),
        languages=fresh.languages,
        vectors=fresh.vectors,
        names={77: "new"},
    )
    source.generation = 2
    index.apply(Change(generation=2, added=added, removed=removed))

    assert source.n_loads == 1
    assert len(index) == 3000 - len(removed) + 5
    assert not index.holds_any(removed.tolist())
    hits = index.search(fresh.vectors[3].astype(np.float32), 1)
    assert (hits.ids.tolist(), hits.documents) == ([int(added.ids[3])], ("new",))
    stays = ~np.isin(source.rows.ids, removed)
    everything = index.all_vectors()
    assert np.array_equal(everything.ids[:-5], source.rows.ids[stays])
    assert np.array_equal(everything.vectors[:-5], source.rows.vectors[stays])


def test_the_names_of_deleted_documents_are_let_go(make_flat, source):
    index = VectorIndex(source, make_flat=make_flat)
    removed = source.rows.ids[source.rows.documents == 2]
    assert len(index) == 3000
    source.generation = 2
    index.apply(Change(generation=2, added=None, removed=removed))

    assert set(index.all_vectors().names) == {0, 1, 3}


def test_a_missed_change_leads_to_a_rebuild(make_flat, source):
    index = VectorIndex(source, make_flat=make_flat)
    assert len(index) == 3000
    source.rows = Source(10, seed=3).rows
    source.generation = 5
    index.apply(Change(generation=5, added=None, removed=np.zeros(0, np.int64)))

    assert len(index) == 10
    assert source.n_loads == 2


def test_vectors_of_ids_come_in_the_order_asked_for(make_flat, source):
    index = VectorIndex(source, make_flat=make_flat)
    ids = source.rows.ids[[5, 2, 99, 2]]

    found = index.vectors(ids)

    np.testing.assert_array_equal(found, source.rows.vectors[[5, 2, 99, 2]].astype(np.float32))
    with pytest.raises(KeyError):
        index.vectors(np.asarray([10**9]))


def test_a_vector_of_another_space_is_refused(source):
    with pytest.raises(ValueError, match="expected"):
        VectorIndex(source).search(np.ones(3, np.float32), 1)


def test_searches_and_changes_at_the_same_time_stay_consistent(make_flat, source):
    index = VectorIndex(source, make_flat=make_flat)
    n_start = len(index)
    wrong = []

    def search():
        rng = np.random.default_rng(0)
        for _ in range(60):
            hits = index.search(rng.standard_normal(N_DIMENSIONS).astype(np.float32), 10)
            if len(hits) != 10 or not (np.diff(hits.similarities) <= 0).all():
                wrong.append(hits)

    searcher = threading.Thread(target=search)
    searcher.start()
    for step in range(100):
        removed = source.rows.ids[step * 20 : step * 20 + 10]
        with source.lock:  # as the store does
            source.generation += 1
            index.apply(Change(generation=source.generation, added=None, removed=removed))
    searcher.join()

    assert not wrong
    assert source.n_loads == 1
    assert len(index) == n_start - 1000
