"""Any embedder, checked: whatever it does wrong is EmbeddingFailed, and vectors are what was promised."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from indexer.errors import EmbeddingFailed
from indexer.types import Embedder


def made_embedder(make: Callable[[], Embedder]) -> Embedder:
    """Make an embedder. Raises EmbeddingFailed."""
    try:
        return make()
    except EmbeddingFailed:
        raise
    except Exception as error:
        raise EmbeddingFailed(
            f"The encoder of paragraphs could not be loaded ({type(error).__name__})."
        ) from error


def embedded(embedder: Embedder, texts: Sequence[str]) -> NDArray[np.float32]:
    """Return (len(texts), n_dimensions) finite float32. Raises EmbeddingFailed."""
    try:
        vectors = embedder.embed(texts)
    except EmbeddingFailed:
        raise
    except Exception as error:
        raise EmbeddingFailed(
            f"The encoder of paragraphs failed ({type(error).__name__})."
        ) from error
    expected = (len(texts), embedder.space.n_dimensions)
    if vectors.shape != expected or not np.isfinite(vectors).all():
        raise EmbeddingFailed(
            f"The encoder gave {vectors.shape}, or values that are not finite; expected {expected}."
        )
    return vectors
