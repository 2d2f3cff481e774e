"""Embeddings as both dialects need them: texts or tokens in, rows out, model and tokens counted."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from api.errors import NO_RETRY, ApiError
from api.services import Services, TextEmbedder

TextOrTokens = str | tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """vectors: (n_texts, n_dimensions) float32 of unit length. model: the exact space they lie in."""

    model: str
    vectors: NDArray[np.float32]
    n_tokens: int


async def embed(services: Services, inputs: Sequence[TextOrTokens], *, param: str) -> Rows:
    """Embed each input; tokens are the loaded model's and stand for its text of them.

    param: the field of the request that errors name. Raises ApiError, NotReady or IndexerError.
    """
    embedder = ready_embedder(services)
    tokenizer = services.runtime.tokenizer()
    texts, n_tokens = [], 0
    for given in inputs:
        if isinstance(given, str):
            texts.append(given)
            n_tokens += len(tokenizer.encode(given))
            continue
        if not all(0 <= token < tokenizer.n_tokens for token in given):
            raise ApiError(
                "invalid_value",
                f"`{param}` has tokens outside the model's vocabulary of {tokenizer.n_tokens}",
                param=param,
            )
        texts.append(tokenizer.decode(given))
        n_tokens += len(given)
    made = await asyncio.wrap_future(embedder.embed(texts))
    return Rows(made.space.id, made.vectors, n_tokens)


def ready_embedder(services: Services) -> TextEmbedder:
    """The daemon's embedder. Raises ApiError where it runs without one."""
    if services.embedder is None:
        message = "This daemon runs without an encoder of texts."
        raise ApiError("capability_missing", message, headers=NO_RETRY)
    return services.embedder


def shortened(vectors: NDArray[np.float32], n_dimensions: int) -> NDArray[np.float32]:
    """The first dimensions of each row, of unit length again."""
    cut = vectors[:, :n_dimensions]
    norms = np.linalg.norm(cut, axis=1, keepdims=True)
    unit: NDArray[np.float32] = cut / np.maximum(norms, np.float32(1e-12))
    return unit
