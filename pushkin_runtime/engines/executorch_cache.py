"""Keys and values beside an ExecuTorch program, and what each new row may see of them."""

from __future__ import annotations

import math
import mmap
from dataclasses import dataclass

import torch

from pushkin_runtime.engines.base import Lora
from pushkin_runtime.engines.rotary import turn_by, turn_into
from pushkin_runtime.model_config import ModelConfig

GROW = 256  # slots a cache grows by


class ExecutorchKVCache:
    """One block (n_layers, 2, capacity, n_kv_heads, head_dim), slot after slot as tokens came.

    Rows share the first `n_shared` positions, a slot each, and have a slot each for every position after: what
    alternatives have in common is held, and read, once. The block is anonymous mapped memory, as torch_engine's.
    """

    def __init__(
        self,
        config: ModelConfig,
        dtype: torch.dtype,
        *,
        n_rows: int = 1,
        lora: Lora | None = None,
    ) -> None:
        self.n_tokens = 0
        self.n_rows = n_rows
        self.n_shared = 0
        self.lora = lora
        shape = (config.n_layers, 2, 0, config.n_kv_heads, config.head_dim)
        self.block = torch.empty(shape, dtype=dtype)

    @property
    def n_bytes(self) -> int:
        """Memory of all layers, spare capacity included."""
        return self.block.nbytes

    def slot_of(self, position: int) -> int:
        """The first slot of a position."""
        beyond = max(0, position - self.n_shared)
        return position - beyond + beyond * self.n_rows

    def reserve(self, n_tokens: int) -> None:
        """Make room for `n_tokens` positions in total."""
        n_layers, two, capacity, *inner = self.block.shape
        n_slots = self.slot_of(n_tokens)
        if n_slots <= capacity:
            return
        shape = (n_layers, two, -(-n_slots // GROW) * GROW, *inner)
        memory = mmap.mmap(-1, math.prod(shape) * self.block.element_size())
        grown = torch.frombuffer(memory, dtype=self.block.dtype).view(shape)
        n_held = self.slot_of(self.n_tokens)
        grown[:, :, :n_held] = self.block[:, :, :n_held]
        self.block = grown

    def forked(self, config: ModelConfig, n_tokens: int, n_rows: int) -> ExecutorchKVCache:
        """Return a copy of the first `n_tokens` of a one-row cache, which `n_rows` rows share."""
        copy = ExecutorchKVCache(config, self.block.dtype, n_rows=n_rows, lora=self.lora)
        copy.n_shared = n_tokens
        copy.reserve(n_tokens + 1)
        copy.block[:, :, :n_tokens] = self.block[:, :, :n_tokens]
        copy.n_tokens = n_tokens
        return copy

    def place(
        self, config: ModelConfig, other: ExecutorchKVCache, positions: range, at: int
    ) -> None:
        """Take over positions of another cache, both of one row, as those from `at` on, and end after them."""
        end = at + len(positions)
        self.reserve(end + 1)
        source = other.block[:, :, positions.start : positions.stop]
        target = self.block[:, :, at:end]
        target[:, 1] = source[:, 1]
        for i in range(config.n_layers):
            turn = turn_by(config, at - positions.start, is_global=config.is_global(i))
            turn_into(target[i, 0], source[i, 0], *map(torch.from_numpy, turn))
        self.n_tokens = end

    def views(self, layer: int, span: slice) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the keys and the values of a layer in some slots, (1, n, n_kv_heads, head_dim)."""
        keys, values = self.block[layer, :, span].unsqueeze(1)
        return keys, values


@dataclass(frozen=True, slots=True, eq=False)
class Sight:
    """What new rows see on one kind of layer: the slots of `span`, as far as mask (n, n_slots) has 0."""

    span: slice
    mask: torch.Tensor


def sight(cache: ExecutorchKVCache, end: int, window: int | None) -> Sight:
    """Return what the positions from the cache's end to `end` see, position after position, row after row.

    window: positions a row sees, itself included; None for all. The mask is 0 or -inf.
    """
    start, n_rows = cache.n_tokens, cache.n_rows
    first = 0 if window is None else max(0, start + 1 - window)
    span = slice(cache.slot_of(first), cache.slot_of(end))
    n = (end - start) * n_rows
    n_slots = span.stop - span.start
    if n == 1:  # nothing that it must not see is in the span
        return Sight(span, torch.zeros(1, n_slots))
    slots = torch.arange(span.start, span.stop)[None]
    beyond = slots - cache.n_shared
    keys = torch.where(beyond < 0, slots, cache.n_shared + beyond // n_rows)
    queries = torch.arange(start, end).repeat_interleave(n_rows)[:, None]
    visible = keys <= queries
    if window is not None:
        visible &= keys > queries - window
    if n_rows > 1:
        rows = torch.arange(n_rows).repeat(end - start)[:, None]
        visible &= (beyond < 0) | (beyond % n_rows == rows)
    return Sight(span, torch.zeros(n, n_slots).masked_fill_(~visible, -math.inf))
