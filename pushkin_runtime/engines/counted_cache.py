"""Caches whose length is a counter: cutting one moves no memory, so what lies behind the end is still there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class CountedCache(Protocol):
    """n_tokens: positions held."""

    n_tokens: int


@contextmanager
def ended_at(cache: CountedCache, n_tokens: int) -> Iterator[None]:
    """Read as if the cache ended after `n_tokens`; afterwards it is as long as it was, with what was read in its place."""
    n_held, cache.n_tokens = cache.n_tokens, n_tokens
    try:
        yield
    finally:
        cache.n_tokens = n_held
