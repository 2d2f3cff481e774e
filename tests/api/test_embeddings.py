"""`POST /v1/embeddings`: the index's encoder, for anybody's texts, in OpenAI's shape."""

from __future__ import annotations

import base64
from pathlib import Path

import numpy as np
import pytest

from api.embedding import shortened
from indexer.embedding_desk import EmbeddingDesk
from indexer.style_encoder import load_style_encoder

pytestmark = pytest.mark.anyio

FOLDER = Path(__file__).parents[2] / "models" / "style-encoder"
TEXTS = ["We had soup first, and then the fish.", "Тихо было в доме, и ёлка стояла."]


@pytest.fixture(scope="module")
def encoder():
    return load_style_encoder(FOLDER)


@pytest.fixture
def embedding_daemon(start_daemon):
    desk = EmbeddingDesk("style-encoder", lambda: load_style_encoder(FOLDER))
    yield start_daemon(embedder=desk)
    desk.close()


@pytest.fixture
def ask(embedding_daemon):
    async def post(**body):
        async with embedding_daemon.client() as client:
            return await client.post("/v1/embeddings", json=body)

    return post


async def test_vectors_are_those_of_the_index_and_the_answer_says_so(ask, encoder):
    answer = (await ask(input=TEXTS, model="style-encoder")).json()

    assert (answer["object"], answer["model"]) == ("list", encoder.space.id)
    assert [item["index"] for item in answer["data"]] == [0, 1]
    assert np.allclose([x["embedding"] for x in answer["data"]], encoder.embed(TEXTS), atol=1e-6)
    n_bytes = sum(len(text.encode()) for text in TEXTS)  # the scripted model has a token per byte
    assert answer["usage"] == {"prompt_tokens": n_bytes, "total_tokens": n_bytes}


async def test_base64_holds_the_same_numbers_as_little_endian_float32(ask):
    numbers = (await ask(input=TEXTS[1])).json()["data"][0]["embedding"]
    packed = (await ask(input=TEXTS[1], encoding_format="base64")).json()["data"][0]["embedding"]

    assert np.frombuffer(base64.b64decode(packed), "<f4").tolist() == numbers


async def test_tokens_stand_for_their_text(ask, embedding_daemon):
    tokens = [embedding_daemon.runtime.tokenizer().encode(text) for text in TEXTS]
    of_texts = (await ask(input=TEXTS)).json()
    of_tokens = (await ask(input=tokens)).json()

    assert of_tokens == of_texts
    assert (await ask(input=tokens[0])).json() == (await ask(input=TEXTS[0])).json()


async def test_fewer_dimensions_are_the_first_ones_made_unit_length(ask):
    whole = (await ask(input=TEXTS[0])).json()["data"][0]["embedding"]
    short = (await ask(input=TEXTS[0], dimensions=16)).json()["data"][0]["embedding"]

    assert len(short) == 16
    assert np.linalg.norm(short) == pytest.approx(1, abs=1e-6)
    assert np.allclose(short, shortened(np.array([whole], np.float32), 16)[0], atol=1e-6)


@pytest.mark.parametrize(
    ("body", "status", "code", "param"),
    [
        ({}, 400, "missing_field", "input"),
        ({"input": ""}, 400, "text_empty", "input"),
        ({"input": []}, 400, "text_empty", "input"),
        ({"input": ["a", ""]}, 400, "text_empty", "input"),
        ({"input": ["a", [1]]}, 200, None, None),
        ({"input": [[1], []]}, 400, "text_empty", "input"),
        ({"input": [1, "a"]}, 400, "invalid_type", "input"),
        ({"input": [True]}, 400, "invalid_type", "input"),
        ({"input": {"text": "a"}}, 400, "invalid_type", "input"),
        ({"input": [260]}, 400, "invalid_value", "input"),
        ({"input": [-1]}, 400, "invalid_value", "input"),
        ({"input": [10**30]}, 400, "invalid_value", "input"),
        ({"input": ["a"] * 2049}, 400, "invalid_value", "input"),
        ({"input": "a" * 200_001}, 400, "invalid_value", "input"),
        ({"input": "a", "dimensions": 0}, 400, "invalid_value", "dimensions"),
        ({"input": "a", "dimensions": 257}, 400, "invalid_value", "dimensions"),
        ({"input": "a", "encoding_format": "hex"}, 400, "invalid_value", "encoding_format"),
        ({"input": "a", "model": "text-embedding-3-small"}, 404, "model_not_found", "model"),
        ({"input": "a", "model": "default", "user": "u", "unheard_of": 1}, 200, None, None),
    ],
)
async def test_what_is_wrong_is_said_in_openais_shape(ask, body, status, code, param):
    response = await ask(**body)

    assert response.status_code == status, response.text
    if code is not None:
        error = response.json()["error"]
        assert (error["code"], error["param"]) == (code, param)
        assert error["type"] == "invalid_request_error"


async def test_it_needs_no_consent_and_leaves_nothing_in_an_index(ask, embedding_daemon):
    assert embedding_daemon.services.index is None
    assert (await ask(input="a private text")).status_code == 200


async def test_the_encoder_is_in_the_list_of_models(embedding_daemon):
    async with embedding_daemon.client() as client:
        listed = (await client.get("/v1/models")).json()["data"]
        shown = (await client.get("/v1/models/style-encoder")).json()

    assert [model["id"] for model in listed] == ["scripted", "style-encoder"]
    assert shown == listed[1]


async def test_a_daemon_without_an_encoder_says_so_once(start_daemon):
    async with start_daemon().client() as client:
        response = await client.post("/v1/embeddings", json={"input": "a"})

    assert response.status_code == 501
    assert response.headers["x-should-retry"] == "false"
