"""Prompt lookup changes how fast an answer comes, never what it is nor how likely."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pushkin_runtime.engines.base import DecodePlan, Engine, Tokens
from pushkin_runtime.lookup import MAX_DRAFT, Drafter, LookupDecoder
from pushkin_runtime.runtime import Runtime
from pushkin_runtime.sampler_stages import LLAMA_ORDER
from pushkin_runtime.sampling_types import SamplingOverrides, SamplingParams
from pushkin_runtime.types import Done

PROMPT = tuple(np.random.default_rng(0).integers(4, 500, 24).tolist())


class CountingEngine:
    """An engine that notes what it was asked to read at once."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.passes: list[int] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def extend(self, cache: Any, tokens: Any, *, n_logits: int) -> Any:
        self.passes.append(len(tokens))
        return self._engine.extend(cache, tokens, n_logits=n_logits)


class FixedDrafter(Drafter):
    """Always the same guess, however wrong."""

    def __init__(self, guess: list[int], room: int) -> None:
        super().__init__(PROMPT, copied_from=None, room=room)
        self._guess = guess

    def draft(self) -> list[int]:
        return self._guess[: self.room - 1]


def known(engine: Engine, sampling: SamplingParams, seed: int = 0) -> tuple[Any, DecodePlan]:
    cache = engine.new_cache()
    engine.prefill(cache, Tokens(PROMPT[:-1]))
    [first] = engine.extend(cache, PROMPT[-1:], n_logits=1)
    return cache, DecodePlan(
        last_token=PROMPT[-1],
        n_rows=1,
        sampling=sampling,
        seed=seed,
        recent=PROMPT,
        first_logits=first,
    )


def plainly(engine: Engine, sampling: SamplingParams, n_steps: int, seed: int = 0) -> list[int]:
    cache, plan = known(engine, sampling, seed)
    decoder = engine.decode(cache, plan)
    tokens = [decoder.step().tokens[0] for _ in range(n_steps)]
    decoder.close()
    return tokens


@pytest.mark.parametrize(
    "sampling",
    [
        SamplingParams(temperature=0.0),
        SamplingParams(min_p=0.05),
        SamplingParams(min_p=0.02, repetition_penalty=1.3),
        SamplingParams(samplers=LLAMA_ORDER, dry_multiplier=2.0, dry_allowed_length=1),
        SamplingParams(mirostat=2, mirostat_tau=3.0, mirostat_eta=0.5),
    ],
)
@pytest.mark.parametrize("n_right", [0, 1, 3, 9])
def test_the_same_tokens_whatever_is_guessed(
    engine: Engine, sampling: SamplingParams, n_right: int
) -> None:
    """Guesses that are right for n tokens, then wrong, at every step; past the window of 16."""
    n_steps = 20
    expected = plainly(engine, sampling, n_steps)

    class Oracle(FixedDrafter):
        def draft(self) -> list[int]:
            at = n_steps - self.room  # tokens written so far
            return [*expected[at : at + n_right], 7, 8][: max(0, self.room - 1)]

    cache, plan = known(engine, sampling)
    decoder = LookupDecoder(engine, cache, plan, Oracle([], n_steps))
    tokens = []
    for n_written in range(1, n_steps + 1):
        tokens += decoder.step().tokens
        assert cache.n_tokens >= len(PROMPT) + n_written - 1
    decoder.close()

    assert tokens == expected
    assert cache.n_tokens == len(PROMPT) + n_steps - 1
    np.testing.assert_allclose(
        engine.logits(cache, tokens[-1:]),
        engine.logits(engine.new_cache(), [*PROMPT, *tokens])[-1:],
        atol=2e-5,
    )


@pytest.mark.parametrize("n_steps", [0, 1, 4])
def test_a_decoder_closed_in_the_middle_of_a_guess_leaves_what_was_told(
    reference_engine: Engine, n_steps: int
) -> None:
    greedy = SamplingParams(temperature=0.0)
    expected = plainly(reference_engine, greedy, 10)
    cache, plan = known(reference_engine, greedy)
    decoder = LookupDecoder(reference_engine, cache, plan, FixedDrafter(expected[1:], 10))
    tokens = [decoder.step().tokens[0] for _ in range(n_steps)]
    decoder.close()

    assert tokens == expected[:n_steps]
    assert cache.n_tokens == len(PROMPT) + max(0, n_steps - 1)


def test_the_distribution_is_the_models_whatever_is_guessed(reference_engine: Engine) -> None:
    """Chi-squared of the verified token against the model's probabilities, given the first token.

    The guess is one of the likely tokens, so that it is accepted in some of the draws and rejected in others.
    """
    sampling = SamplingParams(temperature=1.0, min_p=0.1)
    cache, plan = known(reference_engine, sampling)
    assert plan.first_logits is not None
    first = int(plan.first_logits.argmax())
    n_draws = 3000
    logits = reference_engine.logits(cache, [first])[0].astype(np.float64)
    logits = np.where(logits >= logits.max() + np.log(sampling.min_p), logits, -np.inf)
    probabilities = np.exp(logits - logits.max())
    probabilities /= probabilities.sum()
    likely = np.argsort(-probabilities)[: int((probabilities > 0).sum())]
    guess = int(likely[1])

    drawn: Counter[int] = Counter()
    for seed in range(n_draws):
        fork = reference_engine.fork(cache, n_tokens=len(PROMPT))
        one = DecodePlan(
            last_token=PROMPT[-1],
            n_rows=1,
            sampling=sampling,
            seed=seed,
            first_logits=plan.first_logits,
            first_allowed=np.array([first]),
        )
        decoder = LookupDecoder(reference_engine, fork, one, FixedDrafter([guess, 5], 8))
        assert decoder.step().tokens == (first,)
        drawn[decoder.step().tokens[0]] += 1

    expected = n_draws * probabilities[likely]
    observed = np.array([drawn[int(token)] for token in likely])
    assert observed.sum() == n_draws
    assert 0 < drawn[guess] < n_draws
    chi_squared = float(((observed - expected) ** 2 / expected).sum())
    n_free = len(likely) - 1
    assert n_free >= 2
    assert chi_squared < n_free + 4 * np.sqrt(2 * n_free)  # four standard deviations of chi-squared


def test_it_copies_on_from_where_it_stopped_and_comes_back_after_a_changed_word() -> None:
    text = list(range(100, 140))
    drafter = Drafter([1, 2, *text, 3], copied_from=2, room=60)
    for token in (100, 101):
        drafter.push(token)
    assert drafter.draft() == [102, 103, 104, 105, 106, 107]
    drafter.judge(6, 3)
    for token in (102, 103, 104, 9, 106):  # 105 was replaced
        drafter.push(token)

    assert drafter.draft()[:3] == [107, 108, 109]


def test_rows_are_never_guessed_and_nothing_is_without_a_match() -> None:
    drafter = Drafter([5, 6, -1, -1, 7], copied_from=None, room=20)
    drafter.push(9)
    assert drafter.draft() == []
    for token in (5, 6):
        drafter.push(token)
    assert drafter.draft() == []


def test_guessing_stops_when_it_does_not_pay_and_grows_when_it_does() -> None:
    bad, good = (Drafter([5, 6, 7, 8] * 30, copied_from=0, room=99) for _ in range(2))
    for drafter, share in ((bad, 0), (good, 1)):
        for _ in range(8):
            drafter.push(5)
            drafter.push(6)
            guess = drafter.draft()
            drafter.judge(len(guess), len(guess) * share)

    assert bad.is_off
    assert bad.draft() == []
    assert not good.is_off
    good.push(7)
    assert len(good.draft()) >= MAX_DRAFT - 1


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_rephrasing_is_the_same_with_and_without_and_takes_fewer_passes(
    tiny_model: Path,
    start_runtime: Callable[..., Runtime],
    generate: Callable[..., Done],
    temperature: float,
) -> None:
    from pushkin_runtime.engines.base import EngineOptions
    from pushkin_runtime.engines.torch_engine import TorchEngine

    engines = [CountingEngine(TorchEngine(EngineOptions(model_dir=tiny_model))) for _ in range(2)]
    texts = []
    for engine, tasks in zip(engines, (frozenset({"rephrase"}), frozenset()), strict=True):
        runtime = start_runtime(scripted=engine, lookup_tasks=tasks)
        result = generate(
            runtime,
            task="rephrase",
            text="The old house stood by the river, the old house stood by the river.",
            max_tokens=60,
            sampling=SamplingOverrides(temperature=temperature, seed=5),
            ignore_eos=True,
        ).result
        texts.append(result.choices[0].text)
        assert result.usage.completion_tokens == 60

    assert texts[0] == texts[1]
    assert any(n_tokens > 1 for n_tokens in engines[0].passes[1:])
