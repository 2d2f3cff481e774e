"""Sampling against a literal seven-step oracle, and the laws any min-p sampler must keep."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pushkin_runtime.sampling import (
    TASK_SAMPLING,
    Candidates,
    Uniforms,
    candidates,
    log_softmax_at,
    pick,
    pick_distinct,
    resolve,
)
from pushkin_runtime.sampling_types import SamplingOverrides, SamplingParams

finite_logits = st.lists(st.floats(-30, 30, width=32), min_size=2, max_size=60).map(
    lambda values: np.array(values, dtype=np.float32)
)
min_ps = st.floats(0.001, 1.0)


def seven_steps(logits: NDArray[np.float32], p: float, temperature: float) -> NDArray[np.float64]:
    """The brief's §5.1, word for word, in float64; temperature on the surviving tokens, before sampling."""
    z = logits.astype(np.float64)  # 1. logits
    probabilities = np.exp(z - z.max()) / np.exp(z - z.max()).sum()  # 2. softmax
    p_max = probabilities.max()  # 3. highest probability
    threshold = p * p_max  # 4. threshold
    kept = probabilities * (probabilities >= threshold * (1 - 1e-12))  # 5. filter
    kept = kept ** (1 / temperature)
    result: NDArray[np.float64] = kept / kept.sum()  # 6. renormalise; 7. is to sample from it
    return result


def dense(logits: NDArray[np.float32], params: SamplingParams) -> NDArray[np.float64]:
    """Our distribution over the whole vocabulary."""
    chosen = candidates(logits, params)
    out = np.zeros(len(logits))
    out[chosen.tokens] = chosen.probabilities
    return out


def survivors(logits: NDArray[np.float32], **params: float) -> set[int]:
    return set(candidates(logits, SamplingParams(**params)).tokens.tolist())  # type: ignore[arg-type]


@given(finite_logits, min_ps, st.floats(0.2, 3.0))
def test_min_p_first_is_the_seven_steps(
    logits: NDArray[np.float32], p: float, temperature: float
) -> None:
    margin = np.abs(logits - logits.max() - math.log(p)).min()
    if margin < 1e-5:  # a token exactly on the threshold may fall either way by rounding
        return
    ours = dense(logits, SamplingParams(min_p=p, temperature=temperature))

    np.testing.assert_allclose(ours, seven_steps(logits, p, temperature), atol=1e-6)


@given(finite_logits, min_ps, st.floats(0.2, 3.0), st.integers(0, 5), st.floats(0.05, 1.0))
def test_arg_max_always_survives(
    logits: NDArray[np.float32], p: float, temperature: float, k: int, top_p: float
) -> None:
    for order in ("min_p_first", "temperature_first"):
        params = SamplingParams(min_p=p, temperature=temperature, top_k=k, top_p=top_p, order=order)
        kept = candidates(logits, params).tokens

        assert logits[kept].max() == logits.max()


@given(finite_logits, min_ps, st.randoms())
def test_permuting_the_vocabulary_permutes_the_distribution(
    logits: NDArray[np.float32], p: float, random: object
) -> None:
    permutation = np.random.default_rng(len(logits)).permutation(len(logits))
    params = SamplingParams(min_p=p, temperature=1.3)

    np.testing.assert_allclose(
        dense(logits[permutation], params), dense(logits, params)[permutation], atol=1e-12
    )


@given(finite_logits, st.floats(0.01, 0.9), st.floats(0.3, 3.0))
def test_temperature_first_keeps_what_min_p_to_the_power_of_t_keeps(
    logits: NDArray[np.float32], p: float, temperature: float
) -> None:
    """logit >= max + T ln p is the untempered test with p' = p^T (research: methods §4)."""
    gap = logits.astype(np.float64) - logits.max()
    if np.abs(gap - temperature * math.log(p)).min() < 1e-4:
        return
    tempered = candidates(
        logits, SamplingParams(min_p=p, temperature=temperature, order="temperature_first")
    )
    untempered = candidates(logits, SamplingParams(min_p=p**temperature))

    assert tempered.tokens.tolist() == untempered.tokens.tolist()


def test_worked_example() -> None:
    """logits (4, 3, 2, 0) at p = 0.1: three survive; at T = 2 after the cut (.5065, .3072, .1863, 0);
    at T = 2 before it all four do."""
    logits = np.array([4, 3, 2, 0], dtype=np.float32)

    after = dense(logits, SamplingParams(min_p=0.1, temperature=2.0))
    before = dense(logits, SamplingParams(min_p=0.1, temperature=2.0, order="temperature_first"))

    np.testing.assert_allclose(after, [0.5065, 0.3072, 0.1863, 0.0], atol=5e-5)
    np.testing.assert_allclose(before, [0.4740, 0.2875, 0.1744, 0.0641], atol=5e-5)


@given(finite_logits, st.integers(1, 10))
def test_top_k_keeps_k(logits: NDArray[np.float32], k: int) -> None:
    kept = candidates(logits, SamplingParams(min_p=0.0, top_k=k)).tokens

    assert len(kept) == min(k, len(logits))


@given(finite_logits, st.floats(0.05, 0.99))
def test_top_p_keeps_the_smallest_set_that_reaches_it(
    logits: NDArray[np.float32], top_p: float
) -> None:
    full = dense(logits, SamplingParams(min_p=0.0))
    kept = candidates(logits, SamplingParams(min_p=0.0, top_p=top_p)).tokens

    assert full[kept].sum() >= top_p - 1e-9
    assert full[kept].sum() - full[kept].min() < top_p + 1e-9


def test_zero_temperature_is_the_first_arg_max() -> None:
    logits = np.array([1.0, 5.0, 5.0], dtype=np.float32)

    assert survivors(logits, temperature=0.0) == {1}


@given(finite_logits, st.floats(0, 1, exclude_max=True))
def test_every_uniform_picks_a_survivor(logits: NDArray[np.float32], uniform: float) -> None:
    chosen = candidates(logits, SamplingParams(min_p=0.2))

    assert pick(chosen, uniform) in chosen.tokens


def test_sampled_frequencies_follow_the_distribution() -> None:
    """Chi-squared over 20,000 draws, 3 degrees of freedom: 21.1 is exceeded once in 10,000."""
    logits = np.log(np.array([0.5, 0.3, 0.15, 0.05], dtype=np.float32))
    chosen = candidates(logits, SamplingParams(min_p=0.0))
    uniforms = Uniforms(seed=42, n_rows=1)
    counts = np.zeros(4)
    for _ in range(20_000):
        counts[pick(chosen, float(uniforms.next()[0]))] += 1

    expected = 20_000 * np.array([0.5, 0.3, 0.15, 0.05])
    assert ((counts - expected) ** 2 / expected).sum() < 21.1


def test_rows_have_their_own_streams_whatever_their_number() -> None:
    two, five = Uniforms(9, 2), Uniforms(9, 5)
    a, b = two.next(), five.next()

    np.testing.assert_array_equal(a, b[:2])
    assert len(set(b.tolist())) == 5


def test_log_softmax_at_sums_to_one() -> None:
    logits = np.array([3.0, -2.0, 0.5], dtype=np.float32)

    assert sum(math.exp(log_softmax_at(logits, t)) for t in range(3)) == pytest.approx(1.0)


@settings(deadline=None)  # the first example loads MLX
@given(
    st.floats(0.01, 0.5),
    st.floats(0.3, 2.0),
    st.integers(0, 9),
    st.floats(0.3, 1.0),
    st.sampled_from(["min_p_first", "temperature_first"])
    | st.permutations(["top_k", "top_p", "min_p", "temperature"]).map(tuple),
    st.integers(0, 2**32 - 1),
)
def test_on_device_sampler_equals_the_oracle(
    p: float, temperature: float, k: int, top_p: float, order: Any, seed: int
) -> None:
    import mlx.core as mx

    from pushkin_runtime.engines.mlx_decode import sample

    rng = np.random.default_rng(seed)
    logits = (rng.standard_normal((4, 50)) * 3).astype(np.float32)
    uniforms = rng.random(4, dtype=np.float32)
    params = SamplingParams(
        min_p=p,
        temperature=temperature,
        top_k=k,
        top_p=top_p,
        **({"order": order} if isinstance(order, str) else {"samplers": order}),
    )
    on_device = np.array(sample(mx.array(logits), params, mx.array(uniforms)))
    for row, token, uniform in zip(logits, on_device, uniforms, strict=True):
        chosen = candidates(row, params)
        edges = np.cumsum(chosen.probabilities)
        if np.abs(edges - uniform).min() > 1e-5:  # not on a float32 rounding edge
            assert token == pick(chosen, float(uniform))


def test_defaults_by_task_and_what_moves_them() -> None:
    def min_p(task: str, wish: float | None = None, **given: float) -> float:
        overrides = SamplingOverrides(**given)  # type: ignore[arg-type]
        return resolve(
            task,  # type: ignore[arg-type]
            overrides,
            persona_min_p=wish,
            fresh_seed=1,
        ).min_p

    assert (min_p("continue"), min_p("rephrase"), min_p("story")) == (0.10, 0.10, 0.07)
    written = [TASK_SAMPLING[task] for task in ("continue", "rephrase", "story")]
    assert all(params.temperature == 1.0 for params in written)
    assert (min_p("continue", 0.4), min_p("continue", 0.01)) == (0.15, 0.05)
    assert min_p("continue", 0.12, min_p=0.3) == 0.3


def test_distinct_picks_are_sampling_without_replacement() -> None:
    """Pairs come as often as the formula p(i) * p(j) / (1 - p(i)) says: chi-squared with 11 degrees of freedom."""
    probabilities = np.array([0.45, 0.3, 0.2, 0.05])
    row = Candidates(np.arange(4), probabilities)
    n, uniforms = 20_000, Uniforms(5, 2)
    counts = np.zeros((4, 4))
    for _ in range(n):
        first, second = pick_distinct([row, row], uniforms.next())
        counts[first, second] += 1
    expected = n * np.outer(probabilities, probabilities) / (1 - probabilities)[:, None]
    is_pair = ~np.eye(4, dtype=bool)
    chi_squared = ((counts - expected)[is_pair] ** 2 / expected[is_pair]).sum()

    assert counts.diagonal().sum() == 0
    assert chi_squared < 31.3  # the 0.1 % point


def test_more_rows_than_candidates_are_picked_as_if_alone() -> None:
    row = Candidates(np.array([3, 8]), np.array([0.5, 0.5]))
    tokens = pick_distinct([row] * 4, np.array([0.1, 0.9, 0.2, 0.8], np.float32))

    assert tokens == [3, 8, 3, 8]
