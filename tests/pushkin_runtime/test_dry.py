"""DRY against a reference that looks at every earlier place, and llama.cpp's own examples."""

from __future__ import annotations

from itertools import groupby
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pushkin_runtime.dry import MAX_PENALTY, Dry, DryContext
from pushkin_runtime.engines.base import DecodePlan, Engine, Tokens
from pushkin_runtime.engines.host_sampler import HostSampler
from pushkin_runtime.sampler_stages import active_stages
from pushkin_runtime.sampling import candidates
from pushkin_runtime.sampling_types import Sampler, SamplingParams

# Token → its text: letters, breakers alone and inside a token, halves of «ё», a special token without text.
PIECES = [b"a", b"b", b"c", b"\n", b"c: ", b"\xd1", b"\x91", b""]
ON: dict[str, Any] = {"dry_multiplier": 1.0, "samplers": ("dry",)}


def no_text(token: int) -> bytes:
    return b""


def penalties(params: SamplingParams, tokens: list[int], n_prompt: int) -> dict[int, float]:
    """After a prompt of `n_prompt` tokens and an answer of the others."""
    dry = Dry(params, DryContext(tuple(tokens[:n_prompt]), PIECES.__getitem__))
    for token in tokens[n_prompt:]:
        dry.push(token)
    found = dry.penalties()
    return dict(zip(found.tokens.tolist(), found.amounts.tolist(), strict=True))


def reference(params: SamplingParams, tokens: list[int]) -> dict[int, float]:
    """The definition: for each earlier place, count back how much of it is how the text ends."""
    breakers = [text.encode() for text in params.dry_sequence_breakers if text]
    limit = len(tokens)
    for n in range(1, len(tokens) + 1):
        text = b"".join(PIECES[token] for token in tokens[:n])
        n_new = len(PIECES[tokens[n - 1]])
        if any(breaker in text[-(n_new + len(breaker) - 1) :] for breaker in breakers if n_new):
            limit = len(tokens) - n
    last = tokens[-params.dry_penalty_last_n :]
    longest: dict[int, int] = {}
    for place in range(1, len(last)):
        length = 0
        while length < min(place, limit) and last[place - 1 - length] == last[-1 - length]:
            length += 1
        if length >= params.dry_allowed_length:
            longest[last[place]] = max(length, longest.get(last[place], 0))
    return {
        token: params.dry_multiplier * params.dry_base ** (length - params.dry_allowed_length)
        for token, length in longest.items()
        if not any(breaker in PIECES[token] for breaker in breakers)
    }


@given(
    tokens=st.lists(st.integers(0, len(PIECES) - 1), max_size=40)
    | st.lists(st.integers(0, 2), max_size=40),
    n_prompt=st.integers(0, 40),
    last_n=st.integers(1, 45),
    allowed=st.integers(0, 4),
    base=st.floats(1.0, 3.0),
    breakers=st.lists(st.sampled_from(["\n", ":", "ab", "cab", "ё", "", "z"]), max_size=4),
)
def test_penalties_are_the_definition_s(
    tokens: list[int], n_prompt: int, last_n: int, allowed: int, base: float, breakers: list[str]
) -> None:
    params = SamplingParams(
        dry_multiplier=0.8,
        dry_base=base,
        dry_allowed_length=allowed,
        dry_penalty_last_n=last_n,
        dry_sequence_breakers=tuple(breakers),
    )
    n_unseen = max(0, min(n_prompt, len(tokens)) - last_n)  # of the prompt, before what DRY reads
    seen, n_known = tokens[n_unseen:], min(n_prompt, len(tokens)) - n_unseen

    expected = reference(params, seen)
    assert penalties(params, tokens, n_prompt) == pytest.approx(expected)
    assert penalties(params, seen, n_known) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("n_tokens", "text", "expected", "multiplier", "allowed", "breakers"),
    [
        (4, [0, 1], [0.25] * 4, 1.0, 2, []),
        (4, [0, 1, 2, 0, 1], [0.296923, 0.296923, 0.109232, 0.296923], 1.0, 2, []),
        (5, [0, 1, 3, 4, 0, 1], [0.2] * 5, 1.0, 2, [3]),
        (5, [0, 1, 2, 0, 1], [0.241818, 0.241818, 0.032727, 0.241818, 0.241818], 2.0, 2, []),
        (5, [0, 1, 2, 3, 4, 0, 1], [0.2] * 5, 1.0, 4, []),
    ],
)
def test_llama_cpp_s_own_examples(
    n_tokens: int,
    text: list[int],
    expected: list[float],
    multiplier: float,
    allowed: int,
    breakers: list[int],
) -> None:
    """The figures are those of its tests/test-sampling.cpp, base 1.1."""
    params = SamplingParams(
        min_p=0.0,
        samplers=("dry",),
        dry_multiplier=multiplier,
        dry_base=1.1,
        dry_allowed_length=allowed,
    )
    dry = Dry(params, DryContext(tuple(text), lambda token: b"\n" if token in breakers else b""))
    chosen = candidates(np.zeros(n_tokens, np.float32), params, dry=dry.penalties())

    np.testing.assert_allclose(chosen.probabilities, expected, atol=1e-5)


def test_the_longest_repetition_counts_for_each_token() -> None:
    """`a b c c b c y a b c`: `a b c` was followed by c, `c` by b, `b c` by y."""
    a, b, c, y = range(4)
    params = SamplingParams(**ON, dry_base=2.0, dry_allowed_length=1)
    dry = Dry(params, DryContext((a, b, c, c, b, c, y, a, b, c), no_text))
    found = dry.penalties()

    assert found.tokens.tolist() == [b, c, y]
    assert found.amounts.tolist() == [2.0**0, 2.0**2, 2.0**1]


def test_a_huge_penalty_is_finite_and_bans() -> None:
    params = SamplingParams(**ON, dry_base=100.0)
    dry = Dry(params, DryContext((0,) * 4000, no_text))
    penalty = dry.penalties()

    assert penalty.amounts.tolist() == [MAX_PENALTY]
    assert candidates(np.zeros(3, np.float32), params, dry=penalty).probabilities[0] == 0
    alone = candidates(np.zeros(1, np.float32), params, dry=penalty)
    assert alone.probabilities.tolist() == [1.0]  # where there is nothing else, it is chosen


@pytest.mark.parametrize(
    "off", [{"dry_multiplier": 0.0}, {"dry_base": 0.5}, {"dry_penalty_last_n": 0}]
)
def test_what_switches_it_off(off: dict[str, Any]) -> None:
    assert active_stages(SamplingParams(**ON, min_p=0.0)) == ("dry",)
    assert active_stages(SamplingParams(**ON | off, min_p=0.0)) == ()


def test_late_in_the_chain_it_touches_only_survivors() -> None:
    late: tuple[Sampler, ...] = ("top_k", "dry")
    params = SamplingParams(top_k=2, samplers=late, dry_multiplier=1.0)
    dry = Dry(params, DryContext((0, 0, 0, 2, 1, 1, 1, 2, 0, 0), no_text))
    assert {0, 2} <= set(dry.penalties().tokens.tolist())
    chosen = candidates(np.array([3.0, 2.9, 1.0], np.float32), params, dry=dry.penalties())

    assert chosen.tokens.tolist() == [0, 1]
    assert chosen.probabilities[1] > chosen.probabilities[0]


def test_rows_look_back_on_their_own_text() -> None:
    """Greedy rows that are led apart by their logits, each as if it were alone."""
    params = SamplingParams(temperature=0.0, samplers=("dry", "temperature"), dry_multiplier=3.0)
    context = DryContext((1, 2, 3, 1, 2), no_text)
    rng = np.random.default_rng(0)
    steps = rng.normal(size=(40, 3, 5)).astype(np.float32)

    def written(raw: np.ndarray[Any, np.dtype[np.float32]]) -> list[tuple[int, ...]]:
        plan = DecodePlan(last_token=2, n_rows=raw.shape[1], sampling=params, seed=0, dry=context)
        sampler = HostSampler(plan)
        return [sampler.step(step).tokens for step in raw]

    together = written(steps)
    for row in range(3):
        alone = written(steps[:, row : row + 1])
        assert [tokens[row] for tokens in together] == [tokens[0] for tokens in alone]
    assert len(set(zip(*together, strict=True))) == 3
    assert [t[0] for t in together] != steps[:, 0].argmax(axis=1).tolist()


def test_it_leads_every_engine_out_of_a_loop(engine: Engine) -> None:
    tokens = tuple(np.random.default_rng(0).integers(4, 500, 30).tolist())

    def longest_run(**dry: Any) -> int:
        cache = engine.new_cache()
        engine.prefill(cache, Tokens(tokens[:-1]))
        greedy = SamplingParams(temperature=0.0, samplers=("dry", "temperature"), **dry)
        plan = DecodePlan(last_token=tokens[-1], n_rows=1, seed=0, sampling=greedy)
        decoder = engine.decode(cache, plan)
        written = [decoder.step().tokens[0] for _ in range(60)]
        decoder.close()
        return max(len(list(run)) for _, run in groupby(written))

    assert longest_run() > 12
    assert longest_run(dry_multiplier=0.8) < 7
