"""KV caches of recent prompts, reused by longest common prefix, bounded in bytes, least recent out first.

An entry is keyed by base digest × adapter files with scales × persona version, and then by its tokens: keys
and values computed under another adapter or persona are never reused. With an entry stay the logits at the ends
of its last prompts: most keystrokes fall inside a word, whose beginning is healed away, so the prompt is one that
was read before and its first token's distribution is known. Inference thread only.

After an edit in the middle a draft may have what follows it moved instead of read again (`cache_reuse.py`). Such an entry
is exact up to a known length only: what wants to be exact has it up to there, and idle time reads the rest again.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pushkin_runtime.cache_reuse import Run, common_prefix, reusable_runs
from pushkin_runtime.engines.base import Engine, KVCache, Lora

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
    """A one-row cache, with the raw logits (vocab_size,) after some of the lengths it has had.

    gaps: positions to `reread`, in order, before the cache is used. n_exact: positions that are as reading them in
    order would leave them; None: all.
    """

    cache: KVCache
    ends: dict[int, NDArray[np.float32]] = field(default_factory=dict)
    gaps: list[range] = field(default_factory=list)
    n_exact: int | None = None

    @property
    def n_tokens(self) -> int:
        """Positions held."""
        return self.cache.n_tokens

    @property
    def n_known(self) -> int:
        """Positions held but for the gaps."""
        return self.cache.n_tokens - sum(map(len, self.gaps))

    @property
    def is_exact(self) -> bool:
        """Whether nothing in it was moved."""
        return self.n_exact is None

    @property
    def n_bytes(self) -> int:
        """Memory held; any thread may ask."""
        return self.cache.n_bytes + sum(logits.nbytes for logits in tuple(self.ends.values()))

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

    def exact_within(self, n_tokens: int) -> int | None:
        """`n_exact` of the first `n_tokens`."""
        return None if self.n_exact is None or self.n_exact >= n_tokens else self.n_exact


@dataclass(slots=True)
class _Entry:
    key: CacheKey
    tokens: NDArray[np.int64]
    prefix: Prefix

    def n_usable(self, wanted: NDArray[np.int64], *, is_draft: bool) -> int:
        """How much of `wanted` need not be read again: the last token must, unless the logits after it are known.

        is_draft: whether what was moved will do.
        """
        n_common = common_prefix(self.tokens, wanted)
        if not is_draft and self.prefix.n_exact is not None:
            n_common = min(n_common, self.prefix.n_exact)
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
        """Memory of the idle caches, remembered logits included; any thread may ask."""
        entries = tuple(self._entries.values())  # at once: they change while others are added up
        return sum(entry.prefix.n_bytes for entry in entries)

    def take(self, key: CacheKey, tokens: tuple[int, ...], *, min_run: int = 0) -> Prefix:
        """Return a cache holding the longest known prefix of `tokens` (`.n_known` says how much; all of them
        only with the logits after the last), for the caller to put the key's adapters on (`.cache.lora`), to fill the
        gaps of, and to extend. min_run: if not 0, as many tokens in a row may be moved from where they stood before."""
        wanted = np.asarray(tokens, dtype=np.int64)
        entries = {name: entry for name, entry in self._entries.items() if entry.key == key}
        usable = {
            name: (
                entry.n_usable(wanted, is_draft=min_run > 0),
                entry.n_usable(wanted, is_draft=False),
            )
            for name, entry in entries.items()
        }
        best = max(reversed(usable), key=usable.__getitem__, default=None)  # the latest of equals
        n_best = usable[best][0] if best is not None else 0
        if best is None or not n_best:
            return Prefix(self._engine.new_cache())
        if min_run and (moved := self._moved(entries, wanted, n_best, min_run)) is not None:
            self._entries.move_to_end(best)
            return self._spliced(entries[best].prefix, n_best, *moved)
        entry = self._entries[best]
        prefix, n_lost = entry.prefix, len(entry.tokens) - n_best
        if n_lost <= min(MAX_REWIND, n_best):  # the same text, edited at its end
            del self._entries[best]
            self._engine.trim(prefix.cache, n_best)
            prefix.ends = prefix.ends_within(n_best)
            prefix.n_exact = prefix.exact_within(n_best)
            return prefix
        self._entries.move_to_end(best)
        return self._copied(prefix, n_best)

    def _copied(self, prefix: Prefix, n_tokens: int) -> Prefix:
        return Prefix(
            self._engine.fork(prefix.cache, n_tokens=n_tokens),
            prefix.ends_within(n_tokens),
            n_exact=prefix.exact_within(n_tokens),
        )

    def _moved(
        self, entries: dict[int, _Entry], wanted: NDArray[np.int64], n_same: int, min_run: int
    ) -> tuple[KVCache, tuple[Run, ...]] | None:
        """The cache of which most can be moved behind the first `n_same` of `wanted`, and what; None if nothing can."""
        if len(wanted) - n_same <= min_run or (wanted[n_same:] < 0).any():
            return None
        found = [
            (entry, reusable_runs(entry.tokens, wanted, n_same=n_same, min_run=min_run))
            for entry in entries.values()
        ]
        entry, runs = max(found, key=lambda each: sum(run.n_tokens for run in each[1]))
        return (entry.prefix.cache, runs) if runs else None

    def _spliced(
        self, prefix: Prefix, n_same: int, source: KVCache, runs: tuple[Run, ...]
    ) -> Prefix:
        spliced = self._copied(prefix, n_same)
        for run in runs:
            spliced.gaps.append(range(spliced.n_tokens, run.at))
            moved = range(run.source, run.source + run.n_tokens)
            self._engine.splice(spliced.cache, source, moved, run.at)
        if spliced.n_exact is None:
            spliced.n_exact = runs[0].at
        return spliced

    def put(self, key: CacheKey, tokens: tuple[int, ...], prefix: Prefix) -> None:
        """Keep `prefix`, which holds the first of `tokens`, once; evict the least recently used beyond the budget.

        Its adapters are taken off: an idle cache must not keep their matrices in memory.
        """
        if prefix.gaps:  # an end came before they were filled
            self._engine.trim(prefix.cache, prefix.gaps[0].start)
            prefix.gaps, prefix.n_exact = [], prefix.exact_within(prefix.n_tokens)
        assert len(tokens) >= prefix.n_tokens
        prefix.cache.lora = None
        if not prefix.n_tokens:
            return
        held = tokens[: prefix.n_tokens]
        new = _Entry(key, np.asarray(held, dtype=np.int64), prefix)
        for name, entry in list(self._entries.items()):
            if entry.key == key and _is_replaced(entry, new):
                del self._entries[name]  # what did not want to know of it has computed it again
        self._n_made += 1
        self._entries[self._n_made] = new
        while self._entries and (
            self.n_bytes > self.budget_bytes or len(self._entries) > MAX_ENTRIES
        ):
            self._entries.popitem(last=False)

    def renew(self, key: CacheKey, lora: Lora | None, n_tokens: int) -> bool:
        """Read the next `n_tokens` again of the last used entry of `key` that is inexact; whether more of it is.

        lora: the key's adapters. Raises EngineFailed; the entry is forgotten.
        """
        inexact = [
            name
            for name, entry in self._entries.items()
            if entry.key == key and not entry.prefix.is_exact
        ]
        if not inexact:
            return False
        entry = self._entries.pop(inexact[-1])
        prefix, start = entry.prefix, entry.prefix.n_exact
        assert start is not None
        stop = min(start + n_tokens, prefix.n_tokens)
        prefix.cache.lora = lora
        self._engine.reread(prefix.cache, start, entry.tokens[start:stop].tolist())
        prefix.ends = prefix.ends_within(start)
        prefix.n_exact = stop if stop < prefix.n_tokens else None
        self.put(key, tuple(entry.tokens.tolist()), prefix)
        return not prefix.is_exact

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


def _is_replaced(old: _Entry, new: _Entry) -> bool:
    """Whether `new` has the same tokens; what was moved also goes for an exact one that is a little shorter."""
    n_common = common_prefix(old.tokens, new.tokens)
    if old.prefix.is_exact:
        return new.prefix.is_exact and n_common == len(old.tokens) == len(new.tokens)
    if new.prefix.is_exact:
        return n_common >= len(old.tokens) - MAX_REWIND
    return n_common == len(old.tokens) == len(new.tokens)
