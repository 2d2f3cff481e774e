"""The scripted engine under adapters: another text, and a failure when a cache changes its own."""

from __future__ import annotations

import numpy as np
import pytest

from adapters.composition import LoraWeights, compose
from pushkin_runtime.engines.base import DecodePlan, Lora, Tokens
from pushkin_runtime.engines.scripted_engine import BASE, ScriptedCache, ScriptedEngine
from pushkin_runtime.errors import EngineFailed
from pushkin_runtime.sampling_types import SamplingParams

ALPHABET = "abcdefghijklmnopqrstuvwxyz"
PROMPT = tuple(range(20))


@pytest.fixture
def scripted() -> ScriptedEngine:
    return ScriptedEngine(texts=(ALPHABET,))


def lora(engine: ScriptedEngine, sha256: str) -> Lora:
    """An adapter of one module; the scripted engine looks at its name alone."""
    module, (n_out, n_in) = next(iter(BASE.modules.items()))
    pair = (np.ones((2, n_in), np.float32), np.ones((n_out, 2), np.float32))
    return engine.load_lora(compose([LoraWeights(sha256, 2.0, {module: pair})], engine.lora_dtype))


def prefilled(engine: ScriptedEngine, under: Lora | None) -> ScriptedCache:
    cache = engine.new_cache(under)
    engine.prefill(cache, Tokens(PROMPT))
    return cache


def written(engine: ScriptedEngine, under: Lora | None) -> str:
    plan = DecodePlan(last_token=1, n_rows=1, sampling=SamplingParams(), seed=0)
    decoder = engine.decode(prefilled(engine, under), plan)
    return engine.tokenizer.decode([decoder.step().tokens[0] for _ in ALPHABET])


def test_scripted_text_depends_on_adapters_and_factors(scripted: ScriptedEngine) -> None:
    first, second = lora(scripted, "a" * 64), lora(scripted, "b" * 64)
    sets = (None, first, second, scripted.rescale(first, (0.5,)))
    texts = [written(scripted, under) for under in sets]

    assert len(set(texts)) == 4
    assert texts[0] == written(scripted, scripted.rescale(first, (0.0,))) == ALPHABET
    assert {"".join(sorted(text)) for text in texts} == {ALPHABET}


def test_scripted_cache_fails_when_its_adapters_change(scripted: ScriptedEngine) -> None:
    first, second = lora(scripted, "a" * 64), lora(scripted, "b" * 64)
    fork = scripted.fork(prefilled(scripted, first), n_tokens=10)
    assert fork.lora == first
    fork.lora = second

    with pytest.raises(EngineFailed, match="other adapters"):
        scripted.prefill(fork, Tokens(PROMPT[:1]))
    scripted.trim(fork, 0)
    scripted.prefill(fork, Tokens(PROMPT[:1]))
