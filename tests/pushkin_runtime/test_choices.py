"""Alternatives, seeds and the text after the caret."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pushkin_runtime.choices import Draft, rank, without_near_duplicates
from pushkin_runtime.engines.scripted_engine import ScriptedEngine
from pushkin_runtime.runtime import Runtime
from pushkin_runtime.sampling_types import SamplingOverrides
from pushkin_runtime.types import Delta, Done, GenerationRequest

Start = Callable[..., Runtime]
Generate = Callable[..., Done]


def test_rank_puts_the_best_first_and_empty_drafts_last() -> None:
    drafts = [Draft(0, "", "stop", 0.0), Draft(1, "a", "stop", -3.0), Draft(2, "b", "stop", -1.0)]

    assert [d.index for d in rank(drafts)] == [2, 1, 0]


def test_case_and_spacing_do_not_make_a_draft_new() -> None:
    texts = ["тихо шёл снег", "Тихо  шёл снег ", "тихо шёл дождь всю ночь"]
    drafts = [Draft(i, text, "stop", -1.0) for i, text in enumerate(texts)]

    assert [d.index for d in without_near_duplicates(drafts)] == [0, 2]


def test_drafts_to_choose_among_are_shown_only_once_chosen(
    start_runtime: Start, recorder: Any
) -> None:
    runtime = start_runtime(scripted=ScriptedEngine(texts=["один", "два", "три"]))
    sink = recorder()
    request = GenerationRequest(
        request_id="r", task="continue", text="а", max_tokens=20, quality="balanced"
    )
    runtime.submit(request, sink)
    done = sink.finish()

    deltas = [event for event in sink.events if isinstance(event, Delta)]
    assert [(d.index, d.text) for d in deltas] == [(0, done.result.choices[0].text)]


def test_alternatives_come_from_one_prefill_without_near_duplicates(
    start_runtime: Start, generate: Generate
) -> None:
    engine = ScriptedEngine(texts=[" тихо шёл снег", " Тихо  шёл снег", " вдруг стало темно"])
    runtime = start_runtime(scripted=engine)
    n_prefills = engine.n_prefills
    done = generate(runtime, text="Вечером", n=3, max_tokens=60)

    assert [(c.index, c.text) for c in done.result.choices] == [
        (0, " тихо шёл снег"),
        (2, " вдруг стало темно"),
    ]
    assert engine.n_prefills == n_prefills + 1


def test_a_seed_repeats_and_is_reported(
    tiny_model: Path, start_runtime: Start, generate: Generate
) -> None:
    runtime = start_runtime(tiny_model, engine="torch")
    free = generate(runtime, text="The old house", max_tokens=12)
    seed = free.result.sampling.seed
    again = generate(
        runtime, text="The old house", max_tokens=12, sampling=SamplingOverrides(seed=seed)
    )
    other = generate(
        runtime, text="The old house", max_tokens=12, sampling=SamplingOverrides(seed=1)
    )

    assert seed is not None
    assert again.result.choices[0].text == free.result.choices[0].text
    assert other.result.choices[0].text != free.result.choices[0].text


@pytest.mark.parametrize("max_tokens", [1, 2, 7])
def test_a_healed_token_is_not_counted_and_the_limit_holds(
    tiny_model: Path, start_runtime: Start, generate: Generate, max_tokens: int
) -> None:
    runtime = start_runtime(tiny_model, engine="torch")
    for seed in range(12):
        result = generate(
            runtime,
            text="The old hou",
            max_tokens=max_tokens,
            sampling=SamplingOverrides(seed=seed),
        ).result

        n_new = result.usage.completion_tokens
        assert n_new <= max_tokens
        assert n_new == max_tokens or result.choices[0].finish_reason == "stop"


def test_suffix_picks_the_draft_that_leads_into_it(
    tiny_model: Path, start_runtime: Start, generate: Generate, recorder: Any
) -> None:
    """The choice must have the highest suffix likelihood among the drafts; recomputed here."""
    import numpy as np

    from pushkin_runtime.engines.base import EngineOptions
    from pushkin_runtime.engines.torch_engine import TorchEngine
    from pushkin_runtime.sampling import log_softmax_at

    runtime = start_runtime(tiny_model, engine="torch")
    text, suffix = "The old house stood by", " and the winter."
    fixed = SamplingOverrides(seed=3)
    drafts = generate(runtime, text=text, n=3, max_tokens=6, sampling=fixed).result.choices
    best = generate(runtime, text=text, suffix=suffix, max_tokens=6, sampling=fixed).result

    engine = TorchEngine(EngineOptions(model_dir=tiny_model))
    head = [engine.tokenizer.special_id(n) for n in ("<bos>", "<lang:en>", "<genre:prose>")]

    def likelihood(draft: str) -> float:
        alone = [*head, *engine.tokenizer.encode(text + draft)]
        both = [*head, *engine.tokenizer.encode(text + draft + suffix)]
        first = next(i for i, (a, b) in enumerate(zip([*alone, -1], both, strict=False)) if a != b)
        logits = engine.logits(engine.new_cache(), both[:-1])
        return float(
            np.mean([log_softmax_at(logits[i - 1], both[i]) for i in range(first, len(both))])
        )

    assert len(drafts) == 3
    assert len(best.choices) == 1
    assert best.choices[0].text == max((d.text for d in drafts), key=likelihood)
    assert best.choices[0].score == pytest.approx(likelihood(best.choices[0].text), abs=1e-3)


def test_a_draft_stops_where_the_text_after_the_caret_begins(
    start_runtime: Start, generate: Generate
) -> None:
    engine = ScriptedEngine(texts=[" the river, and the winter came. And more."], endless=True)
    runtime = start_runtime(scripted=engine)
    done = generate(runtime, text="It stood by", suffix=", and the winter was long.", max_tokens=60)

    [choice] = done.result.choices
    assert (choice.text, choice.finish_reason) == (" the river", "stop")


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_alternatives_begin_with_different_tokens_and_repeat_with_the_seed(
    tiny_model: Path, start_runtime: Start, generate: Generate, temperature: float
) -> None:
    runtime = start_runtime(tiny_model, engine="torch")
    fields: dict[str, Any] = {
        "text": "The old house stood by the river ",
        "max_tokens": 6,
        "return_tokens": True,
        "sampling": SamplingOverrides(seed=4, temperature=temperature, min_p=0.02),
    }
    five = generate(runtime, n=5, **fields).result.choices
    again = generate(runtime, n=5, **fields).result.choices
    [one] = generate(runtime, n=1, **fields).result.choices

    assert len({choice.tokens[0].token for choice in five}) == len(five) == 5
    assert [choice.text for choice in again] == [choice.text for choice in five]
    assert one.text == five[0].text


def test_independent_samples_may_begin_alike(
    tiny_model: Path, start_runtime: Start, generate: Generate
) -> None:
    """What the other dialects ask for: n draws from the same distribution, equal ones included."""
    runtime = start_runtime(tiny_model, engine="torch")
    choices = generate(
        runtime,
        text="The old house",
        n=5,
        max_tokens=3,
        distinct=False,
        sampling=SamplingOverrides(temperature=0.0),
    ).result.choices

    assert len(choices) == 5
    assert len({choice.text for choice in choices}) == 1
