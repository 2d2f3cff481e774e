"""`POST /embedding` and its other name `/embeddings`; the shipped editor's `text` gets a flat answer."""

from __future__ import annotations

from typing import Annotated, Self

import numpy as np
from fastapi import APIRouter
from numpy.typing import NDArray
from pydantic import AfterValidator, Field, model_validator
from pydantic_core import PydanticCustomError
from typing_extensions import TypedDict

from api.embedding import embed
from api.json_route import StrictJsonRoute
from api.llama_dialect.bodies import LlamaBody
from api.openai_dialect.bodies import Inputs, nothing_empty
from api.responses import llama_error_responses
from api.schemas import MAX_TEXT_CHARS
from api.services import ServicesDep

NO_NORM, MAX_NORM = -1, 0
INT16_RANGE = 32_760  # upstream's scale for the norm 0

router = APIRouter(
    tags=["llama-server"],
    route_class=StrictJsonRoute,
    responses=llama_error_responses(400, 401, 403, 413, 415, 421, 500, 501, 503),
)

Contents = Annotated[Inputs, AfterValidator(nothing_empty)]


class LlamaEmbeddingBody(LlamaBody):
    """`POST /embedding`: one of `content`, `input` and `text`."""

    content: Contents | None = None
    input: Contents | None = None
    text: Annotated[str, Field(min_length=1, max_length=MAX_TEXT_CHARS)] | None = None
    embd_normalize: Annotated[int, Field(ge=-1, le=100)] = Field(
        2,
        description="-1: as the encoder gave it, 0: largest value 32760, 2: Euclidean, else p-norm.",
    )

    @model_validator(mode="after")
    def _one_of_them(self) -> Self:
        if sum(given is not None for given in (self.content, self.input, self.text)) != 1:
            raise PydanticCustomError(
                "invalid_value", "must have `content` or `input`, and one only"
            )
        return self


class LlamaEmbedding(TypedDict):
    """`embedding` holds one vector: the encoder pools."""

    index: int
    embedding: list[list[float]]


class EditorEmbedding(TypedDict):
    embedding: list[float]


@router.post("/embedding", summary="Embed texts (llama-server)")
@router.post("/embeddings", summary="The same as /embedding")
async def embed_texts(
    body: LlamaEmbeddingBody, services: ServicesDep
) -> list[LlamaEmbedding] | EditorEmbedding:
    if body.text is not None:
        made = await embed(services, [body.text], param="text")
        return {"embedding": _numbers(made.vectors[0])}
    inputs, param = (body.content, "content") if body.content is not None else (body.input, "input")
    assert inputs is not None  # one of them is given
    made = await embed(services, inputs, param=param)
    vectors = normalised(made.vectors, body.embd_normalize)
    return [
        {"index": index, "embedding": [_numbers(vector)]} for index, vector in enumerate(vectors)
    ]


def normalised(vectors: NDArray[np.float32], norm: int) -> NDArray[np.float32]:
    """Scale each row as llama-server does with `embd_normalize`; a row of zeros stays."""
    if norm == NO_NORM:
        return vectors
    sizes = np.abs(vectors.astype(np.float64))
    if norm == MAX_NORM:
        lengths = sizes.max(axis=1) / INT16_RANGE
    else:
        lengths = (sizes**norm).sum(axis=1) ** (1 / norm)
    scaled = vectors / np.where(lengths > 0, lengths, 1)[:, None]
    return scaled.astype(np.float32)


def _numbers(vector: NDArray[np.float32]) -> list[float]:
    return [float(value) for value in vector]
