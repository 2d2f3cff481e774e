"""Keys and values in one block, which ONNX Runtime extends in place; views of it are bound, nothing is copied."""

from __future__ import annotations

import math
import mmap

import numpy as np
from numpy.typing import NDArray
from onnxruntime import InferenceSession, IOBinding, OrtValue

from pushkin_runtime.engines.base import Lora
from pushkin_runtime.engines.onnx_graph import PARTS, kv_name
from pushkin_runtime.engines.onnx_lora import OnnxLora
from pushkin_runtime.engines.rotary import turn_by, turn_into
from pushkin_runtime.model_config import ModelConfig

GROW = 256  # tokens a cache grows by


class OnnxKVCache:
    """One block (n_layers, 2, n_rows, n_kv_heads, capacity, head_dim) float32 in anonymous mapped memory, which
    goes back to the system at once; `n_tokens` of the capacity are valid.

    A local layer never needs what lies before its window, so its views begin later in the same memory: shifted
    by whole tokens they have the same strides, and reach past their part by as much, into rows nobody reads.
    """

    def __init__(self, config: ModelConfig, n_rows: int = 1, lora: Lora | None = None) -> None:
        self.n_tokens = 0
        self.n_rows = n_rows
        self.lora = lora
        self._config = config
        self._capacity = 0
        self._flat = np.empty(0, np.float32)
        self._binding: IOBinding | None = None
        self._bound: tuple[int, OnnxLora] | None = None

    @property
    def n_bytes(self) -> int:
        """Memory of all layers, spare capacity included."""
        return self._flat.nbytes

    def reserve(self, n_tokens: int) -> None:
        """Make room for `n_tokens` in total."""
        if n_tokens <= self._capacity:
            return
        old = self.block() if self._capacity else None
        self._capacity = -(-n_tokens // GROW) * GROW
        spare = self._capacity * self._config.head_dim  # where shifted views of the last layer end
        n_bytes = (math.prod(self._shape()) + spare) * self._flat.itemsize
        self._flat = np.frombuffer(mmap.mmap(-1, n_bytes), np.float32)
        if old is not None:
            self.block()[..., : self.n_tokens, :] = old[..., : self.n_tokens, :]
        self._binding = self._bound = None

    def copy_from(self, other: OnnxKVCache, n_tokens: int) -> None:
        """Take over the first `n_tokens` of a cache of one row, in each row."""
        self.reserve(n_tokens + 1)
        self.block()[..., :n_tokens, :] = other.block()[..., :n_tokens, :]
        self.n_tokens = n_tokens

    def place(self, other: OnnxKVCache, positions: range, at: int) -> None:
        """Take over positions of another cache of one row as those from `at` on, and end after them."""
        c, end = self._config, at + len(positions)
        self.reserve(end + 1)
        source = other.block()[..., positions.start : positions.stop, :]
        target = self.block()[..., at:end, :]
        target[:, 1] = source[:, 1]
        for i in range(c.n_layers):
            turn = turn_by(c, at - positions.start, is_global=c.is_global(i))
            turn_into(target[i, 0], source[i, 0], *turn)
        self.n_tokens = end

    def block(self) -> NDArray[np.float32]:
        """Return all of it as (n_layers, 2, n_rows, n_kv_heads, capacity, head_dim)."""
        shape = self._shape()
        return self._flat[: math.prod(shape)].reshape(shape)

    def local_start(self) -> int:
        """Return where local layers' views begin for the next position: seldom moved, as moving binds again."""
        window = self._config.sliding_window
        step = min(window, GROW)
        return max(0, self.n_tokens + 1 - window) // step * step

    def binding(self, session: InferenceSession, lora: OnnxLora) -> IOBinding:
        """Return a binding of `session` to the buffers, local layers from `local_start`, and to the adapters."""
        wanted = self.local_start(), lora
        if self._binding is None:
            self._binding = session.io_binding()
        if self._bound is None or self._bound[1] is not lora:
            for name, value in lora.inputs().items():
                self._binding.bind_ortvalue_input(name, value)
        if self._bound is None or self._bound[0] != wanted[0]:
            self._bind_buffers(self._binding, wanted[0])
        self._bound = wanted
        return self._binding

    def _bind_buffers(self, binding: IOBinding, first: int) -> None:
        for i in range(self._config.n_layers):
            start = 0 if self._config.is_global(i) else first
            if self._bound is not None and self._config.is_global(i):
                continue
            for number, part in enumerate(PARTS):
                value = OrtValue.ortvalue_from_numpy(self._view(i, number, start))
                binding.bind_ortvalue_input(kv_name("past", i, part), value)
                binding.bind_ortvalue_output(kv_name("present", i, part), value)

    def _view(self, layer: int, part: int, first: int) -> NDArray[np.float32]:
        """Return (n_rows, n_kv_heads, capacity, head_dim) whose position 0 is `first`."""
        shape = self._shape()[2:]
        start = (2 * layer + part) * math.prod(shape) + first * shape[-1]
        return self._flat[start : start + math.prod(shape)].reshape(shape)

    def _shape(self) -> tuple[int, ...]:
        c = self._config
        return c.n_layers, 2, self.n_rows, c.n_kv_heads, self._capacity, c.head_dim
