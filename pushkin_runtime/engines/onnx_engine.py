"""Gemma 3 on ONNX Runtime's CPU kernels: INT4 matrices as stored, a cache extended in place, adapters by binding.

INT4 weights are multiplied with int8 activations (one scale per group, as llama.cpp does); the smallest models, whose
step is not made of products, stay in float32 and are exact about a checkpoint. Parity with the torch engine is tested.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import ml_dtypes
import numpy as np
from numpy.typing import NDArray
from onnxruntime import InferenceSession, IOBinding, OrtValue, SessionOptions

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
from pushkin_runtime.engines.host_sampler import HostDecoder
from pushkin_runtime.engines.lora import check_places
from pushkin_runtime.engines.onnx_cache import OnnxKVCache
from pushkin_runtime.engines.onnx_graph import (
    EXPANDED,
    FLOAT_ACTIVATIONS,
    INT8_ACTIVATIONS,
    Graph,
    head_graph,
    layers_graph,
)
from pushkin_runtime.engines.onnx_lora import OnnxLora, load_lora, no_lora
from pushkin_runtime.engines.onnx_weights import Checkpoint
from pushkin_runtime.errors import EngineFailed, ModelUnsupported
from pushkin_runtime.model_config import SMALL_MODEL, ModelConfig, Quantization
from pushkin_runtime.model_store import base_model, begin_open, model_info, open_tokenizer

# On the 30 M pushkin-mini: a step 0.6 of float32's, five rows 0.6, loss +0.013 %, KL 2.7e-4 nats, same argmax 0.988.
INT8_FROM = 16_000_000
ROPE_GROW = 4096  # positions; all 131,072 of the 4B would be a quarter of a gigabyte


class OnnxEngine:
    """See `Engine`.

    int8_activations: quantise what INT4 matrices are multiplied with; None: from INT8_FROM parameters on.
    """

    name = "onnx"

    def __init__(self, options: EngineOptions, *, int8_activations: bool | None = None) -> None:
        self._spec = begin_open(options.model_dir, cache_dir=options.cache_dir)
        self._config = config = self._spec.config
        is_small = self._spec.n_parameters <= SMALL_MODEL
        if not is_small and config.quantization is None:
            raise ModelUnsupported(
                f"{self._spec.id}: the onnx engine runs models of {self._spec.n_parameters / 1e9:.1f} billion "
                "parameters only when they are quantised; got floats. `pushkin models quantize` makes one."
            )
        if config.quantization is not None:
            _check_bits(self._spec.id, config.quantization)
        is_worth = config.quantization is not None and self._spec.n_parameters >= INT8_FROM
        int8 = is_worth if int8_activations is None else int8_activations
        accuracy = INT8_ACTIVATIONS if int8 else FLOAT_ACTIVATIONS
        scratch = None if is_small else options.cache_dir
        self._checkpoint = Checkpoint(self._spec, scratch)
        self._n_threads = options.n_threads
        with ThreadPoolExecutor(1) as beside:
            tokenizer = beside.submit(open_tokenizer, self._spec)
            self._program = self._build(accuracy, beside)
            self.tokenizer = tokenizer.result()
        self._expands = config.quantization is not None and not int8
        self._expanded: _Program | None = None
        self._limit = min(options.context_length or sys.maxsize, config.context_length)
        # Gemma was trained with √hidden rounded to bfloat16, and both transformers and mlx-lm keep it.
        self._embed_scale = np.float32(ml_dtypes.bfloat16(math.sqrt(config.hidden_size)))
        self._rope = {kind: _RopeTable(config, is_global=kind) for kind in (True, False)}
        self.info = model_info(self._spec, self._limit)
        self.base = base_model(self._spec)
        self.lora_dtype = "float32"
        self._no_lora = no_lora(self.base)

    def load_lora(self, composition: Composition) -> OnnxLora:
        check_places(composition, self.base, self.lora_dtype)
        return load_lora(composition, self.base)

    def rescale(self, lora: Lora, factors: Sequence[float]) -> OnnxLora:
        assert isinstance(lora, OnnxLora)
        return lora.rescaled(factors)

    def new_cache(self, lora: Lora | None = None) -> OnnxKVCache:
        return OnnxKVCache(self._config, lora)

    def prefill(self, cache: KVCache, segment: Segment) -> None:
        assert isinstance(cache, OnnxKVCache)
        if isinstance(segment, Embeddings):
            self._forward(cache, segment.rows)
        else:
            self._forward(cache, self._embed(segment.ids))

    def extend(
        self, cache: KVCache, tokens: Sequence[int], *, n_logits: int
    ) -> NDArray[np.float32]:
        assert isinstance(cache, OnnxKVCache)
        hidden = self._forward(cache, self._embed(tokens))
        return self._logits(hidden[-n_logits:], self._program)

    def fork(self, cache: KVCache, *, n_tokens: int, n_rows: int = 1) -> OnnxKVCache:
        assert isinstance(cache, OnnxKVCache)
        whole = n_rows > 1 and n_tokens == cache.n_tokens
        one = cache if whole else cache.copy(n_tokens)
        return one if n_rows == 1 else one.rows(n_rows)

    def trim(self, cache: KVCache, n_tokens: int) -> None:
        assert isinstance(cache, OnnxKVCache)
        assert n_tokens <= cache.n_tokens
        cache.n_tokens = n_tokens

    def splice(self, cache: KVCache, source: KVCache, positions: range, at: int) -> None:
        assert isinstance(cache, OnnxKVCache)
        assert isinstance(source, OnnxKVCache)
        cache.place(source, positions, at)

    def reread(self, cache: KVCache, start: int, tokens: Sequence[int]) -> None:
        assert isinstance(cache, OnnxKVCache)
        with ended_at(cache, start):
            self.prefill(cache, Tokens(tuple(tokens)))

    def decode(self, cache: KVCache, plan: DecodePlan) -> HostDecoder:
        assert isinstance(cache, OnnxKVCache)
        assert cache.n_rows == plan.n_rows
        return HostDecoder(partial(self.next_logits, cache), plan)

    def logits(self, cache: KVCache, tokens: Sequence[int]) -> NDArray[np.float32]:
        assert isinstance(cache, OnnxKVCache)
        with ended_at(cache, cache.n_tokens):
            hidden = self._forward(cache, self._embed(tokens))
        return self._logits(hidden, self._program)

    def close(self) -> None:
        del self._program, self._expanded, self._checkpoint

    def leave_thread(self) -> None:
        """ONNX Runtime keeps nothing per thread that needs giving back."""

    def next_logits(self, cache: OnnxKVCache, tokens: Sequence[int]) -> NDArray[np.float32]:
        """Append one token to each row; return (n_rows, vocab_size) float32 logits."""
        program = self._program_for(cache)
        if cache.n_rows > 1 and cache.n_tokens == cache.n_shared and len(set(tokens)) == 1:
            cache.n_shared += 1  # all rows go on alike: still one text
            alike = self._logits(self._forward(cache, self._embed(tokens[:1])), program)
            return np.broadcast_to(alike, (cache.n_rows, alike.shape[1]))
        return self._logits(self._forward(cache, self._embed(tokens)), program)

    def _build(self, accuracy: int, beside: ThreadPoolExecutor) -> _Program:
        """Make the sessions, the head's on the other thread."""
        config, checkpoint, n_threads = self._config, self._checkpoint, self._n_threads
        with checkpoint.releasing():
            head = beside.submit(
                lambda: _session(head_graph(config, checkpoint, accuracy), checkpoint, n_threads)
            )
            layers = _session(layers_graph(config, checkpoint, accuracy), checkpoint, n_threads)
            return _Program(layers, head.result())

    def _program_for(self, cache: OnnxKVCache) -> _Program:
        """Unpacking INT4 in float32 costs as much again for every row: several get a small model's matrices in
        float32, from the first time on."""
        if cache.n_rows == 1 or not self._expands:
            return self._program
        if self._expanded is None:
            with ThreadPoolExecutor(1) as beside:
                self._expanded = self._build(EXPANDED, beside)
        return self._expanded

    def _embed(self, ids: Sequence[int]) -> NDArray[np.float32]:
        rows = self._checkpoint.rows("embed_tokens", ids)
        rows *= self._embed_scale
        return rows

    def _forward(self, cache: OnnxKVCache, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """rows: (n, hidden_size), position after position, row after row → the same after the final norm; extends
        the cache."""
        start = cache.slot_of(cache.n_tokens)
        slots = range(start, start + len(rows))
        positions = cache.positions(slots)
        end = int(positions[-1]) + 1
        if end > self._limit:
            raise EngineFailed(f"{end} tokens do not fit the context of {self._limit}.")
        cache.reserve(slots.stop)
        lora = cache.lora
        assert lora is None or isinstance(lora, OnnxLora)
        if lora is None or lora.is_zero:
            lora = self._no_lora
        layers = self._program_for(cache).layers.session
        binding = cache.binding(layers, lora)
        inputs: dict[str, NDArray] = {
            "rows": np.ascontiguousarray(rows[None], np.float32),
            "positions": positions[None],
        }
        local = cache.local_start(), self._config.sliding_window
        for kind, name in ((True, "global"), (False, "local")):
            first, window = (0, None) if kind else local
            n_seen = slots.stop - first
            inputs[f"{name}.last"] = np.array([n_seen - 1], np.int32)
            inputs[f"{name}.total"] = np.array(n_seen, np.int32)
            inputs[f"{name}.mask"] = cache.mask(slots, first, window)
            inputs[f"{name}.cos"], inputs[f"{name}.sin"] = self._rope[kind].up_to(end)
        hidden = np.empty((1, *rows.shape), np.float32)
        _run(layers, binding, inputs, {"hidden": hidden})
        cache.n_tokens = end
        return hidden[0]

    def _logits(self, hidden: NDArray[np.float32], program: _Program) -> NDArray[np.float32]:
        logits = np.empty((len(hidden), self._config.vocab_size), np.float32)
        inputs = {"hidden": np.ascontiguousarray(hidden)}
        head = program.head.session
        _run(head, head.io_binding(), inputs, {"logits": logits})
        return logits


def _check_bits(model: str, quantization: Quantization) -> None:
    formats = (quantization, *quantization.exceptions.values())
    odd = sorted({own.bits for own in formats} - {4, 8})
    if odd:
        raise ModelUnsupported(
            f"{model}: the onnx engine multiplies matrices of 4 and 8 bits; got some of {odd[0]}. "
            'Quantise with `--mixed 8`, or set `engine = "torch"`.'
        )


@dataclass(slots=True, eq=False)
class _RopeTable:
    """Cosines and sines of one kind of layer, made as far as positions are used."""

    config: ModelConfig
    is_global: bool
    cos: NDArray[np.float32] | None = None
    sin: NDArray[np.float32] | None = None

    def up_to(self, end: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return cos and sin of positions 0..end-1 at least, each (n, head_dim / 2)."""
        if self.cos is None or self.sin is None or end > len(self.cos):
            c = self.config
            theta = c.rope_theta if self.is_global else c.rope_local_theta
            factor = c.rope_factor if self.is_global else 1.0
            exponents = np.arange(0, c.head_dim, 2, dtype=np.float32) / np.float32(c.head_dim)
            positions = np.arange(-(-end // ROPE_GROW) * ROPE_GROW, dtype=np.float32)
            frequencies = (1.0 / theta**exponents).astype(np.float32)
            angles = np.outer(positions / np.float32(factor), frequencies)
            self.cos, self.sin = np.cos(angles), np.sin(angles)
        return self.cos, self.sin


@dataclass(frozen=True, slots=True, eq=False)
class _Session:
    """A session and the values that it reads where they are; they must outlive it."""

    session: InferenceSession
    values: list[OrtValue]


@dataclass(frozen=True, slots=True, eq=False)
class _Program:
    """The sessions of one form of the matrices."""

    layers: _Session
    head: _Session


def _session(graph: Graph, checkpoint: Checkpoint, n_threads: int) -> _Session:
    options = SessionOptions()
    options.intra_op_num_threads = n_threads
    # The layers and the head have a pool each: a waiting pool that spins takes a core from the other.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.prepack.enable_parallel", "1")  # most of a load
    folder = "session.model_external_initializers_file_folder_path"
    options.add_session_config_entry(folder, str(checkpoint.config.parent))
    # Not `add_external_initializers`, which copies all of them first.
    values = [OrtValue.ortvalue_from_numpy(array) for array in graph.arrays.values()]
    for name, value in zip(graph.arrays, values, strict=True):
        options.add_initializer(name, value)
    session = InferenceSession(graph.model, options, providers=["CPUExecutionProvider"])
    return _Session(session, values)


def _run(
    session: InferenceSession,
    binding: IOBinding,
    inputs: dict[str, NDArray],
    outputs: dict[str, NDArray],
) -> None:
    """Run over the arrays' own memory."""
    for name, array in inputs.items():
        binding.bind_ortvalue_input(name, OrtValue.ortvalue_from_numpy(array))
    for name, array in outputs.items():
        binding.bind_ortvalue_output(name, OrtValue.ortvalue_from_numpy(array))
    try:
        session.run_with_iobinding(binding)
    except Exception as error:
        raise EngineFailed(f"ONNX Runtime failed: {error}") from error
