"""Paragraph vectors → a persona: rows that stand for the user's writing in the model's prompt.

PersonaPlug (Liu et al., ACL 2025, arXiv:2409.11901): attention of the text at hand over the paragraphs of the
index, a projector into the model's input space, an instruction row. Ours beside it: the attention has a learned
temperature (the published one is nearly uniform), no document weighs more than 25 % where there are enough of
them, rows have the norm of the model's own input rows, and an empty index has a learned "null" persona.
NumPy; `training/persona_plug.py` is the same in torch, and a test holds both together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adapters.checked_folder import read_folder
from indexer.errors import PersonaUnavailable
from indexer.style_encoder import gelu
from indexer.types import EmbeddingSpace

Floats = NDArray[np.float32]
KIND = "persona-plug"
DOCUMENT_CAP = 0.25
MAX_STRENGTH = 2.0
MAX_SOFT_TOKENS = 8
_SMALLEST_LENGTH = 1e-6


@dataclass(frozen=True, slots=True, eq=False)
class PlugWeights:
    """E: embedding, D: the model's hidden size, H: the projector's, m: soft tokens. Matrices are (out, in).

    query_w (E, E), in_w (H, E), in_b (H,), out_w (m·D, H), out_b (m·D,), instruction (D,), null (m, D);
    log_gain (2,): of the instruction's and of the soft tokens' norm; log_temperature, target_norm: scalars.
    """

    query_w: Floats
    in_w: Floats
    in_b: Floats
    out_w: Floats
    out_b: Floats
    instruction: Floats
    null: Floats
    log_gain: Floats
    log_temperature: Floats
    target_norm: Floats

    def shapes_problem(self) -> str:
        """What does not fit together, or ""."""
        n_in, n_hidden, n_model = len(self.query_w), len(self.in_b), len(self.instruction)
        n_soft = len(self.null)
        expected: dict[str, tuple[int, ...]] = {
            "query_w": (n_in, n_in),
            "in_w": (n_hidden, n_in),
            "in_b": (n_hidden,),
            "out_w": (n_soft * n_model, n_hidden),
            "out_b": (n_soft * n_model,),
            "instruction": (n_model,),
            "null": (n_soft, n_model),
            "log_gain": (2,),
            "log_temperature": (1,),
            "target_norm": (1,),
        }
        wrong = [name for name, shape in expected.items() if getattr(self, name).shape != shape]
        if not wrong and not 1 <= n_soft <= MAX_SOFT_TOKENS:
            wrong = [f"null (1 to {MAX_SOFT_TOKENS} soft tokens)"]
        return ", ".join(wrong)


@dataclass(frozen=True, slots=True, eq=False)
class Persona:
    """rows: (1 + m, hidden) float32, the instruction first, in the convention of `engines.base.Embeddings`.

    sources: the weight of each document, summing to 1, or empty for the null persona. style: the weighted mean
    of the paragraph vectors, (E,) of unit length, for comparing texts with the user's; None for the null persona.
    """

    rows: Floats
    sources: Mapping[str, float]
    style: Floats | None


class PersonaPlug:
    """A loaded plug. Immutable; a persona of 64 paragraphs takes well under a millisecond for a small model.

    space: the only embedding space whose vectors it understands.
    """

    def __init__(self, weights: PlugWeights, space: str, digest: str) -> None:
        self.space, self.digest = space, digest
        self._weights = weights

    @property
    def n_rows(self) -> int:
        """Rows of every persona, the null one too."""
        return 1 + len(self._weights.null)

    @property
    def hidden_size(self) -> int:
        """Of the model it was made for."""
        return len(self._weights.instruction)

    def null(self) -> Persona:
        """The persona of nobody in particular: for an empty index, and what strength 0 gives."""
        return Persona(self._rows(self._weights.null), {}, None)

    def persona(
        self,
        query: Floats | None,
        vectors: Floats,
        documents: Sequence[str],
        *,
        strength: float = 1.0,
    ) -> Persona:
        """The persona for a text.

        query: the unit vector (E,) of the text before the cursor, None when there is none: all paragraphs then
        count alike. vectors: (n, E), unit rows of the retrieved paragraphs; documents: (n,), where each is from.
        strength: 0 gives the null persona (not "no rows": the persona adapter was trained with rows before it,
        and 0 is so the limit of small strengths); 1 as trained; up to 2 goes as far again beyond.
        Raises ValueError for shapes or a strength that do not fit.
        """
        weights = self._weights
        if not 0 <= strength <= MAX_STRENGTH:
            raise ValueError(f"strength {strength} is not between 0 and {MAX_STRENGTH:g}")
        if vectors.shape != (len(documents), len(weights.query_w)):
            raise ValueError(
                f"vectors are {vectors.shape}, expected {(len(documents), len(weights.query_w))}"
            )
        if not len(vectors):
            return self.null()
        attention = self.attention(query, vectors, documents)
        hidden = gelu(vectors * len(weights.query_w) ** 0.5 @ weights.in_w.T + weights.in_b)
        mean = weights.out_w @ (attention @ hidden) + weights.out_b  # the last layer is linear
        soft = weights.null + strength * (mean.reshape(weights.null.shape) - weights.null)
        sources: dict[str, float] = {}
        for document, weight in zip(documents, attention.tolist(), strict=True):
            sources[document] = sources.get(document, 0.0) + weight
        style = attention @ vectors
        style = style / max(_SMALLEST_LENGTH, float(np.linalg.norm(style)))
        return Persona(self._rows(soft.astype(np.float32)), sources, style.astype(np.float32))

    def attention(self, query: Floats | None, vectors: Floats, documents: Sequence[str]) -> Floats:
        """Weights of the paragraphs (n,), summing to 1, capped by document."""
        logits = np.zeros(len(vectors), np.float32)
        if query is not None:
            turned = self._weights.query_w @ query
            turned = turned / max(_SMALLEST_LENGTH, float(np.linalg.norm(turned)))
            logits = vectors @ turned / np.exp(self._weights.log_temperature[0])
        weights = np.exp(logits - logits.max())
        weights = weights / weights.sum()
        _, places = np.unique(np.asarray(documents), return_inverse=True)
        totals = np.bincount(places, weights=weights).astype(np.float64)
        factors = capped(totals) / np.maximum(totals, np.finfo(np.float32).tiny)
        result: Floats = (weights * factors[places]).astype(np.float32)
        return result

    def _rows(self, soft: Floats) -> Floats:
        weights = self._weights
        gain = np.exp(weights.log_gain) * weights.target_norm
        rows = np.concatenate([weights.instruction[None], soft])
        lengths = np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), _SMALLEST_LENGTH)
        rows = rows / lengths
        rows[0] *= gain[0]
        rows[1:] *= gain[1]
        return np.ascontiguousarray(rows, np.float32)


def capped(totals: NDArray[np.floating[Any]], cap: float = DOCUMENT_CAP) -> NDArray[np.float64]:
    """Shares that sum to 1, none above `cap`: what is cut off goes to the others in proportion (water-filling).

    With fewer than 1 / cap documents the cap cannot hold, and all weigh the same.
    """
    shares = np.asarray(totals, np.float64)
    limit = max(cap, 1 / len(shares))
    full = np.zeros(len(shares), bool)
    for _ in range(len(shares)):
        free = ~full & (shares > 0)
        room = 1 - limit * full.sum()
        if not free.any():
            break
        scaled = shares * (room / shares[free].sum())
        over = free & (scaled > limit * (1 + 1e-9))
        if not over.any():
            return np.where(full, limit, np.where(free, scaled, 0.0))
        full |= over
    return np.full(len(shares), 1 / len(shares))


def load_persona_plug(folder: Path, space: EmbeddingSpace, hidden_size: int) -> PersonaPlug:
    """Load `persona-plug.json` and `.safetensors` of a folder for an embedder and a model.

    Raises PersonaUnavailable when they are missing, damaged, or made for another space or model.
    """
    content = read_folder(folder, KIND, PersonaUnavailable)
    weights = content.build(_weights)
    found = content.settings.get("space")
    if not isinstance(found, str) or found != space.id:
        raise PersonaUnavailable(
            f"The persona plug was trained on vectors of {str(found)[:80]}, the index has {space.id[:80]}: "
            "index with that embedder, or train a plug for this one."
        )
    if len(weights.instruction) != hidden_size or len(weights.query_w) != space.n_dimensions:
        raise PersonaUnavailable(
            f"The persona plug makes rows of {len(weights.instruction)} numbers from vectors of "
            f"{len(weights.query_w)}; expected {hidden_size} and {space.n_dimensions}."
        )
    return PersonaPlug(weights, found, content.sha256)


def _weights(arrays: Mapping[str, NDArray[Any]]) -> PlugWeights:
    weights = PlugWeights(
        **{name: arrays[name].astype(np.float32) for name in PlugWeights.__slots__}
    )
    if problem := weights.shapes_problem():
        raise ValueError(f"these do not fit: {problem}")
    return weights
