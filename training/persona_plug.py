"""The torch twin of `indexer.persona_vector.PersonaPlug`, batched, and its export."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from indexer.persona_vector import PlugWeights, capped

_MASKED = -1e9  # not -inf: a row without history must not become NaN
_SMALLEST_LENGTH = 1e-6


@dataclass(frozen=True)
class PlugShape:
    """Sizes of a plug: embedding, projector, model and soft tokens."""

    n_embedding: int
    hidden_size: int
    n_soft: int = 4
    n_projector: int = 512


@dataclass(frozen=True)
class History:
    """A batch of retrieved paragraphs, padded.

    query (b, E), zero where there is no text before; vectors (b, n, E), documents (b, n) int64;
    is_there (b, n) bool, nothing true where the persona is the null one. direct (b, m, D): what the soft tokens
    are to be instead, up to their length; only in the reading lessons of `persona_start`.
    """

    query: Tensor
    vectors: Tensor
    documents: Tensor
    is_there: Tensor
    direct: Tensor | None = None


class TrainablePlug(nn.Module):
    """Attention, projector, instruction and null persona; see `indexer.persona_vector` for the mathematics.

    uniform: attention off (mean pooling), an ablation.
    """

    def __init__(self, shape: PlugShape, target_norm: float, temperature: float = 0.1) -> None:
        super().__init__()
        self.shape = shape
        self.query = nn.Linear(shape.n_embedding, shape.n_embedding, bias=False)
        nn.init.eye_(self.query.weight)
        self.into = nn.Linear(shape.n_embedding, shape.n_projector)
        self.out = nn.Linear(shape.n_projector, shape.n_soft * shape.hidden_size)
        self.instruction = nn.Parameter(torch.randn(shape.hidden_size))
        self.null = nn.Parameter(torch.randn(shape.n_soft, shape.hidden_size))
        self.log_gain = nn.Parameter(torch.zeros(2))
        self.log_temperature = nn.Parameter(torch.tensor([temperature]).log())
        self.register_buffer("target_norm", torch.tensor([target_norm]))
        self.uniform = False

    def forward(self, history: History, strength: float = 1.0) -> tuple[Tensor, Tensor]:
        """Rows (b, 1 + m, D), the instruction first, and the attention (b, n)."""
        attention = self.attention(history)
        scaled = history.vectors * self.shape.n_embedding**0.5
        hidden = F.gelu(self.into(scaled), approximate="tanh")  # (b, n, H)
        mean = self.out(torch.einsum("bn,bnh->bh", attention, hidden))
        soft = mean.view(len(mean), self.shape.n_soft, self.shape.hidden_size)
        if history.direct is not None:
            soft = history.direct
        is_real = history.is_there.any(1)[:, None, None]
        soft = torch.where(is_real, self.null + strength * (soft - self.null), self.null)
        norm: Any = self.target_norm
        gain = self.log_gain.exp() * norm
        first = gain[0] * F.normalize(self.instruction, dim=0, eps=_SMALLEST_LENGTH)
        rest = gain[1] * F.normalize(soft, dim=-1, eps=_SMALLEST_LENGTH)
        return torch.cat([first.expand(len(soft), 1, -1), rest], 1), attention

    def attention(self, history: History) -> Tensor:
        """Weights (b, n), capped by document; the cap's factors carry no gradient."""
        turned = F.normalize(self.query(history.query), dim=-1, eps=_SMALLEST_LENGTH)
        logits = torch.einsum("be,bne->bn", turned, history.vectors) / self.log_temperature.exp()
        if self.uniform:
            logits = logits * 0
        weights = logits.masked_fill(~history.is_there, _MASKED).softmax(-1)
        with torch.no_grad():
            factors = torch.stack(
                [
                    _factors(own, documents, there)
                    for own, documents, there in zip(
                        weights, history.documents, history.is_there, strict=True
                    )
                ]
            )
        return weights * factors

    def arrays(self, dtype: Any = np.float16) -> dict[str, Any]:
        """The tensors of a plug's file, as `PlugWeights` names them."""
        norm: Any = self.target_norm
        found: dict[str, Tensor] = {
            "query_w": self.query.weight,
            "in_w": self.into.weight,
            "in_b": self.into.bias,
            "out_w": self.out.weight,
            "out_b": self.out.bias,
            "instruction": self.instruction,
            "null": self.null,
            "log_gain": self.log_gain,
            "log_temperature": self.log_temperature,
            "target_norm": norm,
        }
        return {name: value.detach().cpu().numpy().astype(dtype) for name, value in found.items()}

    def load_arrays(self, arrays: dict[str, Any]) -> None:
        """Take over the tensors of a plug's file."""
        for name, value in arrays.items():
            target = {
                "query_w": self.query.weight,
                "in_w": self.into.weight,
                "in_b": self.into.bias,
                "out_w": self.out.weight,
                "out_b": self.out.bias,
            }.get(name)
            target = getattr(self, name) if target is None else target
            with torch.no_grad():
                target.copy_(torch.from_numpy(np.asarray(value, np.float32)))


def weights_of(plug: TrainablePlug) -> PlugWeights:
    """The same numbers for NumPy, float32."""
    arrays = plug.arrays(np.float32)
    return PlugWeights(**{field.name: arrays[field.name] for field in fields(PlugWeights)})


def _factors(weights: Tensor, documents: Tensor, is_there: Tensor) -> Tensor:
    """What the document cap multiplies each weight with, (n,)."""
    factors = torch.ones_like(weights)
    if is_there.any():
        own = weights[is_there].double().cpu().numpy()
        _, places = np.unique(documents[is_there].cpu().numpy(), return_inverse=True)
        totals = np.bincount(places, weights=own).astype(np.float64)
        ratio = capped(totals) / np.maximum(totals, np.finfo(np.float32).tiny)
        factors[is_there] = torch.from_numpy(ratio[places]).to(factors)
    return factors
