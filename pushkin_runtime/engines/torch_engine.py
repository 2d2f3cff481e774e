"""Gemma 3 in plain PyTorch: the readable reference that the others are checked against.

Small models are expanded to float32 at load, exact about a checkpoint; large quantised ones stay as they
are and are computed in bfloat16. Parity with transformers' Gemma3ForCausalLM is tested.
"""

from __future__ import annotations

import math
import mmap
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from adapters.composition import SITES, Composition
from pushkin_runtime.engines.base import (
    DecodePlan,
    Embeddings,
    EngineOptions,
    KVCache,
    Lora,
    Segment,
    Tokens,
)
from pushkin_runtime.engines.counted_cache import ended_at
from pushkin_runtime.engines.host_sampler import HostDecoder
from pushkin_runtime.engines.lora import check_places
from pushkin_runtime.engines.rotary import turn_by, turn_into
from pushkin_runtime.engines.torch_linear import load_weights
from pushkin_runtime.engines.torch_lora import TorchLora, load_lora
from pushkin_runtime.errors import EngineFailed
from pushkin_runtime.model_config import SMALL_MODEL, ModelConfig
from pushkin_runtime.model_store import base_model, model_info, open_model, open_tokenizer

GROW = 256  # tokens a cache grows by
ROPE_GROW = 4096  # positions; all 131,072 of the 4B would be half a gigabyte


class TorchKVCache:
    """One block (n_layers, 2, n_rows, n_kv_heads, capacity, head_dim); `n_tokens` of the capacity are valid.

    The block is anonymous mapped memory: dropped caches go back to the system at once, where blocks of
    this size in malloc's heap fragment it (measured: 8 % more after 10,000 requests).
    """

    def __init__(
        self, config: ModelConfig, dtype: torch.dtype, n_rows: int = 1, lora: Lora | None = None
    ) -> None:
        self.n_tokens = 0
        self.n_rows = n_rows
        self.lora = lora
        shape = (config.n_layers, 2, n_rows, config.n_kv_heads, 0, config.head_dim)
        self.block = torch.empty(shape, dtype=dtype)

    @property
    def n_bytes(self) -> int:
        """Memory of all layers, spare capacity included."""
        return self.block.nbytes

    def reserve(self, n_tokens: int) -> None:
        """Make room for `n_tokens` in total."""
        *outer, capacity, head_dim = self.block.shape
        if n_tokens <= capacity:
            return
        shape = (*outer, -(-n_tokens // GROW) * GROW, head_dim)
        memory = mmap.mmap(-1, math.prod(shape) * self.block.element_size())
        grown = torch.frombuffer(memory, dtype=self.block.dtype).view(shape)
        grown[..., : self.n_tokens, :] = self.block[..., : self.n_tokens, :]
        self.block = grown


@dataclass(frozen=True, slots=True, eq=False)
class _Pass:
    """One run through the layers: the new positions start..end-1, what they may see (by whether the
    layer is global; None: everything), under which adapters."""

    n_rows: int
    start: int
    end: int
    masks: dict[bool, torch.Tensor | None]
    lora: TorchLora | None


class TorchEngine:
    """See `Engine`. Computes in float32 for small models, bfloat16 for large ones.

    keep_quantized: compute with INT4 weights as they are, in bfloat16, instead of expanding them;
    None: only for large models.
    """

    name = "torch"

    def __init__(self, options: EngineOptions, *, keep_quantized: bool | None = None) -> None:
        self._spec = open_model(options.model_dir, cache_dir=options.cache_dir)
        self._config = self._spec.config
        self.tokenizer = open_tokenizer(self._spec)
        torch.set_num_threads(options.n_threads)
        small = self._spec.n_parameters <= SMALL_MODEL
        keep = not small if keep_quantized is None else keep_quantized
        quantized = self._spec.config.quantization is not None
        self._dtype = torch.bfloat16 if not small or (keep and quantized) else torch.float32
        self._weights = load_weights(self._spec, self._dtype, keep_quantized=keep)
        self._limit = min(options.context_length or sys.maxsize, self._config.context_length)
        # Gemma was trained with √hidden rounded to bfloat16, and both transformers and mlx-lm keep it.
        scale = torch.tensor(math.sqrt(self._config.hidden_size)).to(torch.bfloat16)
        self._embed_scale = scale.to(self._dtype)
        self._rope = {kind: _RopeTable(self._config, is_global=kind) for kind in (True, False)}
        self.info = model_info(self._spec, self._limit)
        self.base = base_model(self._spec)
        self.lora_dtype = str(self._dtype).removeprefix("torch.")

    def load_lora(self, composition: Composition) -> TorchLora:
        check_places(composition, self.base, self.lora_dtype)
        return load_lora(composition)

    def rescale(self, lora: Lora, factors: Sequence[float]) -> TorchLora:
        assert isinstance(lora, TorchLora)
        return lora.rescaled(factors)

    def new_cache(self, lora: Lora | None = None) -> TorchKVCache:
        return TorchKVCache(self._config, self._dtype, lora=lora)

    def prefill(self, cache: KVCache, segment: Segment) -> None:
        assert isinstance(cache, TorchKVCache)
        if isinstance(segment, Embeddings):
            x = torch.from_numpy(segment.rows).to(self._dtype)[None]
        else:
            x = self._embed(torch.tensor([segment.ids]))
        self._forward(cache, x)

    def extend(
        self, cache: KVCache, tokens: Sequence[int], *, n_logits: int
    ) -> NDArray[np.float32]:
        assert isinstance(cache, TorchKVCache)
        hidden = self._forward(cache, self._embed(torch.tensor([list(tokens)])))
        return self._head(hidden[0, -n_logits:])

    def fork(self, cache: KVCache, *, n_tokens: int, n_rows: int = 1) -> TorchKVCache:
        assert isinstance(cache, TorchKVCache)
        copy = TorchKVCache(self._config, self._dtype, n_rows, cache.lora)
        copy.reserve(n_tokens + 1)
        copy.block[..., :n_tokens, :] = cache.block[..., :n_tokens, :]
        copy.n_tokens = n_tokens
        return copy

    def trim(self, cache: KVCache, n_tokens: int) -> None:
        assert isinstance(cache, TorchKVCache)
        assert n_tokens <= cache.n_tokens
        cache.n_tokens = n_tokens

    def splice(self, cache: KVCache, source: KVCache, positions: range, at: int) -> None:
        assert isinstance(cache, TorchKVCache)
        assert isinstance(source, TorchKVCache)
        c, end = self._config, at + len(positions)
        cache.reserve(end + 1)
        old = source.block[..., positions.start : positions.stop, :]
        new = cache.block[..., at:end, :]
        new[:, 1] = old[:, 1]
        for i in range(c.n_layers):
            turn = turn_by(c, at - positions.start, is_global=c.is_global(i))
            turn_into(new[i, 0], old[i, 0], *map(torch.from_numpy, turn))
        cache.n_tokens = end

    def reread(self, cache: KVCache, start: int, tokens: Sequence[int]) -> None:
        assert isinstance(cache, TorchKVCache)
        with ended_at(cache, start):
            self.prefill(cache, Tokens(tuple(tokens)))

    def decode(self, cache: KVCache, plan: DecodePlan) -> HostDecoder:
        assert isinstance(cache, TorchKVCache)
        assert cache.n_rows == plan.n_rows
        return HostDecoder(partial(self.next_logits, cache), plan)

    def logits(self, cache: KVCache, tokens: Sequence[int]) -> NDArray[np.float32]:
        assert isinstance(cache, TorchKVCache)
        with ended_at(cache, cache.n_tokens):
            hidden = self._forward(cache, self._embed(torch.tensor([list(tokens)])))
        return self._head(hidden[0])

    def close(self) -> None:
        del self._weights

    def leave_thread(self) -> None:
        """PyTorch keeps nothing per thread that needs giving back."""

    def next_logits(self, cache: TorchKVCache, tokens: Sequence[int]) -> NDArray[np.float32]:
        """Append one token to each row; return (n_rows, vocab_size) float32 logits."""
        hidden = self._forward(cache, self._embed(torch.tensor(tokens)[:, None]))
        return self._head(hidden[:, -1])

    def _embed(self, ids: torch.Tensor) -> torch.Tensor:
        return self._weights.embedding(ids) * self._embed_scale

    def _head(self, hidden: torch.Tensor) -> NDArray[np.float32]:
        with torch.inference_mode():
            logits: NDArray[np.float32] = self._weights.linears["lm_head"](hidden).float().numpy()
        return logits

    @torch.inference_mode()
    def _forward(self, cache: TorchKVCache, x: torch.Tensor) -> torch.Tensor:
        """x: (n_rows, n_new, hidden_size) → the same shape after the final norm; extends the cache."""
        start, end = cache.n_tokens, cache.n_tokens + x.shape[1]
        if end > self._limit:
            raise EngineFailed(f"{end} tokens do not fit the context of {self._limit}.")
        cache.reserve(end)
        lora = cache.lora
        assert lora is None or isinstance(lora, TorchLora)
        run = _Pass(
            n_rows=x.shape[0],
            start=start,
            end=end,
            masks={kind: _mask(self._config, start, end, is_global=kind) for kind in (True, False)},
            lora=None if lora is None or lora.is_zero else lora,
        )
        flat = x.flatten(0, 1)
        for i in range(self._config.n_layers):
            flat = self._layer(i, flat, cache.block[i], run)
        cache.n_tokens = end
        return self._norm(flat, "norm.weight").view(x.shape)

    def _layer(self, i: int, x: torch.Tensor, kv: torch.Tensor, run: _Pass) -> torch.Tensor:
        """x: (n_rows * n_new, hidden_size) → the same."""
        p = f"layers.{i}."
        h = self._attention(i, self._norm(x, p + "input_layernorm.weight"), kv, run)
        x = x + self._norm(h, p + "post_attention_layernorm.weight")
        h = self._norm(x, p + "pre_feedforward_layernorm.weight")
        gate, up = self._site(i, "mlp.gate_up", h, run.lora)
        (h,) = self._site(i, "mlp.down", F.gelu(gate, approximate="tanh") * up, run.lora)
        return x + self._norm(h, p + "post_feedforward_layernorm.weight")

    def _attention(self, i: int, x: torch.Tensor, kv: torch.Tensor, run: _Pass) -> torch.Tensor:
        c, p = self._config, f"layers.{i}.self_attn."
        start, end = run.start, run.end
        heads = (run.n_rows, end - start, -1, c.head_dim)
        q, k, v = (out.view(heads) for out in self._site(i, "self_attn.qkv", x, run.lora))
        cos, sin = self._rope[c.is_global(i)].at(start, end)
        q = _rotate(self._norm(q, p + "q_norm.weight"), cos, sin).transpose(1, 2)  # (B, H, T, D)
        k = _rotate(self._norm(k, p + "k_norm.weight"), cos, sin).transpose(1, 2)
        kv[0, :, :, start:end] = k
        kv[1, :, :, start:end] = v.transpose(1, 2)
        first = 0 if c.is_global(i) else max(0, start + 1 - c.sliding_window)
        is_single = end - start == 1
        if (
            is_single
        ):  # heads that share keys as positions of one head: six times faster in bfloat16
            q = q.reshape(run.n_rows, c.n_kv_heads, -1, c.head_dim)
        out = F.scaled_dot_product_attention(
            q,
            kv[0, :, :, first:end],
            kv[1, :, :, first:end],
            attn_mask=run.masks[c.is_global(i)],
            scale=c.query_pre_attn_scalar**-0.5,
            enable_gqa=not is_single,
        )
        flat = out.reshape(run.n_rows, c.n_heads, -1, c.head_dim).transpose(1, 2)
        flat = flat.reshape(x.shape[0], -1)
        (out,) = self._site(i, "self_attn.o", flat, run.lora)
        return out

    def _site(
        self, i: int, site: str, x: torch.Tensor, lora: TorchLora | None
    ) -> list[torch.Tensor]:
        """The outputs (n, out) of the matrices that read `x`, (n, in), adapters included."""
        p = f"layers.{i}."
        outputs = [self._weights.linears[p + name](x) for name in SITES[site]]
        if lora is not None:
            lora.add(i, site, x, outputs)
        return outputs

    def _norm(self, x: torch.Tensor, name: str) -> torch.Tensor:
        normed = F.rms_norm(
            x.float(), x.shape[-1:], self._weights.norms[name], self._config.rms_norm_eps
        )
        return normed.to(x.dtype)


class _RopeTable:
    """Cosines and sines of one kind of layer, made as far as positions are used."""

    def __init__(self, config: ModelConfig, *, is_global: bool) -> None:
        self._theta = config.rope_theta if is_global else config.rope_local_theta
        self._factor = config.rope_factor if is_global else 1.0
        self._head_dim = config.head_dim
        self._cos = self._sin = torch.empty((0, 1, config.head_dim))

    def at(self, start: int, end: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return cos and sin of positions start..end-1, each (n, 1, head_dim) float32."""
        if end > self._cos.shape[0]:
            self._make(-(-end // ROPE_GROW) * ROPE_GROW)
        return self._cos[start:end], self._sin[start:end]

    def _make(self, n_positions: int) -> None:
        exponents = torch.arange(0, self._head_dim, 2, dtype=torch.float32) / self._head_dim
        positions = torch.arange(n_positions, dtype=torch.float32) / self._factor
        angles = torch.outer(positions, 1.0 / self._theta**exponents)
        angles = torch.cat((angles, angles), dim=-1)[:, None]
        self._cos, self._sin = angles.cos(), angles.sin()


def _rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary embedding, halves layout. x: (B, T, heads, head_dim); cos, sin: (T, 1, head_dim)."""
    low, high = x.chunk(2, dim=-1)
    return (x * cos + torch.cat((-high, low), dim=-1) * sin).to(x.dtype)


def _mask(config: ModelConfig, start: int, end: int, *, is_global: bool) -> torch.Tensor | None:
    """Which keys new positions start..end-1 may see: (n_new, n_keys) bool, None for all.

    Local layers get only the keys from the first that any new position can see.
    """
    if end - start == 1:
        return None
    first = 0 if is_global else max(0, start + 1 - config.sliding_window)
    queries = torch.arange(start, end)[:, None]
    keys = torch.arange(first, end)[None]
    mask = keys <= queries
    if not is_global:
        mask &= keys > queries - config.sliding_window
    return mask
