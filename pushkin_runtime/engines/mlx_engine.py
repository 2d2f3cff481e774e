"""Gemma 3 on MLX: the Mac's engine. The layers are mlx-lm's; the KV cache (`mlx_cache.py`) and
the sampler (`mlx_decode.py`) are ours.

On Linux the same code runs on MLX's CPU backend, which is right for contract tests on tiny models
and far too slow to be a default.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx_lm.models import gemma3_text
from numpy.typing import NDArray

from adapters.composition import Composition
from pushkin_runtime.engines.base import (
    DecodePlan,
    Decoder,
    Embeddings,
    EngineOptions,
    KVCache,
    Lora,
    Segment,
    Tokens,
)
from pushkin_runtime.engines.lora import check_places
from pushkin_runtime.engines.mlx_cache import MlxKVCache
from pushkin_runtime.engines.mlx_decode import open_decoder
from pushkin_runtime.engines.mlx_errors import translated
from pushkin_runtime.engines.mlx_lora import LoraSlot, MlxLora, install, load_lora
from pushkin_runtime.engines.rotary import turn_by
from pushkin_runtime.errors import EngineFailed
from pushkin_runtime.model_config import our_name
from pushkin_runtime.model_store import (
    ModelSpec,
    base_model,
    model_info,
    open_model,
    open_tokenizer,
)


class MlxEngine:
    """See `Engine`. Built, used and closed on one thread."""

    name = "mlx"

    def __init__(self, options: EngineOptions) -> None:
        self._spec = open_model(options.model_dir, cache_dir=options.cache_dir)
        self._config = self._spec.config
        self.tokenizer = open_tokenizer(self._spec)
        self._slot = LoraSlot()
        with translated():
            self._model = _load(self._spec)
            install(self._model.model.layers, self._slot)
        self._limit = min(options.context_length or sys.maxsize, self._config.context_length)
        self.info = model_info(self._spec, self._limit)
        self.base = base_model(self._spec)
        self.lora_dtype = str(self._dtype()).removeprefix("mlx.core.")

    def load_lora(self, composition: Composition) -> MlxLora:
        check_places(composition, self.base, self.lora_dtype)
        with translated():
            return load_lora(composition)

    def rescale(self, lora: Lora, factors: Sequence[float]) -> MlxLora:
        assert isinstance(lora, MlxLora)
        with translated():
            return lora.rescaled(factors)

    def new_cache(self, lora: Lora | None = None) -> MlxKVCache:
        return MlxKVCache(self._config, lora=lora)

    def prefill(self, cache: KVCache, segment: Segment) -> None:
        assert isinstance(cache, MlxKVCache)
        n_before = cache.n_tokens
        self._check_room(n_before + len(segment))
        try:
            with translated(), self._slot.applied(cache.lora):
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

    def extend(
        self, cache: KVCache, tokens: Sequence[int], *, n_logits: int
    ) -> NDArray[np.float32]:
        assert isinstance(cache, MlxKVCache)
        n_before = cache.n_tokens
        self._check_room(n_before + len(tokens))
        try:
            with translated(), self._slot.applied(cache.lora):
                hidden = self._model.model(mx.array([list(tokens)]), cache.layers)
                out = self._head(hidden[0, -n_logits:]).astype(mx.float32)
                mx.eval(out, cache.arrays())
        except EngineFailed:
            cache.cut(n_before)
            raise
        return np.array(out)

    def fork(self, cache: KVCache, *, n_tokens: int, n_rows: int = 1) -> MlxKVCache:
        assert isinstance(cache, MlxKVCache)
        copy = MlxKVCache(self._config, n_rows, cache.lora)
        with translated():
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

    def splice(self, cache: KVCache, source: KVCache, positions: range, at: int) -> None:
        assert isinstance(cache, MlxKVCache)
        assert isinstance(source, MlxKVCache)
        with translated():
            for i in range(self._config.n_layers):
                turn = turn_by(
                    self._config, at - positions.start, is_global=self._config.is_global(i)
                )
                cache.layers[i].place(source.layers[i], positions, at, turn)
            mx.eval(cache.arrays())

    def reread(self, cache: KVCache, start: int, tokens: Sequence[int]) -> None:
        assert isinstance(cache, MlxKVCache)
        n_held = cache.n_tokens
        cache.cut(start)
        try:
            self.prefill(cache, Tokens(tuple(tokens)))
        finally:
            cache.cut(n_held)

    def decode(self, cache: KVCache, plan: DecodePlan) -> Decoder:
        assert isinstance(cache, MlxKVCache)
        assert cache.n_rows == plan.n_rows
        return open_decoder(self, cache, plan)

    def logits(self, cache: KVCache, tokens: Sequence[int]) -> NDArray[np.float32]:
        assert isinstance(cache, MlxKVCache)
        n_before = cache.n_tokens
        self._check_room(n_before + len(tokens))
        with translated(), self._slot.applied(cache.lora):
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

    def _head(self, hidden: mx.array) -> mx.array:
        if self._config.tied_embeddings:
            return self._model.model.embed_tokens.as_linear(hidden)
        return self._model.lm_head(hidden)

    def _check_room(self, n_tokens: int) -> None:
        if n_tokens > self._limit:
            raise EngineFailed(f"{n_tokens} tokens do not fit the context of {self._limit}.")

    def _dtype(self) -> mx.Dtype:
        return self._model.model.norm.weight.dtype


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
        quantization = c.quantization

        def numbers(name: str, _: Any) -> bool | dict[str, int]:
            own = quantization.of(our_name(name) or name)
            stored = f"{name}.scales" in weights
            return stored and {"group_size": own.group_size, "bits": own.bits}

        nn.quantize(model, class_predicate=numbers)  # type: ignore[attr-defined]
    model.load_weights(list(weights.items()))
    model.eval()
    mx.eval(model.parameters())
    return model
