"""Gemma 3 on ExecuTorch with XNNPACK: a program exported from the checkpoint, caches and adapters beside it.

Small models are computed in float32, exact about a checkpoint; large quantised ones with 4-bit weights and 8-bit
activations.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from adapters.composition import Composition
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
from pushkin_runtime.engines.executorch_build import dtypes, find_program
from pushkin_runtime.engines.executorch_cache import ExecutorchKVCache, sight
from pushkin_runtime.engines.executorch_export import MAX_ROWS, empty_adapters
from pushkin_runtime.engines.executorch_lora import ExecutorchLora, load_executorch_lora
from pushkin_runtime.engines.executorch_program import ExecutorchProgram
from pushkin_runtime.engines.host_sampler import HostDecoder
from pushkin_runtime.engines.lora import check_places
from pushkin_runtime.engines.torch_linear import load_embedding
from pushkin_runtime.errors import EngineFailed
from pushkin_runtime.model_store import base_model, model_info, open_model, open_tokenizer


class ExecutorchEngine:
    """See `Engine`. Exports the model first when its program is not in `options.cache_dir`."""

    name = "executorch"

    def __init__(self, options: EngineOptions) -> None:
        spec = open_model(options.model_dir, cache_dir=options.cache_dir)
        self._config = spec.config
        self.tokenizer = open_tokenizer(spec)
        torch.set_num_threads(options.n_threads)
        lora_dtype, self._kv_dtype = dtypes(spec)
        with find_program(spec, options.cache_dir) as path:
            self._program = ExecutorchProgram(path, spec.digest, options.n_threads)
        self._embedding = load_embedding(spec, torch.float32)
        # Gemma was trained with √hidden rounded to bfloat16, as in torch_engine.
        self._embed_scale = torch.tensor(math.sqrt(spec.config.hidden_size)).to(torch.bfloat16)
        self._no_adapters = tuple(
            tensor
            for layer in range(spec.config.n_layers)
            for adapter in empty_adapters(spec.config, layer, lora_dtype, rank=1)
            for tensor in adapter
        )
        self._limit = min(options.context_length or sys.maxsize, spec.config.context_length)
        self.info = model_info(spec, self._limit)
        self.base = base_model(spec)
        self.lora_dtype = str(lora_dtype).removeprefix("torch.")

    def load_lora(self, composition: Composition) -> ExecutorchLora:
        check_places(composition, self.base, self.lora_dtype)
        return load_executorch_lora(composition, self._no_adapters)

    def rescale(self, lora: Lora, factors: Sequence[float]) -> ExecutorchLora:
        assert isinstance(lora, ExecutorchLora)
        return lora.rescaled(factors, self._no_adapters)

    def new_cache(self, lora: Lora | None = None) -> ExecutorchKVCache:
        return ExecutorchKVCache(self._config, self._kv_dtype, lora=lora)

    def prefill(self, cache: KVCache, segment: Segment) -> None:
        assert isinstance(cache, ExecutorchKVCache)
        if isinstance(segment, Embeddings):
            self._read(cache, torch.from_numpy(segment.rows), n_out=0)
        else:
            self._read(cache, self._embed(segment.ids), n_out=0)

    def extend(
        self, cache: KVCache, tokens: Sequence[int], *, n_logits: int
    ) -> NDArray[np.float32]:
        assert isinstance(cache, ExecutorchKVCache)
        return self._program.head(self._read(cache, self._embed(tokens), n_out=n_logits))

    def fork(self, cache: KVCache, *, n_tokens: int, n_rows: int = 1) -> ExecutorchKVCache:
        assert isinstance(cache, ExecutorchKVCache)
        return cache.forked(self._config, n_tokens, n_rows)

    def trim(self, cache: KVCache, n_tokens: int) -> None:
        assert isinstance(cache, ExecutorchKVCache)
        assert n_tokens <= cache.n_tokens
        cache.n_tokens = n_tokens
        cache.n_shared = min(cache.n_shared, n_tokens)

    def splice(self, cache: KVCache, source: KVCache, positions: range, at: int) -> None:
        assert isinstance(cache, ExecutorchKVCache)
        assert isinstance(source, ExecutorchKVCache)
        cache.place(self._config, source, positions, at)

    def reread(self, cache: KVCache, start: int, tokens: Sequence[int]) -> None:
        assert isinstance(cache, ExecutorchKVCache)
        with ended_at(cache, start):
            self.prefill(cache, Tokens(tuple(tokens)))

    def decode(self, cache: KVCache, plan: DecodePlan) -> HostDecoder:
        assert isinstance(cache, ExecutorchKVCache)
        assert cache.n_rows == plan.n_rows
        return HostDecoder(partial(self.next_logits, cache), plan)

    def logits(self, cache: KVCache, tokens: Sequence[int]) -> NDArray[np.float32]:
        assert isinstance(cache, ExecutorchKVCache)
        with ended_at(cache, cache.n_tokens):
            rows = self._read(cache, self._embed(tokens), n_out=len(tokens))
        return self._program.head(rows)

    def close(self) -> None:
        del self._program

    def leave_thread(self) -> None:
        """ExecuTorch keeps nothing per thread that needs giving back."""

    def next_logits(self, cache: ExecutorchKVCache, tokens: Sequence[int]) -> NDArray[np.float32]:
        """Append one token to each row; return (n_rows, vocab_size) float32 logits."""
        return self._program.head(self._read(cache, self._embed(tokens), n_out=cache.n_rows))

    def _embed(self, tokens: Sequence[int]) -> torch.Tensor:
        return self._embedding(torch.tensor(tokens)) * self._embed_scale.float()

    def _read(self, cache: ExecutorchKVCache, x: torch.Tensor, *, n_out: int) -> torch.Tensor:
        """x: (n, hidden_size), position after position, row after row → the last `n_out` rows after all layers,
        until the next call; extends the cache."""
        n_before = cache.n_tokens
        end = n_before + x.shape[0] // cache.n_rows
        if end > self._limit:
            raise EngineFailed(f"{end} tokens do not fit the context of {self._limit}.")
        cache.reserve(end)
        kept: list[torch.Tensor] = []
        try:
            for start in range(0, x.shape[0], MAX_ROWS):
                rows = self._forward(cache, x[start : start + MAX_ROWS])
                n_left = x.shape[0] - start - rows.shape[0]  # rows still to come
                first = max(0, rows.shape[0] - max(0, n_out - n_left))
                kept.append(rows[first:] if n_left == 0 else rows[first:].clone())
        except EngineFailed:
            cache.n_tokens = n_before
            raise
        return kept[0] if len(kept) == 1 else torch.cat(kept)

    def _forward(self, cache: ExecutorchKVCache, x: torch.Tensor) -> torch.Tensor:
        """Run up to MAX_ROWS rows through the program and count them as held."""
        c = self._config
        lora = cache.lora
        assert lora is None or isinstance(lora, ExecutorchLora)
        n_new = x.shape[0] // cache.n_rows
        end = cache.n_tokens + n_new
        positions = torch.arange(cache.n_tokens, end, dtype=torch.float32)
        sights = (sight(cache, end, c.sliding_window), sight(cache, end, None))
        inputs = [
            x.contiguous(),
            positions.repeat_interleave(cache.n_rows)[:, None, None],
            sights[False].mask,
            sights[True].mask,
        ]
        for layer in range(c.n_layers):
            inputs += cache.views(layer, sights[c.is_global(layer)].span)
        inputs += self._no_adapters if lora is None or lora.is_zero else lora.inputs
        rows = self._program.forward(inputs)
        cache.n_tokens = end
        return rows
