"""Vectors for clients: long texts whole, one thread, a bounded queue, an orderly end."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from indexer.embedding_desk import MAX_WAITING, PIECE_CHARS, EmbeddingDesk, pieces_of
from indexer.errors import EmbeddingFailed, EmbeddingQueueFull, IndexClosed
from indexer.style_encoder import load_style_encoder
from indexer.types import EmbeddingSpace

FOLDER = Path(__file__).parents[2] / "models" / "style-encoder"
GUARD_S = 10.0
DINNER = "We had soup first, and then the fish, which was cold; nobody complained of it. "
HARBOUR = "Lamps went out along the quay. One by one! And who, pray, was left to see it? "


class GatedEmbedder:
    """Embeds when it is permitted; remembers on which threads."""

    space = EmbeddingSpace(id="gated", n_dimensions=2)

    def __init__(self) -> None:
        self.permits = threading.Semaphore(0)
        self.began = threading.Event()
        self.threads: set[str] = set()
        self.is_closed = False

    def embed(self, texts):
        self.threads.add(threading.current_thread().name)
        self.began.set()
        self.permits.acquire(timeout=GUARD_S)
        return np.tile(np.array([1, 0], np.float32), (len(texts), 1))

    def close(self) -> None:
        self.is_closed = True


@pytest.fixture(scope="module")
def desk():
    made = EmbeddingDesk("style-encoder", lambda: load_style_encoder(FOLDER))
    yield made
    made.close()


def test_short_texts_get_exactly_the_encoders_own_vectors(desk):
    texts = [DINNER, HARBOUR, "Тихо было в доме.", ""]
    found = desk.embed(texts).result(GUARD_S)

    encoder = load_style_encoder(FOLDER)
    assert found.space == encoder.space
    assert np.allclose(found.vectors, encoder.embed(texts), atol=1e-6)


def test_the_end_of_a_long_text_counts(desk):
    """The encoder alone reads 4,096 characters: past those, nothing would change its vector."""
    start = DINNER * 60
    assert len(start) > 4096
    same, other = desk.embed([start + DINNER * 200, start + HARBOUR * 200]).result(GUARD_S).vectors

    assert np.allclose([same @ same, other @ other], 1, atol=1e-5)
    assert same @ other < 0.95


def test_a_vector_does_not_depend_on_its_company(desk):
    alone = desk.embed([HARBOUR]).result(GUARD_S).vectors[0]
    among = desk.embed([DINNER * 300, HARBOUR, DINNER]).result(GUARD_S).vectors[1]

    assert np.allclose(alone, among, atol=1e-6)


@given(st.text(alphabet="ab \n", max_size=3 * PIECE_CHARS))
def test_pieces_are_the_text_again_and_never_too_long(text):
    pieces = list(pieces_of(text))

    assert "".join(pieces) == text
    assert all(len(piece) <= PIECE_CHARS for piece in pieces)


def test_a_word_is_not_cut_where_there_are_spaces():
    pieces = list(pieces_of("word " * 2000))

    assert all(piece.endswith("word ") for piece in pieces[:-1])


def test_the_queue_is_bounded_and_all_work_is_on_one_thread():
    embedder = GatedEmbedder()
    desk = EmbeddingDesk("gated", lambda: embedder)
    waiting = [desk.embed(["a"]) for _ in range(MAX_WAITING)]
    with pytest.raises(EmbeddingQueueFull):
        desk.embed(["one more"])
    embedder.permits.release(MAX_WAITING + 1)
    for future in waiting:
        future.result(GUARD_S)

    assert desk.embed(["again"]).result(GUARD_S).vectors.shape == (1, 2)
    desk.close()
    assert len(embedder.threads) == 1
    assert embedder.is_closed


def test_closing_ends_what_waits_with_an_error():
    embedder = GatedEmbedder()
    desk = EmbeddingDesk("gated", lambda: embedder)
    running, waiting = desk.embed(["a"] * 100), desk.embed(["b"])
    assert embedder.began.wait(GUARD_S)
    closing = threading.Thread(target=desk.close)
    closing.start()
    while not desk._is_closed:
        threading.Event().wait(0.001)
    embedder.permits.release(100)
    closing.join(GUARD_S)

    for future in (running, waiting):
        with pytest.raises(IndexClosed):
            future.result(GUARD_S)
    with pytest.raises(IndexClosed):
        desk.embed(["c"])
    desk.close()


def test_an_encoder_that_is_not_there_is_an_error_each_time(tmp_path):
    desk = EmbeddingDesk("style-encoder", lambda: load_style_encoder(tmp_path))
    for _ in range(2):
        with pytest.raises(EmbeddingFailed, match="PersonaUnavailable"):
            desk.embed(["a"]).result(GUARD_S)
    desk.close()
