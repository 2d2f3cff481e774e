"""Keys and values that are moved to where their text stands now, by every engine (engines/base.py)."""

from __future__ import annotations

import numpy as np
import pytest

from pushkin_runtime.engines.base import Engine, KVCache, Tokens

TOLERANCE = 2e-5  # float32, logits of a few units
REACH = 5 * 15  # tokens: as far as five local layers see; what stands further on knows no edit


def prompt(n: int, seed: int = 0) -> tuple[int, ...]:
    return tuple(np.random.default_rng(seed).integers(4, 500, n).tolist())


def spliced(
    engine: Engine, old: tuple[int, ...], new: tuple[int, ...], *, moved: range, at: int
) -> KVCache:
    """A cache of `new` up to the end of what is moved, from one of `old` with which it shares the first 30."""
    source = engine.new_cache()
    engine.prefill(source, Tokens(old))
    cache = engine.fork(source, n_tokens=30)
    engine.splice(cache, source, moved, at)
    assert cache.n_tokens == at + len(moved)
    for start in range(30, at, 20):
        engine.reread(cache, start, new[start : min(start + 20, at)])
    assert cache.n_tokens == at + len(moved)
    return cache


@pytest.mark.parametrize("n_deleted", [0, 1, 7])
@pytest.mark.parametrize("n_written", [0, 1, 40])
def test_what_an_edit_does_not_reach_is_moved_exactly(
    engine: Engine, n_deleted: int, n_written: int
) -> None:
    old = prompt(400)
    new = (*old[:30], *prompt(n_written, seed=5), *old[30 + n_deleted :])
    first = 30 + n_deleted + REACH
    shift = n_written - n_deleted
    moved = range(first, 380)
    cache = spliced(engine, old, new, moved=moved, at=first + shift)

    n_held = 380 + shift
    after = engine.logits(cache, [*new[n_held:], *prompt(20, seed=6)])
    np.testing.assert_allclose(
        after, engine.logits(engine.new_cache(), [*new, *prompt(20, seed=6)])[n_held:], atol=1e-4
    )


def test_what_is_moved_keeps_what_it_was_told_before(engine: Engine) -> None:
    """The approximation: keys and values right after an edit still tell of what was there."""
    old = prompt(200)
    new = (*old[:30], *old[37:])
    cache = spliced(engine, old, new, moved=range(37, 190), at=30)
    exact = engine.logits(engine.new_cache(), new)

    gap = np.abs(engine.logits(cache, new[183:]) - exact[183:]).max()
    assert gap > TOLERANCE


def test_reading_again_leaves_what_follows_and_mends_what_was_moved(engine: Engine) -> None:
    old = prompt(200)
    new = (*old[:30], *old[37:])
    cache = spliced(engine, old, new, moved=range(37, 200), at=30)
    for start in range(30, len(new), 64):
        engine.reread(cache, start, new[start : start + 64])
        assert cache.n_tokens == len(new)

    np.testing.assert_allclose(
        engine.logits(cache, prompt(9, seed=3)),
        engine.logits(engine.new_cache(), [*new, *prompt(9, seed=3)])[len(new) :],
        atol=TOLERANCE,
    )
