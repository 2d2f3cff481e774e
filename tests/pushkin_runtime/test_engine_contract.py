"""Obligations of every engine (engines/base.py), on a tiny model whose window is really crossed."""

from __future__ import annotations

import numpy as np
import pytest

from pushkin_runtime.engines.base import DecodePlan, Embeddings, Engine, Tokens
from pushkin_runtime.errors import EngineFailed
from pushkin_runtime.types import SamplingParams

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
            banned=tuple(range(100)),
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
