"""Gemma 3 as ExecuTorch exports it: everything that changes between calls is an input.

Keys and values are inputs that the program reads, and writes where it is told, through a pointer: a cache can
be trimmed and forked by its owner, and no program holds one. Adapters are inputs too, of any rank. What
XNNPACK cannot do with a number of rows unknown at export (slices, means, reshapes) is put another way, so that
everything between attention and the adapters is inside the delegate.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from adapters.composition import SITES
from pushkin_runtime.model_config import ModelConfig

GELU_SLOPE = 2 * math.sqrt(2 / math.pi)

LINEARS = tuple(member for members in SITES.values() for member in members)
"""The seven matrices of a layer that can be adapted, in the order in which a program takes adapters."""

LayerKV = tuple[torch.Tensor, torch.Tensor]
"""Keys and values of one layer, (1, n_keys, n_kv_heads, head_dim): all that may be seen. The last n are written."""

Adapter = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""Of one matrix: A (rank, in), B (out, rank), and the factor of each row of A·x (rank,)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """A checkpoint's pieces as the graph needs them. linear: by module name. norm: by tensor name, (1 + w)."""

    config: ModelConfig
    linear: Callable[[str], nn.Module]
    norm: Callable[[str], torch.Tensor]


class RmsNorm(nn.Module):
    """Root-mean-square norm over the last dimension; the mean is a product with a constant row."""

    weight: torch.Tensor

    def __init__(self, weight: torch.Tensor, eps: float) -> None:
        super().__init__()
        n = weight.shape[0]
        self.mean_of_squares = nn.Linear(n, 1)
        self.mean_of_squares.weight.data = torch.full((1, n), 1.0 / n)
        self.mean_of_squares.bias.data = torch.tensor([eps])
        self.register_buffer("weight", weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.rsqrt(self.mean_of_squares(x * x)) * self.weight


class Rotation(nn.Module):
    """Rotary embedding, halves layout; the swap of the halves is a product with a constant matrix."""

    def __init__(self, head_dim: int) -> None:
        super().__init__()
        half = head_dim // 2
        swap = torch.zeros(head_dim, head_dim)
        swap[:half, half:] = -torch.eye(half)
        swap[half:, :half] = torch.eye(half)
        self.swap = nn.Linear(head_dim, head_dim, bias=False)
        self.swap.weight.data = swap

    def forward(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        """x: (n, heads, head_dim); cos, sin: (n, 1, head_dim)."""
        return x * cos + self.swap(x) * sin


class Adapted(nn.Module):
    """A linear of the base and its adapter's share."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base

    def forward(self, x: torch.Tensor, low: torch.Tensor, adapter: Adapter) -> torch.Tensor:
        """low: x in the adapter's dtype."""
        a, b, factors = adapter
        share = F.linear(F.linear(low, a) * factors, b)
        return self.base(x) + share.to(x.dtype)


class Layer(nn.Module):
    """One decoder layer."""

    def __init__(self, parts: Parts, index: int, lora_dtype: torch.dtype) -> None:
        super().__init__()
        c, p = parts.config, f"layers.{index}."
        self.config, self.lora_dtype = c, lora_dtype
        self.linears = nn.ModuleList(Adapted(parts.linear(p + name)) for name in LINEARS)
        eps = c.rms_norm_eps
        self.norm_in = RmsNorm(parts.norm(p + "input_layernorm.weight"), eps)
        self.norm_attended = RmsNorm(parts.norm(p + "post_attention_layernorm.weight"), eps)
        self.norm_mlp = RmsNorm(parts.norm(p + "pre_feedforward_layernorm.weight"), eps)
        self.norm_out = RmsNorm(parts.norm(p + "post_feedforward_layernorm.weight"), eps)
        self.norm_q = RmsNorm(parts.norm(p + "self_attn.q_norm.weight"), eps)
        self.norm_k = RmsNorm(parts.norm(p + "self_attn.k_norm.weight"), eps)
        self.rotate = Rotation(c.head_dim)

    def forward(
        self,
        x: torch.Tensor,
        turn: tuple[torch.Tensor, torch.Tensor],
        mask: torch.Tensor,
        kv: LayerKV,
        adapters: Sequence[Adapter],
    ) -> torch.Tensor:
        c = self.config
        of_q, of_k, of_v, of_o, of_gate, of_up, of_down = self.linears
        h = self.norm_in(x)
        low = h.to(self.lora_dtype)
        q, k, v = (
            linear(h, low, adapter).view(x.shape[0], -1, c.head_dim)
            for linear, adapter in zip((of_q, of_k, of_v), adapters[:3], strict=True)
        )
        q = self.rotate(self.norm_q(q), *turn)
        k = self.rotate(self.norm_k(k), *turn)
        h = self._attend(q[None], k[None], v[None], mask, kv).view(x.shape[0], -1)
        h = of_o(h, h.to(self.lora_dtype), adapters[3])
        x = x + self.norm_attended(h)
        h = self.norm_mlp(x)
        low = h.to(self.lora_dtype)
        gate, up = of_gate(h, low, adapters[4]), of_up(h, low, adapters[5])
        h = _gelu(gate) * up
        h = of_down(h, h.to(self.lora_dtype), adapters[6])
        return x + self.norm_out(h)

    def _attend(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        mask: torch.Tensor,
        kv: LayerKV,
    ) -> torch.Tensor:
        """q, k, v: (1, n, heads, head_dim)."""
        keys, values = kv
        n = q.shape[1]
        out = torch.ops.llama.sdpa_with_kv_cache(
            q.to(keys.dtype),
            k.to(keys.dtype),
            v.to(keys.dtype),
            keys,
            values,
            keys.shape[1] - n,
            n,
            mask,
            0.0,
            False,
            self.config.query_pre_attn_scalar**-0.5,
        )
        return out.to(q.dtype)


class Body(nn.Module):
    """All layers: rows as they enter the first → rows as they leave the last."""

    local_frequencies: torch.Tensor
    global_frequencies: torch.Tensor

    def __init__(self, parts: Parts, lora_dtype: torch.dtype) -> None:
        super().__init__()
        c = parts.config
        self.layers = nn.ModuleList(Layer(parts, i, lora_dtype) for i in range(c.n_layers))
        self.kinds = [c.is_global(i) for i in range(c.n_layers)]
        self.register_buffer("local_frequencies", _frequencies(c.head_dim, c.rope_local_theta, 1.0))
        self.register_buffer(
            "global_frequencies", _frequencies(c.head_dim, c.rope_theta, c.rope_factor)
        )

    def forward(
        self,
        x: torch.Tensor,
        positions: torch.Tensor,
        local_mask: torch.Tensor,
        global_mask: torch.Tensor,
        kv: Sequence[LayerKV],
        adapters: Sequence[Sequence[Adapter]],
    ) -> torch.Tensor:
        """x: (n, hidden_size); positions: (n, 1, 1) float; masks: (n, n_keys), 0 or -inf."""
        turns = {
            False: _turn(positions * self.local_frequencies),
            True: _turn(positions * self.global_frequencies),
        }
        masks = {False: local_mask, True: global_mask}
        for i, layer in enumerate(self.layers):
            kind = self.kinds[i]
            x = layer(x, turns[kind], masks[kind], kv[i], adapters[i])
        return x


class Head(nn.Module):
    """Rows as they leave the last layer → logits."""

    def __init__(self, parts: Parts) -> None:
        super().__init__()
        self.norm = RmsNorm(parts.norm("norm.weight"), parts.config.rms_norm_eps)
        self.linear = parts.linear("lm_head")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: (n, hidden_size) → (n, vocab_size)."""
        return self.linear(self.norm(x))


def _gelu(x: torch.Tensor) -> torch.Tensor:
    """GELU's tanh approximation; XNNPACK's own node is the exact one, whatever is asked of it."""
    cubic = x * (x * x * (0.044715 * GELU_SLOPE) + GELU_SLOPE)
    return x * torch.sigmoid(cubic)


def _turn(angles: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return angles.cos(), angles.sin()


def _frequencies(head_dim: int, theta: float, factor: float) -> torch.Tensor:
    exponents = torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim
    half = 1.0 / theta**exponents / factor
    return torch.cat((half, half))[None, None]
