"""What every engine owes the rows that go on from one prefix, on a tiny model whose window is really crossed."""

from __future__ import annotations

import numpy as np

from pushkin_runtime.engines.base import DecodePlan, Engine, Tokens
from pushkin_runtime.types import SamplingParams

N_ROWS, N_STEPS = 5, 60  # together more than caches grow by
PROMPT = tuple(np.random.default_rng(0).integers(4, 500, 30).tolist())
AFTER = tuple(np.random.default_rng(1).integers(4, 500, 10).tolist())


def test_rows_follow_their_own_arg_max_and_leave_the_cache_as_it_was(engine: Engine) -> None:
    """Each sees the prefix and itself, and nothing of the others."""
    cache = engine.new_cache()
    engine.prefill(cache, Tokens(PROMPT[:20]))
    [last] = engine.extend(cache, PROMPT[20:], n_logits=1)
    before = engine.logits(cache, AFTER)
    rows = engine.fork(cache, n_tokens=len(PROMPT), n_rows=N_ROWS)
    plan = DecodePlan(
        last_token=PROMPT[-1],
        n_rows=N_ROWS,
        sampling=SamplingParams(temperature=0.0),
        seed=0,
        first_logits=last,
        distinct_first=True,
    )
    decoder = engine.decode(rows, plan)
    written = np.array([decoder.step().tokens for _ in range(N_STEPS)]).T
    decoder.close()

    assert cache.n_tokens == len(PROMPT)
    np.testing.assert_allclose(engine.logits(cache, AFTER), before, atol=2e-5)
    assert len(set(written[:, 0].tolist())) == N_ROWS
    for row in written.tolist():
        assert row[1:] == engine.logits(cache, row)[:-1].argmax(axis=-1).tolist()
