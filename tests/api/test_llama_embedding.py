"""`POST /embedding` and `/embeddings` as llama-server answers them, and flat for the shipped editor."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from api.llama_dialect.embedding import normalised
from indexer.embedding_desk import EmbeddingDesk
from indexer.style_encoder import load_style_encoder

pytestmark = pytest.mark.anyio

FOLDER = Path(__file__).parents[2] / "models" / "style-encoder"
TEXTS = ["We had soup first, and then the fish.", "Тихо было в доме."]


@pytest.fixture
def ask(start_daemon):
    desk = EmbeddingDesk("style-encoder", lambda: load_style_encoder(FOLDER))
    daemon = start_daemon(embedder=desk)

    async def post(path="/embedding", **body):
        async with daemon.client() as client:
            return await client.post(path, json=body)

    yield post
    desk.close()


@pytest.mark.parametrize("path", ["/embedding", "/embeddings"])
@pytest.mark.parametrize("field", ["content", "input"])
async def test_vectors_are_nested_as_upstream_nests_them(ask, path, field):
    answer = (await ask(path, **{field: TEXTS})).json()
    expected = load_style_encoder(FOLDER).embed(TEXTS)

    assert [item["index"] for item in answer] == [0, 1]
    assert all(len(item["embedding"]) == 1 for item in answer)
    assert np.allclose([item["embedding"][0] for item in answer], expected, atol=1e-6)


async def test_the_editors_text_gets_one_flat_vector(ask):
    flat = (await ask(text=TEXTS[0])).json()
    nested = (await ask(content=TEXTS[0])).json()

    assert flat == {"embedding": nested[0]["embedding"][0]}


@pytest.mark.parametrize(
    ("norm", "measure", "expected"),
    [
        (0, lambda v: np.abs(v).max(), 32_760),
        (1, lambda v: np.abs(v).sum(), 1),
        (2, np.linalg.norm, 1),
        (3, lambda v: (np.abs(v) ** 3).sum(), 1),
    ],
)
async def test_embd_normalize_is_upstreams(ask, norm, measure, expected):
    [item] = (await ask(content=TEXTS[0], embd_normalize=norm)).json()

    assert measure(np.array(item["embedding"][0])) == pytest.approx(expected, rel=1e-5)


def test_a_row_of_zeros_stays_and_minus_one_changes_nothing():
    rows = np.array([[0, 0], [3, 4]], np.float32)

    assert normalised(rows, 2).tolist() == [[0, 0], pytest.approx([0.6, 0.8])]
    assert normalised(rows, -1) is rows


@pytest.mark.parametrize(
    "body",
    [{}, {"content": "a", "input": "b"}, {"content": ""}, {"text": ""}, {"content": [[999]]}],
)
async def test_what_is_wrong_has_upstreams_shape(ask, body):
    response = await ask(**body)

    assert response.status_code == 400
    assert response.json()["error"]["code"] == 400
    assert response.json()["error"]["type"] == "invalid_request_error"
