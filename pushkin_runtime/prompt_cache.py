"""KV caches of recent prompts, reused by longest common prefix, bounded in bytes, least recent out first.

An entry is keyed by base digest × adapter files with scales × persona version, and then by its tokens: keys
and values computed under another adapter or persona are never reused. With an entry stay the logits at the ends
of its last prompts: most keystrokes fall inside a word, whose beginning is healed away, so the prompt is one that
was read before and its first token's distribution is known. Inference thread only.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pushkin_runtime.engines.base import Engine, KVCache

MAX_REWIND = 64  # tokens an entry may lose to be reused in place
MAX_ENTRIES = 64
MAX_ENDS = (
    8  # prompts of an entry whose last logits are kept; a megabyte each with Gemma's vocabulary
)


@dataclass(frozen=True, slots=True)
class CacheKey:
    """What besides the tokens the keys and values depend on; adapters: (SHA-256 of the file, scale)."""

    base_digest: str
    adapters: tuple[tuple[str, float], ...]
    persona_version: int


@dataclass(slots=True, eq=False)
class Prefix:
    """A one-row cache, with the raw logits (vocab_size,) after some of the lengths it has had."""

    cache: KVCache
    ends: dict[int, NDArray[np.float32]] = field(default_factory=dict)

    @property
    def n_tokens(self) -> int:
        """Positions held."""
        return self.cache.n_tokens

    @property
    def n_bytes(self) -> int:
        """Memory held."""
        return self.cache.n_bytes + sum(logits.nbytes for logits in self.ends.values())

    @property
    def logits(self) -> NDArray[np.float32] | None:
        """Those after the last position; None when they are not known."""
        return self.ends.get(self.cache.n_tokens)

    def remember(self, logits: NDArray[np.float32]) -> None:
        """Keep the logits after the last position; the oldest are forgotten."""
        self.ends.pop(self.cache.n_tokens, None)
        self.ends[self.cache.n_tokens] = logits
        if len(self.ends) > MAX_ENDS:
            del self.ends[next(iter(self.ends))]

    def ends_within(self, n_tokens: int) -> dict[int, NDArray[np.float32]]:
        """The logits that the first `n_tokens` still have, oldest first."""
        return {n: logits for n, logits in self.ends.items() if n <= n_tokens}


@dataclass(slots=True)
class _Entry:
    key: CacheKey
    tokens: NDArray[np.int64]
    prefix: Prefix

    def n_usable(self, wanted: NDArray[np.int64]) -> int:
        """How much of `wanted` need not be read again: the last token must, unless the logits after it are known."""
        n_common = _common_prefix(self.tokens, wanted)
        if n_common == len(wanted) and n_common not in self.prefix.ends:
            return n_common - 1
        return n_common


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
        """Memory of the idle caches, remembered logits included."""
        return sum(entry.prefix.n_bytes for entry in self._entries.values())

    def take(self, key: CacheKey, tokens: tuple[int, ...]) -> Prefix:
        """Return a cache holding the longest known prefix of `tokens` (`.n_tokens` says how much; all of them
        only with the logits after the last), for the caller to put the key's adapters on (`.cache.lora`) and to
        extend."""
        wanted = np.asarray(tokens, dtype=np.int64)
        best, n_best = None, 0
        for name, entry in self._entries.items():
            n_usable = entry.n_usable(wanted) if entry.key == key else 0
            if n_usable > n_best or (n_usable == n_best > 0):
                best, n_best = name, n_usable
        if best is None:
            return Prefix(self._engine.new_cache())
        entry = self._entries[best]
        prefix, n_lost = entry.prefix, len(entry.tokens) - n_best
        if n_lost <= min(MAX_REWIND, n_best):  # the same text, edited at its end
            del self._entries[best]
            self._engine.trim(prefix.cache, n_best)
            prefix.ends = prefix.ends_within(n_best)
            return prefix
        self._entries.move_to_end(best)
        fork = self._engine.fork(prefix.cache, n_tokens=n_best)
        return Prefix(fork, prefix.ends_within(n_best))

    def put(self, key: CacheKey, tokens: tuple[int, ...], prefix: Prefix) -> None:
        """Keep `prefix`, which holds exactly `tokens`, once; evict the least recently used beyond the budget.

        Its adapters are taken off: an idle cache must not keep their matrices in memory.
        """
        assert len(tokens) == prefix.n_tokens
        prefix.cache.lora = None
        if not tokens:
            return
        new = _Entry(key, np.asarray(tokens, dtype=np.int64), prefix)
        for name, entry in list(self._entries.items()):
            if entry.key == key and np.array_equal(entry.tokens, new.tokens):
                del self._entries[name]  # what did not want to know of it has computed it again
        self._n_made += 1
        self._entries[self._n_made] = new
        while self._entries and (
            self.n_bytes > self.budget_bytes or len(self._entries) > MAX_ENTRIES
        ):
            self._entries.popitem(last=False)

    def drop(self, is_dropped: Callable[[CacheKey], bool]) -> None:
        """Forget every entry whose key is to be dropped."""
        for name, entry in list(self._entries.items()):
            if is_dropped(entry.key):
                del self._entries[name]

    def shed(self, share: float) -> None:
        """Drop at least this share of the bytes, 0 to 1, least recently used first."""
        limit = (1 - share) * self.n_bytes
        while self._entries and self.n_bytes > limit:
            self._entries.popitem(last=False)

    def clear(self) -> None:
        """Drop everything."""
        self._entries.clear()


def _common_prefix(a: NDArray[np.int64], b: NDArray[np.int64]) -> int:
    n = min(len(a), len(b))
    different = np.flatnonzero(a[:n] != b[:n])
    return int(different[0]) if len(different) else n
