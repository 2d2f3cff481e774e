"""`POST /v1/embeddings`: vectors of texts, from the encoder that the document index uses."""

from __future__ import annotations

import base64
from typing import Literal

import numpy as np
from fastapi import APIRouter, Response
from numpy.typing import NDArray
from typing_extensions import TypedDict

from api.embedding import embed, ready_embedder, shortened
from api.errors import ApiError
from api.json_route import StrictJsonRoute
from api.json_text import json_bytes
from api.openai_dialect.bodies import DEFAULT_MODEL, EmbeddingsBody
from api.responses import answers, error_responses
from api.services import ServicesDep

router = APIRouter(tags=["openai"], route_class=StrictJsonRoute)


class EmbeddingItem(TypedDict):
    """`embedding`: numbers, or base64 of little-endian float32 where that was asked for."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class EmbeddingUsage(TypedDict):
    """Counted with the language model's tokenizer; the encoder itself reads characters."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingList(TypedDict):
    """`model` names the exact space: only vectors of one space can be compared."""

    object: Literal["list"]
    data: list[EmbeddingItem]
    model: str
    usage: EmbeddingUsage


@router.post(
    "/v1/embeddings",
    summary="Embed texts",
    response_class=Response,
    responses={
        200: answers(EmbeddingList),
        **error_responses(400, 401, 403, 404, 413, 415, 421, 500, 501, 503),
    },
)
async def create_embeddings(body: EmbeddingsBody, services: ServicesDep) -> Response:
    name = ready_embedder(services).name
    made = await embed(services, body.input, param="input")
    if body.model not in (None, DEFAULT_MODEL, name, made.model):
        raise ApiError(
            "model_not_found", f"embeddings come from `{name}`; see GET /v1/models", param="model"
        )
    vectors, n_all = made.vectors, made.vectors.shape[1]
    if body.dimensions is not None:
        if body.dimensions > n_all:
            message = f"`dimensions` must be at most {n_all}, got {body.dimensions}"
            raise ApiError("invalid_value", message, param="dimensions")
        vectors = shortened(vectors, body.dimensions)
    encode = _base64 if body.encoding_format == "base64" else _numbers
    answer: EmbeddingList = {
        "object": "list",
        "data": [
            {"object": "embedding", "index": index, "embedding": encode(vector)}
            for index, vector in enumerate(vectors)
        ],
        "model": made.model,
        "usage": {"prompt_tokens": made.n_tokens, "total_tokens": made.n_tokens},
    }
    return Response(json_bytes(answer), media_type="application/json")


def _numbers(vector: NDArray[np.float32]) -> list[float]:
    return [float(value) for value in vector]


def _base64(vector: NDArray[np.float32]) -> str:
    return base64.b64encode(vector.astype("<f4").tobytes()).decode()
