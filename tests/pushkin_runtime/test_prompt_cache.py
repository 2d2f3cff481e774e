"""The prompt cache changes how fast an answer comes, never what it is."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pushkin_runtime.engines.scripted_engine import ScriptedCache, ScriptedEngine
from pushkin_runtime.prompt_cache import CacheKey, PromptCache
from pushkin_runtime.runtime import Runtime
from pushkin_runtime.types import AdapterRef, Done, SamplingOverrides

GREEDY = SamplingOverrides(temperature=0.0)
KEY = CacheKey("base", (), 0)


def filled(n_tokens: int) -> ScriptedCache:
    return ScriptedCache(n_tokens)


def edits(text: str, n_edits: int, seed: int) -> list[str]:
    """A typist's states of a text: typing, deleting, rewriting in the middle, going back."""
    rng = random.Random(seed)
    words = [
        "the",
        "old",
        "house",
        "winter",
        "river",
        "снег",
        "дом",
        "река",
        "тихо",
        "никто",
        "ёж",
        "🦊",
        "and,",
    ]
    states: list[str] = []
    for _ in range(n_edits):
        kind = rng.random()
        at = rng.randrange(len(text) + 1)
        if kind < 0.55:
            text += rng.choice(["", " "]) + rng.choice(words)
        elif kind < 0.75:
            text = text[: max(20, len(text) - rng.randrange(1, 12))]
        elif kind < 0.9:
            text = text[:at] + rng.choice(words) + text[at:]
        elif states:
            text = rng.choice(states)
        states.append(text)
    return states


@pytest.mark.parametrize("engine", ["torch", "mlx"])
def test_greedy_text_is_the_same_with_and_without_the_cache(
    engine: str,
    tiny_model: Path,
    start_runtime: Callable[..., Runtime],
    generate: Callable[..., Done],
) -> None:
    """Random edits, past the 16-token window and past a context of 200 (so its start is cut)."""
    start = "The old house stood by the river. Старый дом стоял у реки. " * 4
    n_edits = 80 if engine == "torch" else 15
    options: dict[str, Any] = {"engine": engine, "context_length": 200, "prefill_chunk": 32}
    cached = start_runtime(tiny_model, **options)
    fresh = start_runtime(tiny_model, **options, kv_budget_bytes=0)
    n_prompt = n_cached = 0
    for text in edits(start, n_edits, seed=1):
        with_cache = generate(cached, text=text, max_tokens=4, sampling=GREEDY).result
        without = generate(fresh, text=text, max_tokens=4, sampling=GREEDY).result
        assert without.usage.cached_tokens == 0
        assert with_cache.choices == without.choices or _only_scores_differ(with_cache, without)
        n_prompt += with_cache.usage.prompt_tokens
        n_cached += with_cache.usage.cached_tokens

    assert n_cached / n_prompt > 0.5


def _only_scores_differ(a: Any, b: Any) -> bool:
    pairs = zip(a.choices, b.choices, strict=True)
    return all(
        (x.text, x.finish_reason) == (y.text, y.finish_reason)
        and x.score == pytest.approx(y.score, abs=1e-3)
        for x, y in pairs
    )


def test_autocomplete_rephrase_autocomplete_prefills_nothing_again(
    tiny_model: Path, start_runtime: Callable[..., Runtime], generate: Callable[..., Done]
) -> None:
    runtime = start_runtime(tiny_model, engine="torch")
    text = "The old house stood by the river, and nobody had lived in it"
    first = generate(runtime, text=text, max_tokens=3).result
    generate(runtime, task="rephrase", text="The old house", max_tokens=3)
    back = generate(runtime, text=text, max_tokens=3).result

    assert first.usage.cached_tokens == 0
    assert back.usage.cached_tokens == back.usage.prompt_tokens - 1


def test_another_adapter_persona_or_base_shares_nothing() -> None:
    cache = PromptCache(ScriptedEngine(), 1 << 30)
    cache.put(KEY, tuple(range(10)), filled(10))
    others = [
        CacheKey("other", (), 0),
        CacheKey("base", (AdapterRef("a"),), 0),
        CacheKey("base", (AdapterRef("a", 0.5),), 0),
        CacheKey("base", (), 1),
    ]

    assert [cache.take(key, tuple(range(10))).n_tokens for key in others] == [0] * 4
    assert cache.take(KEY, tuple(range(10))).n_tokens == 10


def test_the_longest_prefix_is_taken_and_a_small_edit_reuses_it_in_place() -> None:
    cache = PromptCache(ScriptedEngine(), 1 << 30)
    short, long = filled(5), filled(20)
    cache.put(KEY, (1, 2, 3, 9, 9), short)
    cache.put(KEY, tuple(range(1, 21)), long)

    taken = cache.take(KEY, (*range(1, 16), 99))

    assert taken is long
    assert taken.n_tokens == 15
    assert cache.n_entries == 1


def test_a_distant_prefix_is_copied_and_its_entry_stays() -> None:
    cache = PromptCache(ScriptedEngine(), 1 << 30)
    cache.put(KEY, tuple(range(300)), filled(300))

    taken = cache.take(KEY, (0, 1, 2, 77))

    assert taken.n_tokens == 3
    assert cache.n_entries == 1


def test_least_recently_used_goes_first_beyond_the_byte_budget() -> None:
    cache = PromptCache(ScriptedEngine(), budget_bytes=25 * 1024)
    cache.put(KEY, tuple(range(100, 110)), filled(10))
    cache.put(KEY, tuple(range(200, 210)), filled(10))
    cache.put(KEY, tuple(range(300, 310)), filled(10))

    assert cache.n_bytes <= 25 * 1024
    assert cache.take(KEY, tuple(range(100, 110))).n_tokens == 0
    assert cache.take(KEY, tuple(range(300, 310))).n_tokens == 10
