"""The prompt cache changes how fast an answer comes, never what it is."""

from __future__ import annotations

import random
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pushkin_runtime.engines.scripted_engine import ScriptedCache, ScriptedEngine
from pushkin_runtime.prompt import build_prompt
from pushkin_runtime.prompt_cache import MAX_ENDS, CacheKey, Prefix, PromptCache
from pushkin_runtime.runtime import Runtime
from pushkin_runtime.sampling_types import SamplingOverrides
from pushkin_runtime.types import AdapterRef, Done, GenerationRequest

GREEDY = SamplingOverrides(temperature=0.0)
KEY = CacheKey("base", (), 0)


def filled(n_tokens: int, *ends: int) -> Prefix:
    """A cache of so many tokens, with the logits after some of its lengths."""
    return Prefix(ScriptedCache(n_tokens), {n: np.full(8, n, np.float32) for n in ends})


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
    assert back.usage.cached_tokens == back.usage.prompt_tokens  # its first token was known


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
    assert cache.take(KEY, tuple(range(11))).n_tokens == 10


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
    assert cache.take(KEY, tuple(range(300, 311))).n_tokens == 10


def test_the_last_token_is_read_again_unless_the_logits_after_it_are_known() -> None:
    cache = PromptCache(ScriptedEngine(), 1 << 30)
    cache.put(KEY, tuple(range(30)), filled(30, 20))

    assert cache.take(KEY, tuple(range(25))).n_tokens == 24

    cache.clear()
    cache.put(KEY, tuple(range(30)), filled(30, 20))
    known = cache.take(KEY, tuple(range(20)))

    assert known.n_tokens == 20
    assert known.logits is not None
    assert known.logits[0] == 20


def test_logits_after_what_is_forgotten_are_forgotten_and_a_copy_has_its_own() -> None:
    cache = PromptCache(ScriptedEngine(), 1 << 30)
    cache.put(KEY, tuple(range(300)), filled(300, 3, 200))

    fork = cache.take(KEY, (0, 1, 2, 77))
    assert list(fork.ends) == [3]
    trimmed = cache.take(KEY, (*range(290), 5))
    assert list(trimmed.ends) == [3, 200]
    cache.put(KEY, tuple(range(290)), trimmed)
    assert list(cache.take(KEY, (*range(150), *range(250, 300))).ends) == [3]


def test_what_is_computed_again_is_kept_once() -> None:
    """A self-test that trusts no cache must not push the user's texts out, half a minute after half a minute."""
    cache = PromptCache(ScriptedEngine(), 1 << 30)
    cache.put(KEY, tuple(range(40)), filled(40))
    for _ in range(200):
        cache.put(KEY, (1, 2, 3), filled(3))

    assert cache.n_entries == 2
    assert cache.take(KEY, tuple(range(41))).n_tokens == 40


def test_remembered_logits_are_few_and_count_as_memory() -> None:
    prefix = filled(10)
    for n_tokens in range(20):
        prefix.cache = ScriptedCache(n_tokens)
        prefix.remember(np.zeros(1024, np.float32))
    cache = PromptCache(ScriptedEngine(), 1 << 30)
    cache.put(KEY, tuple(range(19)), prefix)

    assert list(prefix.ends) == list(range(20 - MAX_ENDS, 20))
    assert cache.n_bytes == 19 * 1024 + MAX_ENDS * 4096


def test_another_thread_may_ask_for_its_size() -> None:
    cache = PromptCache(ScriptedEngine(), 1 << 30)
    failed: list[RuntimeError] = []
    is_over = threading.Event()

    def ask() -> None:
        while not is_over.is_set():
            try:
                assert cache.n_bytes >= 0
            except RuntimeError as error:  # changed while it was gone through
                failed.append(error)
                return

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    asking = threading.Thread(target=ask)
    asking.start()
    try:
        for number in range(1000):
            tokens = (number, *range(7))
            cache.put(KEY, tokens, filled(8, 4, 8))
            cache.take(KEY, tokens).remember(np.zeros(8, np.float32))
            cache.put(KEY, (*tokens, number), filled(9, 9))
    finally:
        is_over.set()
        asking.join()
        sys.setswitchinterval(interval)
    assert not failed


def test_a_keystroke_inside_a_word_runs_the_model_for_no_token_before_the_first(
    tiny_model: Path, start_runtime: Callable[..., Runtime], generate: Callable[..., Done]
) -> None:
    """The part of a word is healed away, so what was read before is the whole prompt."""
    runtime = start_runtime(tiny_model, engine="torch")
    text = "The old house stood by the river, and nobody had lived in it"
    n_same = 0
    read: set[tuple[int, ...]] = set()
    for n_chars in range(30, len(text) + 1):
        request = GenerationRequest(request_id="", task="continue", text=text[:n_chars])
        prompt = build_prompt(request, runtime.tokenizer(), n_context=512, max_tokens=1)
        usage = generate(runtime, text=text[:n_chars], max_tokens=1).result.usage
        assert (usage.cached_tokens == usage.prompt_tokens) == (prompt.tokens in read)
        n_same += prompt.tokens in read
        read.add(prompt.tokens)

    assert n_same > 10


@pytest.mark.parametrize("engine", ["torch", "mlx"])
def test_a_known_first_token_changes_nothing_that_is_told(
    engine: str,
    tiny_model: Path,
    start_runtime: Callable[..., Runtime],
    generate: Callable[..., Done],
) -> None:
    """Text, seeds, alternatives and probabilities, asked for once when nothing is known and once when all is."""
    runtime = start_runtime(tiny_model, engine=engine)
    wishes: list[dict[str, Any]] = [
        {"n": 3},
        {"n_probs": 4, "return_tokens": True},
        {"n_probs": 4, "post_sampling_probs": True},
        {"n": 3, "distinct": False, "return_tokens": True},
        {"suffix": " and the winter."},
        {"raw": True, "max_tokens": 1},
    ]
    for number, wish in enumerate(wishes):
        fields = {
            "text": f"The old house {number} stood by the riv",
            "max_tokens": 8,
            "sampling": SamplingOverrides(seed=number),
            **wish,
        }
        fresh = generate(runtime, **fields).result
        known = generate(runtime, **fields).result

        assert fresh.usage.cached_tokens < fresh.usage.prompt_tokens
        assert known.usage.cached_tokens == known.usage.prompt_tokens
        assert _told(known) == _told(fresh)


def _told(result: Any) -> Any:
    """What the client sees, rounded as far as a pass over one token differs from one over several."""
    return [
        (
            choice.text,
            choice.finish_reason,
            pytest.approx(choice.score, abs=1e-3),
            [
                (token.token, pytest.approx(token.logprob, abs=1e-3), [t for t, _ in token.top])
                for token in choice.tokens
            ],
        )
        for choice in result.choices
    ]
