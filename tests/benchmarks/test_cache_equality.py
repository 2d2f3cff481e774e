"""The cache comparison passes on a sound engine and finds a planted defect."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import islice
from typing import Any

import pytest

from benchmarks.cache_equality import compare, random_edits, without_cache
from benchmarks.in_process import started
from pushkin_runtime.engines.base import Engine, EngineOptions, KVCache, Tokens
from pushkin_runtime.engines.registry import EngineChoice, create_engine
from pushkin_runtime.runtime import Runtime, RuntimeOptions
from tests.pushkin_runtime.conftest import CONFIG, random_weights, write_model

N_FORGOTTEN = 8
# Its tokens are a character or two: the texts within the window fit this one, those past it do not.
TINY = CONFIG | {"sliding_window": 1024, "max_position_embeddings": 4096}


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> RuntimeOptions:
    weights = {f"model.{name}": value for name, value in random_weights(TINY).items()}
    model = write_model(tmp_path_factory.mktemp("models") / "tiny", TINY, weights)
    return RuntimeOptions(model_dir=model, engine="torch")


@pytest.fixture(scope="module")
def nothing(options: RuntimeOptions) -> Iterator[Runtime]:
    with started(Runtime(without_cache(options))) as runtime:
        yield runtime


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


def create_misremembering(choice: EngineChoice, options: EngineOptions) -> Any:
    return MisrememberingEngine(create_engine(choice, options))


@pytest.mark.slow
def test_a_sound_engine_writes_the_same_with_and_without_the_cache(
    nothing: Runtime, options: RuntimeOptions
) -> None:
    with started(Runtime(options)) as kept:
        assert compare(kept, nothing, n_edits=6, seed=2, zones=("past_window",)).mismatches == []


@pytest.mark.slow
def test_a_cache_that_misremembers_is_found(nothing: Runtime, options: RuntimeOptions) -> None:
    with started(Runtime(options, create_misremembering)) as kept:
        assert compare(kept, nothing, n_edits=14, seed=2, zones=("in_window",)).mismatches


def test_the_edits_are_the_same_every_time_and_in_every_zone() -> None:
    first, again = (list(islice(random_edits(random.Random(3)), 40)) for _ in range(2))
    assert first == again
    assert {edit.zone for edit in first} == {"in_window", "past_window", "context_cut"}
