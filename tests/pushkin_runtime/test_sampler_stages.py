"""Each stage of the sampler chain against what its paper or llama.cpp's documentation says."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from pushkin_runtime.dry import Penalties
from pushkin_runtime.sampler_stages import LLAMA_ORDER, Seen, active_stages
from pushkin_runtime.sampling import candidates, sampled_logprob, token_logprob
from pushkin_runtime.sampling_types import Sampler, SamplingParams

OFF: dict[str, Any] = {"min_p": 0.0, "samplers": LLAMA_ORDER}
rows = st.lists(st.floats(-20, 20, width=32), min_size=2, max_size=40).map(
    lambda values: np.array(values, dtype=np.float32)
)


def of(*probabilities: float) -> NDArray[np.float32]:
    return np.log(np.array(probabilities, dtype=np.float32))


def kept(logits: NDArray[np.float32], chance: float = 0.0, **params: Any) -> list[int]:
    chosen = candidates(logits, SamplingParams(**OFF | params), chance=chance)
    return chosen.tokens.tolist()


def seen(*tokens: int) -> Seen:
    return Seen(*np.unique(np.array(tokens), return_counts=True))


def after(logits: NDArray[np.float32], marks: Seen, **params: Any) -> NDArray[np.float64]:
    """The logits behind the distribution that is left, up to a constant."""
    chosen = candidates(logits, SamplingParams(**OFF | params), marks)
    out = np.log(chosen.probabilities)
    result: NDArray[np.float64] = out - out[-1]
    return result


def test_penalties_follow_their_formulas() -> None:
    logits = np.array([2.0, -2.0, 1.0, 0.0], dtype=np.float32)
    marks = seen(0, 0, 0, 1)

    np.testing.assert_allclose(
        after(logits, marks, repetition_penalty=2.0), [1.0, -4.0, 1.0, 0.0], atol=1e-6
    )
    np.testing.assert_allclose(
        after(logits, marks, presence_penalty=0.5, frequency_penalty=0.25),
        [2.0 - 0.5 - 0.75, -2.0 - 0.5 - 0.25, 1.0, 0.0],
        atol=1e-6,
    )


@given(rows, st.floats(1.01, 2.0))
def test_a_repetition_penalty_only_lowers_what_was_seen(
    logits: NDArray[np.float32], penalty: float
) -> None:
    logits = np.append(logits, np.float32(0.0))  # never seen, the constant to compare with
    marks = seen(*range(0, len(logits) - 1, 2))
    reduced = after(logits, marks, repetition_penalty=penalty)
    before = logits.astype(np.float64) - float(logits[-1])

    assert (reduced[marks.tokens] <= before[marks.tokens] + 1e-4).all()
    np.testing.assert_allclose(reduced[1:-1:2], before[1:-1:2], atol=1e-4)


def test_penalties_late_in_the_chain_touch_only_survivors() -> None:
    logits = np.array([3.0, 2.0, 1.0], dtype=np.float32)
    late: tuple[Sampler, ...] = ("top_k", "penalties")
    chosen = candidates(
        logits, SamplingParams(top_k=2, repetition_penalty=4.0, samplers=late), seen(0, 2)
    )

    assert chosen.tokens.tolist() == [0, 1]
    assert chosen.probabilities[1] > chosen.probabilities[0]


def test_top_n_sigma_keeps_n_standard_deviations() -> None:
    logits = np.array([10.0, 9.0, 0.0, 0.0], dtype=np.float32)
    deviation = float(np.std(logits))
    n = 1.5 / deviation  # reaches down to 8.5

    assert kept(logits, top_n_sigma=n) == [0, 1]
    assert kept(logits, top_n_sigma=0.5 / deviation) == [0]
    assert kept(logits, top_n_sigma=-1.0) == [0, 1, 2, 3]


def test_typical_keeps_what_is_as_surprising_as_expected() -> None:
    """H(.5, .4, .1) = .943 nats; |-ln p - H| = .250, .027, 1.359: the second is the most typical."""
    logits = of(0.5, 0.4, 0.1)

    assert kept(logits, typical_p=0.3) == [1]
    assert kept(logits, typical_p=0.6) == [0, 1]


def test_xtc_drops_the_likely_but_the_least_likely_of_them() -> None:
    logits = of(0.4, 0.3, 0.2, 0.1)
    exclude = {"xtc_probability": 0.5, "xtc_threshold": 0.15}

    assert kept(logits, chance=0.49, **exclude) == [2, 3]
    assert kept(logits, chance=0.5, **exclude) == [0, 1, 2, 3]
    assert kept(logits, xtc_probability=1.0, xtc_threshold=0.35) == [0, 1, 2, 3]  # one alone
    assert "xtc" not in active_stages(SamplingParams(**OFF, xtc_probability=1, xtc_threshold=0.6))


def test_dynamic_temperature_is_highest_where_all_are_alike() -> None:
    flat, sharp = of(0.25, 0.25, 0.25, 0.25), np.array([30.0, 0.0], dtype=np.float32)
    params = {"temperature": 1.0, "dynatemp_range": 0.5}

    sure = candidates(sharp, SamplingParams(**OFF | params))
    np.testing.assert_allclose(np.diff(np.log(sure.probabilities)), [-30 / 0.5], rtol=1e-3)
    alike = candidates(flat, SamplingParams(**OFF | params))
    np.testing.assert_allclose(alike.probabilities, 0.25)


def test_dynamic_temperature_in_between() -> None:
    """Entropy of (.9, .1) is .469 bits: T = .5 + 1.0 * .469."""
    chosen = candidates(of(0.9, 0.1), SamplingParams(**OFF, temperature=1.0, dynatemp_range=0.5))
    share = -(0.9 * math.log2(0.9) + 0.1 * math.log2(0.1))

    expected = math.log(9) / (0.5 + share)
    assert math.log(chosen.probabilities[0] / chosen.probabilities[1]) == pytest.approx(
        expected, rel=1e-5
    )


def test_the_order_of_the_stages_matters_and_is_kept() -> None:
    """Half of (.5, .3, .2) is reached by the best alone; at temperature 4 it takes two."""
    logits = of(0.5, 0.3, 0.2)
    cut_first: tuple[Sampler, ...] = ("top_p", "temperature")
    cool_first: tuple[Sampler, ...] = ("temperature", "top_p")

    assert kept(logits, top_p=0.5, temperature=4.0, samplers=cut_first) == [0]
    assert kept(logits, top_p=0.5, temperature=4.0, samplers=cool_first) == [0, 1]


def test_a_stage_that_is_not_listed_is_not_run() -> None:
    logits = of(0.6, 0.3, 0.1)

    assert kept(logits, top_k=1, min_p=0.9, samplers=("temperature",)) == [0, 1, 2]
    assert kept(logits, temperature=0.0, samplers=("top_k",)) == [0, 1, 2]
    assert kept(logits, temperature=0.0) == [0]


@given(
    rows,
    st.fixed_dictionaries(
        {
            "min_p": st.floats(0.0, 1.0),
            "top_p": st.floats(0.0, 1.0),
            "top_k": st.integers(0, 50),
            "typical_p": st.floats(0.0, 1.0),
            "top_n_sigma": st.floats(-1.0, 5.0),
            "xtc_probability": st.floats(0.0, 1.0),
            "xtc_threshold": st.floats(0.0, 1.0),
            "temperature": st.floats(0.0, 5.0),
            "dynatemp_range": st.floats(0.0, 5.0),
            "dynatemp_exponent": st.floats(0.0, 10.0),
            "repetition_penalty": st.floats(0.5, 2.0),
            "presence_penalty": st.floats(-2.0, 2.0),
            "dry_multiplier": st.floats(0.0, 100.0),
            "samplers": st.permutations(LLAMA_ORDER).map(tuple),
        }
    ),
    st.floats(0, 1, exclude_max=True),
)
def test_no_combination_leaves_nothing(
    logits: NDArray[np.float32], params: dict[str, Any], chance: float
) -> None:
    dry = Penalties(np.array([0, 1]), np.array([1e30, params["dry_multiplier"]]))
    chosen = candidates(logits, SamplingParams(**params), seen(0, 1, 1), chance, dry)

    assert len(chosen.tokens) >= 1
    assert (np.diff(chosen.tokens) > 0).all()
    assert chosen.probabilities.sum() == pytest.approx(1.0)


def test_probabilities_before_and_after_the_samplers() -> None:
    logits = of(0.5, 0.3, 0.2)
    before = token_logprob(logits, 1, 2)
    chosen = candidates(logits, SamplingParams(**OFF, top_k=2))
    after_samplers = sampled_logprob(chosen, 1, 5)

    assert before.logprob == pytest.approx(math.log(0.3))
    assert [token for token, _ in before.top] == [0, 1]
    assert after_samplers.logprob == pytest.approx(math.log(0.375))
    assert [(t, round(math.exp(p), 4)) for t, p in after_samplers.top] == [(0, 0.625), (1, 0.375)]
