"""Mirostat against the paper's formulas, and its promise: the surprise of a text stays near what was asked for."""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pushkin_runtime.engines.base import DecodePlan
from pushkin_runtime.engines.host_sampler import HostSampler
from pushkin_runtime.mirostat import N_ESTIMATE, Mirostat, n_within
from pushkin_runtime.runtime import Runtime
from pushkin_runtime.sampler_stages import LLAMA_ORDER, active_stages
from pushkin_runtime.sampling import candidates
from pushkin_runtime.sampling_types import SamplingOverrides, SamplingParams
from pushkin_runtime.types import Done, Event, Failed, GenerationRequest

VOCAB = 50_000


@given(st.floats(0.2, 3.0).filter(lambda s: abs(s - 1) > 0.01), st.floats(2.0, 12.0))
def test_where_zipf_s_law_holds_what_is_kept_is_as_surprising_as_allowed(
    s: float, mu: float
) -> None:
    """Up to the paper's one approximation, of the sum of the weights by their integral."""
    weights = np.arange(1, VOCAB + 1) ** -s
    surprise = -np.log2(weights / weights.sum())
    integral = (VOCAB ** (1 - s) - 1) / (1 - s)
    limit = mu + math.log2(weights.sum() / integral)
    k = n_within(surprise[:N_ESTIMATE], mu, VOCAB)

    assert k == 1 or surprise[k - 1] <= limit + 1e-6
    assert k == VOCAB or surprise[k] >= limit - 1e-6


def test_the_number_kept_follows_the_paper_s_formula() -> None:
    probabilities = np.array([0.5, 0.2, 0.15, 0.1, 0.05])
    t = [math.log((i + 2) / (i + 1)) for i in range(4)]
    b = [math.log(probabilities[i] / probabilities[i + 1]) for i in range(4)]
    s = sum(x * y for x, y in zip(t, b, strict=True)) / sum(x * x for x in t)

    for mu in (0.5, 1.0, 2.0, 3.0, 4.0):
        k = ((s - 1) * 2**mu / (1 - 1000 ** (1 - s))) ** (1 / s)
        assert n_within(-np.log2(probabilities), mu, 1000) == max(1, int(k))


@pytest.mark.parametrize("mu", [-1e6, -1.0, 0.0, 5.0, 1e6])
@pytest.mark.parametrize("surprise", [[1.0, 1.0], [0.0, 1022.0], [3.0] * 100, [1.0, 2.0, 2.0]])
def test_no_distribution_and_no_limit_breaks_the_estimate(surprise: list[float], mu: float) -> None:
    assert 1 <= n_within(np.array(surprise), mu, VOCAB) <= VOCAB


@given(
    st.lists(st.floats(-20, 20, width=32), min_size=1, max_size=40),
    st.sampled_from([1, 2]),
    st.floats(0, 20),
    st.floats(0, 100),
)
def test_the_likeliest_is_always_kept(
    logits: list[float], version: int, tau: float, eta: float
) -> None:
    params = SamplingParams(mirostat=version, mirostat_tau=tau, mirostat_eta=eta)
    mirostat = Mirostat(params)
    row = candidates(np.array(logits, np.float32), params)
    for _ in range(5):
        left = mirostat.cut(row, len(logits))
        assert int(row.tokens[row.probabilities.argmax()]) in left.tokens
        assert left.probabilities.sum() == pytest.approx(1.0)
        assert (np.diff(left.tokens) > 0).all()
        mirostat.observe(left, int(left.tokens[-1]))
    assert math.isfinite(mirostat.mu)


def test_only_the_temperature_runs_beside_it() -> None:
    logits = np.log(np.array([0.5, 0.3, 0.2], np.float32))
    others: dict[str, Any] = {
        "top_k": 1,
        "min_p": 0.9,
        "dry_multiplier": 1.0,
        "dynatemp_range": 1.0,
    }
    params = SamplingParams(mirostat=2, temperature=2.0, samplers=LLAMA_ORDER, **others)
    flat = np.sqrt([0.5, 0.3, 0.2])

    assert active_stages(params) == ("temperature",)
    np.testing.assert_allclose(
        candidates(logits, params).probabilities, flat / flat.sum(), rtol=1e-5
    )
    assert active_stages(SamplingParams(mirostat=1, dynatemp_range=1.0)) == ()


def test_each_row_has_a_limit_of_its_own() -> None:
    """What is left at each step are the tokens within 2 tau + eta x the sum of (tau - surprise) of that row."""
    tau, eta, n_tokens = 2.0, 0.7, 50
    params = SamplingParams(mirostat=2, mirostat_tau=tau, mirostat_eta=eta)
    logits = np.random.default_rng(0).normal(scale=2, size=n_tokens).astype(np.float32)
    whole = candidates(logits, SamplingParams(min_p=0.0))
    surprise = -np.log2(whole.probabilities)
    sampler = HostSampler(
        DecodePlan(
            last_token=0,
            n_rows=3,
            sampling=params,
            seed=1,
            n_probs=n_tokens,
            post_sampling_probs=True,
        )
    )
    mu = np.full(3, 2 * tau)
    for _ in range(30):
        step = sampler.step(np.tile(logits, (3, 1)))
        for row, detail in enumerate(step.details):
            assert {token for token, _ in detail.top} == set(np.flatnonzero(surprise <= mu[row]))
            assert detail.logprob is not None
            mu[row] += eta * (tau + detail.logprob / math.log(2))
    assert len(set(mu.tolist())) == 3


@pytest.fixture
def mean_surprise(start_runtime: Callable[..., Runtime], tiny_model: Path) -> Callable[..., float]:
    """Of a long text of the tiny model, in bits a token, among those that were left to choose from."""
    runtime = start_runtime(tiny_model, engine="torch")

    def measure(**sampling: Any) -> float:
        ended: Future[Done] = Future()

        def sink(event: Event) -> None:
            match event:
                case Done():
                    ended.set_result(event)
                case Failed(error):
                    ended.set_exception(error)

        runtime.submit(
            GenerationRequest(
                request_id="mirostat",
                task="continue",
                text="The old house stood by the river",
                raw=True,
                max_tokens=N_LONG,
                ignore_eos=True,
                sampling=SamplingOverrides(seed=5, samplers=("temperature",), **sampling),
                adapters=(),
                n_probs=1,
                post_sampling_probs=True,
            ),
            sink,
        )
        [choice] = ended.result(timeout=120).result.choices
        assert len(choice.tokens) == N_LONG
        return -sum(t.logprob or 0.0 for t in choice.tokens) / N_LONG / math.log(2)

    return measure


N_LONG = 300
ETA = 0.3


@pytest.mark.parametrize(("version", "tau"), [(1, 3.0), (2, 1.5)])
def test_the_surprise_of_a_long_text_is_what_was_asked_for(
    mean_surprise: Callable[..., float], version: int, tau: float
) -> None:
    """The mean is off by exactly (way of the limit) / (eta x tokens). The limit begins at 2 tau, and has no reason to go
    further than the 14 bits or so by which the rarest of 512 tokens surprises: 14 / (0.3 x 300) = 0.16 bits.
    """
    surprise = mean_surprise(mirostat=version, mirostat_tau=tau, mirostat_eta=ETA)

    assert surprise == pytest.approx(tau, abs=14 / (ETA * N_LONG))


def test_without_it_the_surprise_is_the_model_s_own(mean_surprise: Callable[..., float]) -> None:
    assert abs(mean_surprise() - 1.5) > 1.0
