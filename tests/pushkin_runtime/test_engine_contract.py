"""Obligations of every engine (engines/base.py), on a tiny model whose window is really crossed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pushkin_runtime.engines.base import DecodePlan, Embeddings, Engine, KVCache, Step, Tokens
from pushkin_runtime.errors import EngineFailed
from pushkin_runtime.sampler_stages import LLAMA_ORDER
from pushkin_runtime.sampling import FloatArray
from pushkin_runtime.sampling_types import SamplingParams

TOLERANCE = 2e-5  # float32, logits of a few units
GREEDY = SamplingParams(temperature=0.0)


def prompt(n: int, seed: int = 0) -> tuple[int, ...]:
    return tuple(np.random.default_rng(seed).integers(4, 500, n).tolist())


def greedy(engine: Engine, tokens: tuple[int, ...], n_steps: int) -> list[int]:
    cache = engine.new_cache()
    engine.prefill(cache, Tokens(tokens[:-1]))
    decoder = engine.decode(
        cache, DecodePlan(last_token=tokens[-1], n_rows=1, sampling=GREEDY, seed=0)
    )
    out = [decoder.step().tokens[0] for _ in range(n_steps)]
    decoder.close()
    return out


def test_prefill_in_pieces_equals_prefill_at_once(engine: Engine) -> None:
    tokens = prompt(70)
    whole, pieces = engine.new_cache(), engine.new_cache()
    engine.prefill(whole, Tokens(tokens[:60]))
    for start in range(0, 60, 7):
        engine.prefill(pieces, Tokens(tokens[start : min(start + 7, 60)]))

    assert whole.n_tokens == pieces.n_tokens == 60
    np.testing.assert_allclose(
        engine.logits(whole, tokens[60:]), engine.logits(pieces, tokens[60:]), atol=TOLERANCE
    )


def test_logits_leave_the_cache_as_it_was(engine: Engine) -> None:
    cache = engine.new_cache()
    engine.prefill(cache, Tokens(prompt(40)))
    first = engine.logits(cache, prompt(10, seed=1))
    second = engine.logits(cache, prompt(10, seed=1))

    assert cache.n_tokens == 40
    np.testing.assert_array_equal(first, second)


def test_trim_past_the_window_equals_a_fresh_cache(engine: Engine) -> None:
    tokens = prompt(90)
    trimmed, fresh = engine.new_cache(), engine.new_cache()
    engine.prefill(trimmed, Tokens(tokens))
    engine.trim(trimmed, 33)
    engine.prefill(fresh, Tokens(tokens[:33]))

    np.testing.assert_allclose(
        engine.logits(trimmed, tokens[50:60]), engine.logits(fresh, tokens[50:60]), atol=TOLERANCE
    )


def test_fork_is_exact_and_independent(engine: Engine) -> None:
    tokens = prompt(60)
    cache = engine.new_cache()
    engine.prefill(cache, Tokens(tokens[:50]))
    fork = engine.fork(cache, n_tokens=40)
    engine.prefill(fork, Tokens(prompt(12, seed=2)))

    fresh = engine.new_cache()
    engine.prefill(fresh, Tokens(tokens[:50]))
    np.testing.assert_allclose(
        engine.logits(cache, tokens[50:]), engine.logits(fresh, tokens[50:]), atol=TOLERANCE
    )


def test_rows_decode_as_each_would_alone(engine: Engine) -> None:
    tokens = prompt(45)
    cache = engine.new_cache()
    engine.prefill(cache, Tokens(tokens[:-1]))
    rows = engine.fork(cache, n_tokens=cache.n_tokens, n_rows=3)
    sampling = SamplingParams(min_p=0.05)
    batch = engine.decode(
        rows, DecodePlan(last_token=tokens[-1], n_rows=3, sampling=sampling, seed=7)
    )
    together = np.array([batch.step().tokens for _ in range(12)])
    single = engine.decode(
        cache, DecodePlan(last_token=tokens[-1], n_rows=1, sampling=sampling, seed=7)
    )

    assert [single.step().tokens[0] for _ in range(12)] == together[:, 0].tolist()
    assert len({tuple(column) for column in together.T}) == 3


def test_greedy_decode_follows_the_arg_max_past_the_window(engine: Engine) -> None:
    tokens = prompt(30)
    out = greedy(engine, tokens, 40)
    cache = engine.new_cache()
    logits = engine.logits(cache, [*tokens, *out])

    assert out == logits[len(tokens) - 1 : -1].argmax(axis=-1).tolist()


def test_logprobs_are_those_of_the_unfiltered_model(engine: Engine) -> None:
    tokens = prompt(20)
    cache = engine.new_cache()
    engine.prefill(cache, Tokens(tokens[:-1]))
    row = engine.logits(cache, tokens[-1:])[0].astype(np.float64)
    step = engine.decode(
        cache,
        DecodePlan(
            last_token=tokens[-1], n_rows=1, sampling=SamplingParams(min_p=0.5, top_k=2), seed=1
        ),
    ).step()

    expected = row[step.tokens[0]] - np.log(np.exp(row).sum())
    assert step.logprobs[0] == pytest.approx(expected, abs=1e-4)


def test_closed_decoder_leaves_a_cache_that_can_go_on(engine: Engine) -> None:
    tokens = prompt(25)
    cache = engine.new_cache()
    engine.prefill(cache, Tokens(tokens[:-1]))
    decoder = engine.decode(
        cache, DecodePlan(last_token=tokens[-1], n_rows=1, sampling=GREEDY, seed=0)
    )
    out = [decoder.step().tokens[0] for _ in range(5)]
    decoder.close()

    assert cache.n_tokens == len(tokens) + 4
    np.testing.assert_allclose(
        engine.logits(cache, out[-1:]),
        engine.logits(engine.new_cache(), [*tokens, *out])[-1:],
        atol=TOLERANCE,
    )


def test_first_step_obeys_its_constraint_and_the_ban_holds(engine: Engine) -> None:
    tokens = prompt(20)
    free = greedy(engine, tokens, 3)
    cache = engine.new_cache()
    engine.prefill(cache, Tokens(tokens[:-1]))
    allowed = tuple(t for t in range(100, 110) if t != free[0])
    decoder = engine.decode(
        cache,
        DecodePlan(
            last_token=tokens[-1],
            n_rows=1,
            sampling=SamplingParams(min_p=0.0, temperature=3.0),
            seed=3,
            first_allowed=np.array(allowed),
            banned=np.arange(100),
        ),
    )
    steps = [decoder.step().tokens[0] for _ in range(20)]

    assert steps[0] in allowed
    assert min(steps[1:]) >= 100
    assert not set(steps[1:]) <= set(allowed)


def test_embedding_rows_are_read_as_the_tokens_they_came_from(
    engine: Engine, tiny_weights: dict[str, np.ndarray]
) -> None:
    """One convention: rows enter the first layer as they are, with √hidden already in them."""
    tokens = prompt(24)
    rows = tiny_weights["embed_tokens.weight"][list(tokens)] * np.float32(8.0)  # √64
    by_rows, by_tokens = engine.new_cache(), engine.new_cache()
    engine.prefill(by_rows, Embeddings(rows))
    engine.prefill(by_tokens, Tokens(tokens))

    after = prompt(5, seed=4)
    np.testing.assert_allclose(
        engine.logits(by_rows, after), engine.logits(by_tokens, after), atol=TOLERANCE
    )


def test_repetition_penalty_makes_seen_tokens_rarer(engine: Engine) -> None:
    tokens = prompt(20)
    loop = greedy(engine, tokens, 30)
    cache = engine.new_cache()
    engine.prefill(cache, Tokens(tokens[:-1]))
    decoder = engine.decode(
        cache,
        DecodePlan(
            last_token=tokens[-1],
            n_rows=1,
            sampling=SamplingParams(temperature=0.0, repetition_penalty=2.0),
            seed=0,
            recent=tokens,
        ),
    )
    penalized = [decoder.step().tokens[0] for _ in range(30)]

    assert len(set(penalized)) > len(set(loop))
    assert not set(penalized[:5]) & set(tokens)


def test_context_overflow_is_an_error_that_keeps_the_cache(engine: Engine) -> None:
    cache = engine.new_cache()
    engine.prefill(cache, Tokens(prompt(40)))

    with pytest.raises(EngineFailed, match="context of 512"):
        engine.prefill(cache, Tokens(prompt(500)))

    assert cache.n_tokens == 40
    assert engine.logits(cache, prompt(3)).shape == (3, 512)


def decoded(engine: Engine, n_steps: int, **plan: Any) -> list[Step]:
    tokens = prompt(30)
    cache = engine.new_cache()
    engine.prefill(cache, Tokens(tokens[:-1]))
    decoder = engine.decode(
        cache,
        DecodePlan(last_token=tokens[-1], n_rows=1, seed=11, recent=tokens, **plan),
    )
    steps = [decoder.step() for _ in range(n_steps)]
    decoder.close()
    assert cache.n_tokens == len(tokens) + n_steps - 1
    return steps


CHAINS: dict[str, dict[str, Any]] = {
    "llama.cpp": {"temperature": 0.8, "top_k": 40, "top_p": 0.95, "min_p": 0.05},
    "penalties": {"presence_penalty": 1.5, "frequency_penalty": 0.5, "repeat_last_n": 16},
    "xtc": {"xtc_probability": 0.5, "xtc_threshold": 0.05, "temperature": 2.0},
    "typical": {"typical_p": 0.5, "top_n_sigma": 2.0},
    "dynatemp": {"temperature": 1.0, "dynatemp_range": 0.8, "dynatemp_exponent": 1.5},
    "dry": {"dry_multiplier": 2.0, "dry_allowed_length": 1, "temperature": 0.5},
    "mirostat": {"mirostat": 1, "mirostat_tau": 3.0, "mirostat_eta": 0.5},
    "mirostat 2": {"mirostat": 2, "mirostat_tau": 3.0, "mirostat_eta": 0.5},
}


@pytest.mark.parametrize("name", CHAINS)
def test_every_engine_samples_the_same_tokens_from_a_seed(
    name: str, engine: Engine, reference_engine: Engine
) -> None:
    sampling = SamplingParams(samplers=LLAMA_ORDER, **CHAINS[name])
    ours, reference = (
        [step.tokens[0] for step in decoded(which, 25, sampling=sampling)]
        for which in (engine, reference_engine)
    )

    assert ours == reference


def test_asking_for_probabilities_changes_no_token(engine: Engine) -> None:
    """It moves the MLX engine from its sampler on the device to the host's."""
    sampling = SamplingParams(min_p=0.05, repetition_penalty=1.2)
    plain = decoded(engine, 25, sampling=sampling)
    told = decoded(engine, 25, sampling=sampling, n_probs=3)

    assert [step.tokens for step in plain] == [step.tokens for step in told]
    np.testing.assert_allclose(
        [step.logprobs[0] for step in plain], [step.logprobs[0] for step in told], atol=1e-4
    )


def test_details_tell_the_likeliest_tokens(engine: Engine) -> None:
    [detail] = decoded(engine, 1, sampling=GREEDY, n_probs=4)[0].details
    cache = engine.new_cache()
    row = engine.logits(cache, prompt(30))[-1]

    assert [token for token, _ in detail.top] == np.argsort(-row, kind="stable")[:4].tolist()
    assert detail.top[0] == (detail.token, detail.logprob)


def test_a_bias_forces_and_bans_tokens(engine: Engine) -> None:
    [best] = decoded(engine, 1, sampling=GREEDY)[0].tokens

    forced = decoded(engine, 5, sampling=GREEDY, logit_bias=((77, 1000.0),))
    banned = decoded(engine, 5, sampling=GREEDY, logit_bias=((best, -np.inf),))

    assert {step.tokens[0] for step in forced} == {77}
    assert best not in {step.tokens[0] for step in banned}


def test_banning_every_token_is_an_error(engine: Engine) -> None:
    everything = tuple((token, -np.inf) for token in range(512))

    with pytest.raises(EngineFailed, match="logit_bias"):
        decoded(engine, 1, sampling=GREEDY, logit_bias=everything)


def after_prompt(engine: Engine, tokens: tuple[int, ...]) -> tuple[KVCache, FloatArray]:
    """A cache with the whole prompt, and the logits at its end."""
    cache = engine.new_cache()
    engine.prefill(cache, Tokens(tokens[:20]))
    [last] = engine.extend(cache, tokens[20:], n_logits=1)
    return cache, last


def test_extend_reads_as_prefill_does_and_tells_the_last_logits(engine: Engine) -> None:
    tokens = prompt(50)
    cache, fresh = engine.new_cache(), engine.new_cache()
    engine.prefill(cache, Tokens(tokens[:20]))
    told = engine.extend(cache, tokens[20:], n_logits=7)
    engine.prefill(fresh, Tokens(tokens))

    assert cache.n_tokens == 50
    assert told.dtype == np.float32
    np.testing.assert_allclose(told, engine.logits(engine.new_cache(), tokens)[-7:], atol=TOLERANCE)
    np.testing.assert_allclose(
        engine.logits(cache, prompt(4)), engine.logits(fresh, prompt(4)), atol=TOLERANCE
    )
    with pytest.raises(EngineFailed, match="context of 512"):
        engine.extend(cache, prompt(500), n_logits=1)
    assert cache.n_tokens == 50


@pytest.mark.parametrize(
    "sampling",
    [
        GREEDY,
        SamplingParams(min_p=0.05),
        SamplingParams(min_p=0.05, repetition_penalty=1.5),
        SamplingParams(samplers=LLAMA_ORDER, xtc_probability=0.5, xtc_threshold=0.05),
    ],
)
@pytest.mark.parametrize("n_steps", [0, 1, 2, 30])
def test_known_first_logits_change_no_token(
    engine: Engine, sampling: SamplingParams, n_steps: int
) -> None:
    tokens = prompt(30)
    allowed = np.arange(40, 400)
    plan = DecodePlan(
        last_token=tokens[-1],
        n_rows=1,
        seed=11,
        recent=tokens,
        sampling=sampling,
        first_allowed=allowed,
    )
    plain, (cache, last) = engine.new_cache(), after_prompt(engine, tokens)
    engine.prefill(plain, Tokens(tokens[:-1]))
    expected = engine.decode(plain, plan)
    known = engine.decode(cache, replace(plan, first_logits=last))
    texts = [[d.step() for _ in range(n_steps)] for d in (expected, known)]
    known.close()

    assert [s.tokens for s in texts[0]] == [s.tokens for s in texts[1]]
    np.testing.assert_allclose(
        [s.logprobs for s in texts[0]], [s.logprobs for s in texts[1]], atol=1e-4
    )
    out = [s.tokens[0] for s in texts[1]]
    assert cache.n_tokens == len(tokens) + max(0, n_steps - 1)  # the prompt, and all but the last
    np.testing.assert_allclose(
        engine.logits(cache, prompt(3)),
        engine.logits(engine.new_cache(), [*tokens, *out[:-1], *prompt(3)])[-3:],
        atol=TOLERANCE,
    )


@pytest.mark.parametrize("is_known", [True, False])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_distinct_rows_begin_with_different_tokens(
    engine: Engine, is_known: bool, temperature: float
) -> None:
    tokens = prompt(30)
    cache, last = after_prompt(engine, tokens)
    sampling = SamplingParams(temperature=temperature, min_p=0.01)
    plan = DecodePlan(
        last_token=tokens[-1], n_rows=5, seed=3, sampling=sampling, distinct_first=True
    )
    alone = replace(plan, n_rows=1, distinct_first=False)

    def begun(plan: DecodePlan, n_steps: int) -> list[tuple[int, ...]]:
        n_held = len(tokens) - (not is_known)
        rows = engine.fork(cache, n_tokens=n_held, n_rows=plan.n_rows)
        decoder = engine.decode(rows, replace(plan, first_logits=last if is_known else None))
        steps = [decoder.step().tokens for _ in range(n_steps)]
        decoder.close()
        return steps

    together, single = begun(plan, 6), begun(alone, 6)
    assert len(set(together[0])) == 5
    assert [row[0] for row in together] == [row[0] for row in single]
    assert begun(plan, 6) == together
    if temperature == 0:
        assert list(together[0]) == np.argsort(-last, kind="stable")[:5].tolist()
