"""Keys and values in one block, which ONNX Runtime extends in place; views of it are bound, nothing is copied.

Texts that go on from one prefix lie behind it in its own block, and a mask keeps them apart: what they have in
common is held, and read, once.
"""

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

GROW = 256  # slots a block grows by
HIDDEN = np.finfo(np.float32).min


class Block:
    """(n_layers, 2, n_kv_heads, capacity, head_dim) float32 in anonymous mapped memory, which goes back to the
    system at once."""

    def __init__(self, config: ModelConfig) -> None:
        self.capacity = 0
        self._config = config
        self._flat = np.empty(0, np.float32)

    @property
    def n_bytes(self) -> int:
        """Memory of all layers, spare capacity included."""
        return self._flat.nbytes

    def reserve(self, n_slots: int, n_held: int) -> None:
        """Make room for `n_slots` in total; the first `n_held` are kept."""
        old = self.array() if self.capacity else None
        self.capacity = -(-n_slots // GROW) * GROW
        spare = self.capacity * self._config.head_dim  # where shifted views of the last layer end
        n_bytes = (math.prod(self._shape()) + spare) * self._flat.itemsize
        self._flat = np.frombuffer(mmap.mmap(-1, n_bytes), np.float32)
        if old is not None:
            self.array()[..., :n_held, :] = old[..., :n_held, :]

    def array(self) -> NDArray[np.float32]:
        """Return all of it."""
        shape = self._shape()
        return self._flat[: math.prod(shape)].reshape(shape)

    def view(self, layer: int, part: int, first: int) -> NDArray[np.float32]:
        """Return (1, n_kv_heads, capacity, head_dim) whose slot 0 is `first`.

        Shifted by whole slots it has the same strides, and reaches past its part by as much, into slots nobody reads.
        """
        shape = 1, *self._shape()[2:]
        start = (2 * layer + part) * math.prod(shape) + first * shape[-1]
        return self._flat[start : start + math.prod(shape)].reshape(shape)

    def _shape(self) -> tuple[int, ...]:
        c = self._config
        return c.n_layers, 2, c.n_kv_heads, self.capacity, c.head_dim


class OnnxKVCache:
    """`n_tokens` positions in the slots of a block. Rows share the first `n_shared`, a slot each, and have a slot
    each for every position after.

    A local layer never needs what lies before its window, so what is bound of it begins later in the same memory.
    """

    def __init__(self, config: ModelConfig, lora: Lora | None = None) -> None:
        self.n_tokens = 0
        self.n_rows = 1
        self.n_shared = 0
        self.lora = lora
        self._config = config
        self._block = Block(config)
        self._binding: IOBinding | None = None
        self._bound: tuple[int, OnnxLora] | None = None

    @property
    def n_bytes(self) -> int:
        """Memory of the block."""
        return self._block.n_bytes

    def copy(self, n_tokens: int) -> OnnxKVCache:
        """Return a copy of the first `n_tokens` of a cache of one row."""
        copy = OnnxKVCache(self._config, self.lora)
        copy.reserve(n_tokens + 1)
        copy.block()[..., :n_tokens, :] = self.block()[..., :n_tokens, :]
        copy.n_tokens = n_tokens
        return copy

    def place(self, other: OnnxKVCache, positions: range, at: int) -> None:
        """Take over positions of another cache, both of one row, as those from `at` on, and end after them."""
        c, end = self._config, at + len(positions)
        self.reserve(end + 1)
        source = other.block()[..., positions.start : positions.stop, :]
        target = self.block()[..., at:end, :]
        target[:, 1] = source[:, 1]
        for i in range(c.n_layers):
            turn = turn_by(c, at - positions.start, is_global=c.is_global(i))
            turn_into(target[i, 0], source[i, 0], *turn)
        self.n_tokens = end

    def rows(self, n_rows: int) -> OnnxKVCache:
        """Return rows that go on from here in the same block: while they do, nothing else may."""
        rows = OnnxKVCache(self._config, self.lora)
        rows.n_tokens = rows.n_shared = self.n_tokens
        rows.n_rows = n_rows
        rows._block = self._block
        self._binding = None  # which would keep this block when the rows need a larger one
        return rows

    def reserve(self, n_slots: int) -> None:
        """Make room for `n_slots` in total."""
        if n_slots > self._block.capacity:
            self._binding = None  # which would keep the smaller block
            self._block.reserve(n_slots, self.slot_of(self.n_tokens))

    def block(self) -> NDArray[np.float32]:
        """Return all of it as (n_layers, 2, n_kv_heads, capacity, head_dim)."""
        return self._block.array()

    def slot_of(self, position: int) -> int:
        """The first slot of a position."""
        beyond = max(0, position - self.n_shared)
        return position - beyond + beyond * self.n_rows

    def positions(self, slots: range) -> NDArray[np.int64]:
        """Return the position of each slot, (n,)."""
        numbers = np.arange(slots.start, slots.stop)
        beyond = np.maximum(numbers - self.n_shared, 0)
        return numbers - beyond + beyond // self.n_rows

    def mask(self, slots: range, first: int, window: int | None) -> NDArray[np.float32]:
        """Return (1, 1, n, n_seen): what is added to the scores of the slots from `first` on, for what comes into
        `slots` and is kept from later ones anyway. window: positions a token sees, itself included; None: all."""
        seen = range(first, slots.stop)
        shape = len(slots), len(seen)
        if self.n_rows == 1 and (window is None or len(seen) <= window):
            return np.zeros((1, 1, *shape), np.float32)
        is_hidden = np.zeros(shape, np.bool_)
        if window is not None:
            is_hidden |= self.positions(seen) <= self.positions(slots)[:, None] - window
        if self.n_rows > 1:
            beyond = np.arange(first, slots.stop) - self.n_shared
            row = beyond % self.n_rows
            is_hidden |= (beyond >= 0) & (row != row[-len(slots) :, None])
        return np.where(is_hidden, HIDDEN, np.float32(0))[None, None]

    def local_start(self) -> int:
        """Return where local layers' views begin for the next position: seldom moved, as moving binds again."""
        window = self._config.sliding_window
        step = min(window, GROW)
        first = max(0, self.n_tokens + 1 - window)
        return min(first, self.n_shared if self.n_rows > 1 else first) // step * step

    def binding(self, session: InferenceSession, lora: OnnxLora) -> IOBinding:
        """Return a binding of `session` to the block, local layers from `local_start`, and to the adapters.

        session: the same every time.
        """
        wanted = self.local_start(), lora
        if self._binding is None:
            self._binding, self._bound = session.io_binding(), None
        was, self._bound = self._bound, wanted
        if was is None or was[1] is not lora:
            for name, value in lora.inputs().items():
                self._binding.bind_ortvalue_input(name, value)
        for i in range(self._config.n_layers):
            is_global = self._config.is_global(i)
            if was is None or (was[0] != wanted[0] and not is_global):
                self._bind_layer(self._binding, i, 0 if is_global else wanted[0])
        return self._binding

    def _bind_layer(self, binding: IOBinding, layer: int, first: int) -> None:
        for number, part in enumerate(PARTS):
            value = OrtValue.ortvalue_from_numpy(self._block.view(layer, number, first))
            binding.bind_ortvalue_input(kv_name("past", layer, part), value)
            binding.bind_ortvalue_output(kv_name("present", layer, part), value)
