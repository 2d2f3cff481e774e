"""Gemma 3 on MLX: the Mac's engine. The layers are mlx-lm's; the KV cache and the sampler are ours.

On Linux the same code runs on MLX's CPU backend, which is right for contract tests on tiny models
and far too slow to be a default.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx_lm.models import gemma3_text
from mlx_lm.models.base import create_causal_mask
from numpy.typing import NDArray

from adapters.composition import Composition
from pushkin_runtime.engines.base import (
    DecodePlan,
    Embeddings,
    EngineOptions,
    KVCache,
    Lora,
    Segment,
    Step,
)
from pushkin_runtime.engines.lora import check_places
from pushkin_runtime.engines.mlx_lora import LoraSlot, MlxLora, install, load_lora
from pushkin_runtime.errors import EngineFailed
from pushkin_runtime.model_config import ModelConfig
from pushkin_runtime.model_store import (
    ModelSpec,
    base_model,
    model_info,
    open_model,
    open_tokenizer,
)
from pushkin_runtime.sampling import Uniforms
from pushkin_runtime.types import SamplingParams

GROW = 256  # tokens a cache grows by


class LayerKV:
    """One layer's keys and values, in the form mlx-lm's attention asks for (offset, make_mask,
    update_and_fetch). Full length is kept on every layer; a local one hands out its window only."""

    def __init__(self, window: int | None) -> None:
        self.window = window
        self.offset = 0
        self.keys: mx.array | None = None
        self.values: mx.array | None = None

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Append (n_rows, n_kv_heads, n_new, head_dim); return what the new positions may see."""
        start, end = self.offset, self.offset + keys.shape[2]
        held_keys = _with_room(self.keys, keys, end, start)
        held_values = _with_room(self.values, values, end, start)
        held_keys[..., start:end, :] = keys
        held_values[..., start:end, :] = values
        self.keys, self.values, self.offset = held_keys, held_values, end
        first = self._first_visible(start)
        return held_keys[..., first:end, :], held_values[..., first:end, :]

    def make_mask(
        self,
        n_new: int,
        *,
        return_array: bool = False,  # mlx-lm's protocol; an array is always fine for it
        window_size: int | None = None,
    ) -> mx.array | None:
        """Return the mask matching the next `update_and_fetch` of `n_new` positions."""
        del return_array
        if n_new == 1:
            return None
        return create_causal_mask(
            n_new, self.offset - self._first_visible(self.offset), window_size=window_size
        )

    def _first_visible(self, start: int) -> int:
        return 0 if self.window is None else max(0, start + 1 - self.window)


class MlxKVCache:
    """See `KVCache`."""

    def __init__(self, config: ModelConfig, n_rows: int = 1, lora: Lora | None = None) -> None:
        self.n_rows = n_rows
        self.lora = lora
        self.layers = [
            LayerKV(None if config.is_global(i) else config.sliding_window)
            for i in range(config.n_layers)
        ]

    @property
    def n_tokens(self) -> int:
        """Positions held."""
        return self.layers[0].offset

    @property
    def n_bytes(self) -> int:
        """Memory of all layers, spare capacity included."""
        return sum(
            layer.keys.nbytes + layer.values.nbytes
            for layer in self.layers
            if layer.keys is not None and layer.values is not None
        )

    def arrays(self) -> list[mx.array]:
        """Everything held, for `mx.eval`."""
        return [a for layer in self.layers for a in (layer.keys, layer.values) if a is not None]

    def cut(self, n_tokens: int) -> None:
        """Forget everything after the first `n_tokens`."""
        for layer in self.layers:
            layer.offset = n_tokens


class MlxEngine:
    """See `Engine`. Built, used and closed on one thread."""

    name = "mlx"

    def __init__(self, options: EngineOptions) -> None:
        self._spec = open_model(options.model_dir)
        self._config = self._spec.config
        self.tokenizer = open_tokenizer(self._spec)
        self._slot = LoraSlot()
        with _translated():
            self._model = _load(self._spec)
            install(self._model.model.layers, self._slot)
        self._limit = min(options.context_length or sys.maxsize, self._config.context_length)
        self.info = model_info(self._spec, self._limit)
        self.base = base_model(self._spec)
        self.lora_dtype = str(self._dtype()).removeprefix("mlx.core.")

    def load_lora(self, composition: Composition) -> MlxLora:
        check_places(composition, self.base, self.lora_dtype)
        with _translated():
            return load_lora(composition)

    def rescale(self, lora: Lora, factors: Sequence[float]) -> MlxLora:
        assert isinstance(lora, MlxLora)
        with _translated():
            return lora.rescaled(factors)

    def new_cache(self, lora: Lora | None = None) -> MlxKVCache:
        return MlxKVCache(self._config, lora=lora)

    def prefill(self, cache: KVCache, segment: Segment) -> None:
        assert isinstance(cache, MlxKVCache)
        n_before = cache.n_tokens
        self._check_room(n_before + len(segment))
        try:
            with _translated(), self._slot.applied(cache.lora):
                if isinstance(segment, Embeddings):
                    # mlx-lm scales supplied rows by √hidden as well: undo it first.
                    scale = mx.array(self._config.hidden_size**0.5, mx.bfloat16)
                    rows = mx.array(segment.rows)[None] / scale.astype(mx.float32)
                    no_ids = mx.zeros((1, len(segment)), mx.int32)  # ignored beside embeddings
                    self._model.model(no_ids, cache.layers, rows.astype(self._dtype()))
                else:
                    self._model.model(mx.array([segment.ids]), cache.layers)
                mx.eval(cache.arrays())
        except EngineFailed:
            cache.cut(n_before)
            raise

    def fork(self, cache: KVCache, *, n_tokens: int, n_rows: int = 1) -> MlxKVCache:
        assert isinstance(cache, MlxKVCache)
        copy = MlxKVCache(self._config, n_rows, cache.lora)
        with _translated():
            for old, new in zip(cache.layers, copy.layers, strict=True):
                if old.keys is not None and old.values is not None and n_tokens:
                    shape = (n_rows, 1, 1, 1)
                    new.keys = mx.tile(old.keys[..., :n_tokens, :], shape)
                    new.values = mx.tile(old.values[..., :n_tokens, :], shape)
                new.offset = n_tokens
            mx.eval(copy.arrays())
        return copy

    def trim(self, cache: KVCache, n_tokens: int) -> None:
        assert isinstance(cache, MlxKVCache)
        assert n_tokens <= cache.n_tokens
        cache.cut(n_tokens)

    def decode(self, cache: KVCache, plan: DecodePlan) -> MlxDecoder:
        assert isinstance(cache, MlxKVCache)
        assert cache.n_rows == plan.n_rows
        return MlxDecoder(self, cache, plan)

    def logits(self, cache: KVCache, tokens: Sequence[int]) -> NDArray[np.float32]:
        assert isinstance(cache, MlxKVCache)
        n_before = cache.n_tokens
        self._check_room(n_before + len(tokens))
        with _translated(), self._slot.applied(cache.lora):
            out = self._model(mx.array([list(tokens)]), cache.layers)[0].astype(mx.float32)
            mx.eval(out)
        cache.cut(n_before)
        return np.array(out)

    def close(self) -> None:
        del self._model
        mx.clear_cache()

    def leave_thread(self) -> None:
        mx.clear_streams()  # streams of a thread that just ends abort the process (MLX 0.32)

    def next_logits(self, cache: MlxKVCache, tokens: mx.array) -> mx.array:
        """Append one token to each row, lazily; return (n_rows, vocab_size) float32 logits."""
        self._check_room(cache.n_tokens + 1)
        with self._slot.applied(cache.lora):
            logits: mx.array = self._model(tokens[:, None], cache.layers)[:, -1]
        return logits.astype(mx.float32)

    def _check_room(self, n_tokens: int) -> None:
        if n_tokens > self._limit:
            raise EngineFailed(f"{n_tokens} tokens do not fit the context of {self._limit}.")

    def _dtype(self) -> mx.Dtype:
        return self._model.model.norm.weight.dtype


class MlxDecoder:
    """See `Decoder`. The next step is launched before the current one's tokens are read."""

    def __init__(self, engine: MlxEngine, cache: MlxKVCache, plan: DecodePlan) -> None:
        self._engine, self._cache, self._plan = engine, cache, plan
        self._uniforms = Uniforms(plan.seed, plan.n_rows)
        vocab_size = engine.info.vocab_size
        self._seen = mx.broadcast_to(
            _member_mask(plan.recent, vocab_size), (plan.n_rows, vocab_size)
        )
        self._banned = None if plan.banned is None else _member_mask(plan.banned, vocab_size)
        self._n_returned = 0
        self._start = cache.n_tokens
        with _translated():
            first = mx.array([plan.last_token] * plan.n_rows)
            self._ahead = self._launch(first, plan.first_allowed)

    def step(self) -> Step:
        with _translated():
            tokens, logprobs = self._ahead
            if self._cache.n_tokens < self._engine.info.context_length:
                self._ahead = self._launch(tokens, None)
            step = Step(tuple(np.array(tokens).tolist()), tuple(np.array(logprobs).tolist()))
        self._n_returned += 1
        return step

    def close(self) -> None:
        with _translated():
            mx.eval(self._ahead)
        self._cache.cut(self._start + self._n_returned)

    def _launch(
        self, tokens: mx.array, allowed: NDArray[np.int64] | None
    ) -> tuple[mx.array, mx.array]:
        raw = self._engine.next_logits(self._cache, tokens)
        params = self._plan.sampling
        logits = raw
        if params.repetition_penalty != 1.0:
            reduced = mx.where(
                raw > 0, raw / params.repetition_penalty, raw * params.repetition_penalty
            )
            logits = mx.where(self._seen, reduced, raw)
        if self._banned is not None:
            logits = mx.where(self._banned, -mx.inf, logits)
        if allowed is not None:
            logits = mx.where(_member_mask(allowed, raw.shape[-1]), logits, -mx.inf)
        chosen = sample(logits, params, mx.array(self._uniforms.next()))
        logprobs = mx.take_along_axis(raw, chosen[:, None], axis=-1)[:, 0] - mx.logsumexp(
            raw, axis=-1
        )
        if params.repetition_penalty != 1.0:
            self._seen = self._seen | (mx.arange(raw.shape[-1])[None] == chosen[:, None])
        mx.async_eval(chosen, logprobs)
        return chosen, logprobs


def sample(logits: mx.array, params: SamplingParams, uniforms: mx.array) -> mx.array:
    """Return (n_rows,) tokens, all on the device; the same result as `sampling.candidates` + `pick`.

    logits: (n_rows, vocab_size) float32. uniforms: (n_rows,) in [0, 1).
    """
    if params.temperature <= 0:
        return mx.argmax(logits, axis=-1)
    scale = params.temperature if params.order == "temperature_first" else 1.0
    kept = (logits - logits.max(axis=-1, keepdims=True)) / scale
    if params.min_p > 0:
        kept = mx.where(kept >= math.log(params.min_p), kept, -mx.inf)
    if 0 < params.top_k < logits.shape[-1]:
        kept = _keep_ranks(kept, mx.array(params.top_k))
    if params.top_p < 1:
        ordered = -mx.sort(-kept, axis=-1)
        cumulative = mx.cumsum(mx.softmax(ordered, axis=-1, precise=True), axis=-1)
        n_kept = (cumulative < params.top_p).sum(axis=-1, keepdims=True) + 1
        kept = _keep_ranks(kept, n_kept)
    if params.order == "min_p_first":
        kept = kept / params.temperature
    cumulative = mx.cumsum(mx.softmax(kept, axis=-1, precise=True), axis=-1)
    return (cumulative <= uniforms[:, None] * cumulative[:, -1:]).sum(axis=-1)


def _keep_ranks(kept: mx.array, n_kept: mx.array) -> mx.array:
    """Keep the `n_kept` largest of each row, the lower token of equals first."""
    ranks = mx.argsort(mx.argsort(-kept, axis=-1), axis=-1)
    return mx.where(ranks < n_kept, kept, -mx.inf)


def _member_mask(tokens: Sequence[int] | NDArray[np.int64], vocab_size: int) -> mx.array:
    mask = np.zeros(vocab_size, dtype=np.bool_)
    mask[np.asarray(tokens, dtype=np.int64)] = True
    return mx.array(mask)


def _with_room(old: mx.array | None, like: mx.array, n_tokens: int, n_valid: int) -> mx.array:
    """Return `old`, or a copy of its first `n_valid` positions with room for `n_tokens`."""
    if old is not None and n_tokens <= old.shape[2]:
        return old
    capacity = -(-n_tokens // GROW) * GROW
    new = mx.zeros((*like.shape[:2], capacity, like.shape[3]), like.dtype)
    if old is not None and n_valid:
        new[..., :n_valid, :] = old[..., :n_valid, :]
    return new


def _load(spec: ModelSpec) -> gemma3_text.Model:
    """Build mlx-lm's model from our checked config, so that no key it ignores is lost."""
    c = spec.config
    scaling: dict[str, Any] = {"rope_type": "linear", "factor": c.rope_factor}
    model = gemma3_text.Model(
        gemma3_text.ModelArgs(
            model_type="gemma3_text",
            hidden_size=c.hidden_size,
            num_hidden_layers=c.n_layers,
            intermediate_size=c.intermediate_size,
            num_attention_heads=c.n_heads,
            head_dim=c.head_dim,
            rms_norm_eps=c.rms_norm_eps,
            vocab_size=c.vocab_size,
            num_key_value_heads=c.n_kv_heads,
            rope_theta=c.rope_theta,
            rope_local_base_freq=c.rope_local_theta,
            query_pre_attn_scalar=c.query_pre_attn_scalar,
            sliding_window=c.sliding_window,
            sliding_window_pattern=c.sliding_window_pattern,
            max_position_embeddings=c.context_length,
            rope_scaling=scaling,
        )
    )
    loaded: dict[str, mx.array] = {}
    for path in sorted({t.path for t in spec.tensors.values()}):
        arrays: dict[str, Any] = mx.load(str(path))  # type: ignore[assignment]
        loaded |= {
            ("" if t.name.startswith("lm_head") else "model.") + t.name: arrays[t.stored_name]
            for t in spec.tensors.values()
            if t.path == path and not (c.tied_embeddings and t.name.startswith("lm_head"))
        }
    weights = model.sanitize(loaded)
    if c.quantization is not None:
        nn.quantize(  # type: ignore[attr-defined]
            model,
            group_size=c.quantization.group_size,
            bits=c.quantization.bits,
            class_predicate=lambda name, module: f"{name}.scales" in weights,
        )
    model.load_weights(list(weights.items()))
    model.eval()
    mx.eval(model.parameters())
    return model


@contextmanager
def _translated() -> Iterator[None]:
    """Turn MLX's exceptions into ours."""
    try:
        yield
    except (RuntimeError, ValueError, MemoryError) as error:
        raise EngineFailed(f"MLX failed: {type(error).__name__}: {error}") from error
