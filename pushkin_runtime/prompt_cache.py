"""KV caches of recent prompts, reused by longest common prefix, bounded in bytes, least recent out first.

An entry is keyed by base digest × adapter files with scales × persona version, and then by its tokens: keys
and values computed under another adapter or persona are never reused. Inference thread only.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pushkin_runtime.engines.base import Engine, KVCache

MAX_REWIND = 64  # tokens an entry may lose to be reused in place
MAX_ENTRIES = 64


@dataclass(frozen=True, slots=True)
class CacheKey:
    """What besides the tokens the keys and values depend on; adapters: (SHA-256 of the file, scale)."""

    base_digest: str
    adapters: tuple[tuple[str, float], ...]
    persona_version: int


@dataclass(slots=True)
class _Entry:
    key: CacheKey
    tokens: NDArray[np.int64]
    cache: KVCache


class PromptCache:
    """Owns every idle KV cache. A taken one belongs to the taker until it is put back."""

    def __init__(self, engine: Engine, budget_bytes: int) -> None:
        self._engine = engine
        self.budget_bytes = budget_bytes
        self._entries: OrderedDict[int, _Entry] = OrderedDict()
        self._n_made = 0

    @property
    def n_entries(self) -> int:
        """Idle caches held."""
        return len(self._entries)

    @property
    def n_bytes(self) -> int:
        """Memory of the idle caches."""
        return sum(entry.cache.n_bytes for entry in self._entries.values())

    def take(self, key: CacheKey, tokens: tuple[int, ...]) -> KVCache:
        """Return a one-row cache holding the longest known prefix of `tokens` (`.n_tokens` says how
        much), for the caller to put the key's adapters on (`.lora`) and to extend."""
        wanted = np.asarray(tokens, dtype=np.int64)
        best, n_best = None, 0
        for name, entry in self._entries.items():
            n_common = _common_prefix(entry.tokens, wanted) if entry.key == key else 0
            if n_common > n_best or (n_common == n_best > 0):
                best, n_best = name, n_common
        if best is None:
            return self._engine.new_cache()
        entry = self._entries[best]
        n_lost = len(entry.tokens) - n_best
        if n_lost <= min(MAX_REWIND, n_best):  # the same text, edited at its end
            del self._entries[best]
            self._engine.trim(entry.cache, n_best)
            return entry.cache
        self._entries.move_to_end(best)
        return self._engine.fork(entry.cache, n_tokens=n_best)

    def put(self, key: CacheKey, tokens: tuple[int, ...], cache: KVCache) -> None:
        """Keep `cache`, which holds exactly `tokens`; evict the least recently used beyond the budget.

        Its adapters are taken off: an idle cache must not keep their matrices in memory.
        """
        assert len(tokens) == cache.n_tokens
        cache.lora = None
        if not tokens:
            return
        self._n_made += 1
        self._entries[self._n_made] = _Entry(key, np.asarray(tokens, dtype=np.int64), cache)
        while self._entries and (
            self.n_bytes > self.budget_bytes or len(self._entries) > MAX_ENTRIES
        ):
            self._entries.popitem(last=False)

    def drop(self, is_dropped: Callable[[CacheKey], bool]) -> None:
        """Forget every entry whose key is to be dropped."""
        for name, entry in list(self._entries.items()):
            if is_dropped(entry.key):
                del self._entries[name]

    def clear(self) -> None:
        """Drop everything."""
        self._entries.clear()


def _common_prefix(a: NDArray[np.int64], b: NDArray[np.int64]) -> int:
    n = min(len(a), len(b))
    different = np.flatnonzero(a[:n] != b[:n])
    return int(different[0]) if len(different) else n
