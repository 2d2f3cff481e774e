"""The cache comparison passes on a sound engine and finds a planted defect."""

from __future__ import annotations

import random
from itertools import islice
from typing import Any

import pytest

from benchmarks.cache_equality import Zone, compare, load_engine, random_edits
from pushkin_runtime.engines.base import Engine, KVCache, Tokens

N_FORGOTTEN = 8
ZONES: tuple[Zone, ...] = ("in_window", "past_window")


@pytest.fixture(scope="module")
def engine() -> Engine:
    return load_engine("torch", None)


class MisrememberingEngine:
    """Trims to the right length, but the last few tokens it keeps are not the ones it was given."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def trim(self, cache: KVCache, n_tokens: int) -> None:
        n_kept = max(0, n_tokens - N_FORGOTTEN)
        self._engine.trim(cache, n_kept)
        self._engine.prefill(cache, Tokens((300,) * (n_tokens - n_kept)))


@pytest.mark.slow
def test_a_sound_engine_writes_the_same_with_and_without_the_cache(engine: Engine) -> None:
    assert compare(engine, n_edits=6, seed=2, zones=ZONES).mismatches == []


@pytest.mark.slow
def test_a_cache_that_misremembers_is_found(engine: Engine) -> None:
    assert compare(MisrememberingEngine(engine), n_edits=6, seed=2, zones=ZONES).mismatches  # type: ignore[arg-type]


def test_the_edits_are_the_same_every_time_and_in_every_zone() -> None:
    first, again = (list(islice(random_edits(random.Random(3)), 40)) for _ in range(2))
    assert first == again
    assert {edit.zone for edit in first} == {"in_window", "past_window", "context_cut"}
