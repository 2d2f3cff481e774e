"""After an edit in the middle a draft has what follows moved; nothing else ever sees what was moved."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pushkin_runtime.cache_reuse import MAX_EDIT, Run, min_run_of, reusable_runs
from pushkin_runtime.engines.base import EngineOptions, Tokens
from pushkin_runtime.engines.scripted_engine import ScriptedCache, ScriptedEngine
from pushkin_runtime.engines.torch_engine import TorchEngine
from pushkin_runtime.prompt_cache import CacheKey, Prefix, PromptCache
from pushkin_runtime.renewal import RENEW_CHUNK, Renewal
from pushkin_runtime.runtime import Runtime
from pushkin_runtime.sampling import resolve
from pushkin_runtime.types import Done, GenerationRequest, SamplingOverrides

Start = Callable[..., Runtime]
Generate = Callable[..., Done]
KEY = CacheKey("base", (), 0)
WORDS = [
    "the",
    "old",
    "house",
    "stood",
    "by",
    "the",
    "river",
    "and",
    "nobody",
    "had",
    "lived",
    "in",
    "it",
    "since",
    "that",
    "winter",
    "дом",
    "стоял",
    "у",
    "реки",
    "и",
    "никто",
    "не",
    "жил",
    "в",
    "нём",
    "с",
    "той",
    "зимы",
    "когда",
    "выпал",
    "большой",
    "снег",
]
MIN_RUN = 64


def tokens(n: int, seed: int = 0) -> tuple[int, ...]:
    return tuple(np.random.default_rng(seed).integers(4, 500, n).tolist())


def runs(old: tuple[int, ...], new: tuple[int, ...], n_same: int = 0, **rest: int) -> Any:
    wanted = {"min_run": MIN_RUN, "after": 8, "before": 16, **rest}
    return reusable_runs(np.array(old), np.array(new), n_same=n_same, **wanted)


def prose(n_words: int) -> str:
    chance = np.random.default_rng(7)
    return " ".join(chance.choice(WORDS, n_words).tolist())


# -- what may be moved ------------------------------------------------------------------------------


@pytest.mark.parametrize("n_lost", [0, 1, 5, MAX_EDIT])
@pytest.mark.parametrize("n_put", [0, 1, 5, MAX_EDIT])
def test_a_run_is_what_both_texts_share_behind_an_edit(n_lost: int, n_put: int) -> None:
    old = tokens(400)
    new = (*old[:100], *tokens(n_put, seed=1), *old[100 + n_lost :])
    if old == new:
        assert runs(old, new) == ()
        return
    [run] = runs(old, new)

    assert run.at - run.source == n_put - n_lost
    assert new[run.at : run.end] == old[run.source : run.source + run.n_tokens]
    assert 100 + n_put + 8 <= run.at <= 100 + n_put + 8 + 2  # an equal token by chance
    assert run.end == len(new) - 16


def test_two_edits_leave_two_runs_and_what_is_known_anyway_is_not_moved() -> None:
    old = tokens(600)
    new = (*old[:100], *old[103:300], 7, 7, *old[300:])
    first, second = runs(old, new)

    assert first == Run(source=111, at=108, n_tokens=297 - 108)
    assert (second.source, second.at, second.end) == (308, 307, len(new) - 16)
    assert runs(old, new, n_same=290) == (second,)


def test_a_large_edit_or_a_short_rest_is_read_again() -> None:
    old = tokens(400)
    far = (*old[:100], *tokens(MAX_EDIT + 1, seed=1), *old[100:])
    much = (*old[:100], *old[100 + MAX_EDIT + 1 :])

    assert runs(old, far) == runs(old, much) == ()
    assert runs(old, (*old[: 400 - MIN_RUN - 20], 7, *old[400 - MIN_RUN - 20 :])) == ()
    assert runs(old, tokens(400, seed=3)) == ()


@pytest.mark.parametrize(
    "wish",
    [
        {"task": "story"},
        {"task": "rephrase"},
        {"raw": True},
        {"prompt_tokens": (5, 6)},
        {"suffix": " and the winter."},
        {"n_probs": 2},
        {"ahead": True},
        {"sampling": SamplingOverrides(seed=3)},
        {"sampling": SamplingOverrides(temperature=0.0)},
        {"cache_reuse": 0},
    ],
)
def test_what_can_be_had_again_or_is_scored_is_exact(wish: dict[str, Any]) -> None:
    draft = GenerationRequest(request_id="", task="continue", text="a")
    asked = replace(draft, **wish)
    sampling = resolve(asked.task, asked.sampling, persona_min_p=None, fresh_seed=1)
    drawn = resolve(draft.task, draft.sampling, persona_min_p=None, fresh_seed=1)

    assert min_run_of(draft, drawn, 256) == 256
    assert min_run_of(asked, sampling, 256) == 0
    assert min_run_of(replace(asked, cache_reuse=9), sampling, 256) == 9


# -- the cache ---------------------------------------------------------------------------------------


def scripted(*held: tuple[int, ...]) -> PromptCache:
    cache = PromptCache(ScriptedEngine(), 1 << 30)
    for each in held:
        cache.put(KEY, each, Prefix(ScriptedCache(len(each), None, [None] * len(each))))
    return cache


def test_gaps_are_what_is_not_known_and_an_end_before_they_are_filled_leaves_the_beginning() -> (
    None
):
    old = tokens(400)
    new = (*old[:100], 7, 8, *old[103:], 9)
    cache = scripted(old)
    taken = cache.take(KEY, new, min_run=MIN_RUN)

    assert taken.gaps == [range(100, 102 + 32)]
    assert taken.n_tokens == len(new) - 64
    assert taken.n_known == taken.n_tokens - 34
    assert taken.n_exact == 102 + 32
    cache.put(KEY, new, taken)
    assert cache.take(KEY, new).n_tokens == 100


def test_the_exact_never_get_what_was_moved_and_drafts_prefer_what_was_not() -> None:
    old = tokens(400)
    new = (*old[:100], 7, 8, *old[103:])
    cache = scripted(old)
    taken = cache.take(KEY, new, min_run=MIN_RUN)
    taken.gaps.clear()
    cache.put(KEY, new, taken)

    assert cache.take(KEY, new).n_tokens == 134  # a copy
    again = cache.take(KEY, new, min_run=MIN_RUN)
    assert (again.n_tokens, again.n_exact) == (len(new) - 64, 134)
    cache.put(KEY, new, again)
    exact = Prefix(ScriptedCache(len(new) - 70))
    cache.put(KEY, new, exact)
    assert cache.take(KEY, new, min_run=MIN_RUN) is exact


@pytest.mark.parametrize("n_left", [0, 300])
def test_what_is_cut_back_to_the_exact_part_is_exact(n_left: int) -> None:
    prefix = Prefix(ScriptedCache(400), n_exact=390)
    cache = PromptCache(ScriptedEngine(), 1 << 30)
    cache.put(KEY, tokens(400), prefix)
    taken = cache.take(KEY, (*tokens(380 - n_left), 7))

    assert taken.is_exact


# -- through the runtime ------------------------------------------------------------------------------


def usage_after(runtime: Runtime, generate: Generate, **fields: Any) -> tuple[int, int]:
    usage = generate(runtime, max_tokens=4, **fields).result.usage
    return usage.cached_tokens, usage.prompt_tokens


@pytest.mark.parametrize("engine", ["torch", "mlx"])
def test_going_on_after_an_edit_reads_little_and_greedy_text_stays_that_of_no_cache(
    engine: str, tiny_model: Path, start_runtime: Start, generate: Generate
) -> None:
    runtime = start_runtime(tiny_model, engine=engine, cache_reuse=MIN_RUN)
    fresh = start_runtime(tiny_model, engine=engine, kv_budget_bytes=0)
    words = prose(260).split()
    text = " ".join(words)
    edited = " ".join((*words[:12], *words[13:]))
    greedy = {"sampling": SamplingOverrides(temperature=0.0), "max_tokens": 8}
    generate(runtime, text=text, max_tokens=1)
    n_known, n_prompt = usage_after(runtime, generate, text=edited)
    n_exact, _ = usage_after(runtime, generate, text=edited, sampling=greedy["sampling"])

    assert n_prompt - n_known <= 64 + 32 + 10
    assert n_exact < n_known
    for each in (edited, edited + " and", text):
        ours = generate(runtime, text=each, **greedy).result
        assert ours.choices[0].text == generate(fresh, text=each, **greedy).result.choices[0].text


def test_the_next_keystroke_goes_on_from_what_was_moved(
    tiny_model: Path, start_runtime: Start, generate: Generate
) -> None:
    runtime = start_runtime(tiny_model, engine="torch", cache_reuse=MIN_RUN)
    words = prose(260).split()
    generate(runtime, text=" ".join(words), max_tokens=1)
    edited = " ".join((*words[:12], *words[13:])) + " the"
    usage_after(runtime, generate, text=edited)
    n_known, n_prompt = usage_after(runtime, generate, text=edited + " win")

    assert n_prompt - n_known <= 6


def test_without_the_setting_everything_behind_an_edit_is_read_again(
    tiny_model: Path, start_runtime: Start, generate: Generate
) -> None:
    runtime = start_runtime(tiny_model, engine="torch")
    words = prose(260).split()
    generate(runtime, text=" ".join(words), max_tokens=1)
    n_known, n_prompt = usage_after(runtime, generate, text=" ".join((*words[:12], *words[13:])))

    assert n_known < n_prompt / 2


def test_an_end_between_two_gaps_leaves_a_cache_that_holds_what_it_says(
    start_runtime: Start, recorder: Any, generate: Generate
) -> None:
    permits = threading.Semaphore(1000)
    runtime = start_runtime(
        scripted=ScriptedEngine(texts=["abc"], permits=permits),
        cache_reuse=MIN_RUN,
        prefill_chunk=8,
    )
    text = prose(60)
    generate(runtime, text=text, max_tokens=1)
    while permits.acquire(blocking=False):
        pass
    sink = recorder()
    edited = text[:80] + text[90:]
    request = GenerationRequest(request_id="x", task="continue", text=edited, max_tokens=1)
    runtime.submit(request, sink)
    sink.next()  # started
    runtime.cancel("x")
    permits.release(1000)
    sink.finish()
    n_known, n_prompt = usage_after(runtime, generate, text=edited, raw=True)

    assert n_known <= len(edited[:90].encode()) < n_prompt - 64


# -- renewal ------------------------------------------------------------------------------------------


class NoAdapters:
    """The part of a pool that bare generations need."""

    def is_ready(self, wanted: Any) -> bool:
        return True

    def acquire(self, wanted: Any) -> None:
        return None

    def release(self, wanted: Any) -> None:
        return None


def test_idle_time_makes_it_exact_again_a_few_tokens_at_a_time(tiny_model: Path) -> None:
    engine = TorchEngine(EngineOptions(model_dir=tiny_model))
    cache = PromptCache(engine, 1 << 30)
    old = tokens(300)
    new = (*old[:40], *old[44:])
    source = engine.new_cache()
    engine.prefill(source, Tokens(old))
    cache.put(KEY, old, Prefix(source))
    taken = cache.take(KEY, new, min_run=MIN_RUN)
    for gap in taken.gaps:
        engine.reread(taken.cache, gap.start, new[gap.start : gap.stop])
    taken.gaps.clear()
    engine.prefill(taken.cache, Tokens(new[taken.n_tokens :]))
    n_exact = taken.n_exact
    assert n_exact is not None
    cache.put(KEY, new, taken)
    renewal = Renewal(cache, NoAdapters())  # type: ignore[arg-type]  # bare entries need no more
    renewal.want(KEY, None)  # type: ignore[arg-type]
    n_steps = 0
    while renewal.idle_work():
        n_steps += 1

    assert n_steps == -(-(len(new) - n_exact) // RENEW_CHUNK)
    held = cache.take(KEY, (*new, 7))
    assert held.n_tokens == len(new)
    np.testing.assert_allclose(
        engine.logits(held.cache, [7]),
        engine.logits(engine.new_cache(), [*new, 7])[-1:],
        atol=2e-5,
    )
