"""The MLX engine's KV cache: full length on every layer, so that it can be cut anywhere."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
from mlx_lm.models.base import create_causal_mask
from numpy.typing import NDArray

from pushkin_runtime.engines.base import Lora
from pushkin_runtime.engines.rotary import turn_into
from pushkin_runtime.model_config import ModelConfig

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

    def place(
        self,
        other: LayerKV,
        positions: range,
        at: int,
        turn: tuple[NDArray[np.float32], NDArray[np.float32]],
    ) -> None:
        """Take over positions of another cache of one row as those from `at` on, and end after them."""
        end = at + len(positions)
        assert other.keys is not None
        assert other.values is not None
        keys, values = (
            held[..., positions.start : positions.stop, :] for held in (other.keys, other.values)
        )
        new_keys = _with_room(self.keys, keys, end, self.offset)
        new_values = _with_room(self.values, values, end, self.offset)
        turned = mx.zeros(keys.shape, keys.dtype)
        turn_into(turned, keys, *map(mx.array, turn))
        new_keys[..., at:end, :] = turned
        new_values[..., at:end, :] = values
        self.keys, self.values, self.offset = new_keys, new_values, end

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


def _with_room(old: mx.array | None, like: mx.array, n_tokens: int, n_valid: int) -> mx.array:
    """Return `old`, or a copy of its first `n_valid` positions with room for `n_tokens`."""
    if old is not None and n_tokens <= old.shape[2]:
        return old
    capacity = -(-n_tokens // GROW) * GROW
    new = mx.zeros((*like.shape[:2], capacity, like.shape[3]), like.dtype)
    if old is not None and n_valid:
        new[..., :n_valid, :] = old[..., :n_valid, :]
    return new
