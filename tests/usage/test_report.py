"""The arithmetic of the report."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from usage.pairs import MAX_PAIRS_PER_PROMPT, pair_lines
from usage.report import wilson


@pytest.mark.parametrize(
    ("n_successes", "n", "low", "high"),
    [
        # Newcombe 1998, table I, method 3.
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_the_interval_is_wilson_s(n_successes, n, low, high):
    assert wilson(n_successes, n) == pytest.approx((low, high), abs=1e-4)


@given(st.integers(0, 500), st.integers(0, 500))
def test_the_interval_holds_the_share(n_successes, n_failures):
    n = n_successes + n_failures
    low, high = wilson(n_successes, n)

    assert 0 <= low <= high <= 1
    if n:
        assert low - 1e-12 <= n_successes / n <= high + 1e-12


def test_one_prompt_cannot_fill_the_export():
    prompt = (1, "continue", "p", "", "", "", "", "en", "")
    rows = [(*prompt, f"good {i}", 1) for i in range(9)] + [
        (*prompt, f"bad {i}", 0) for i in range(9)
    ]

    assert len(list(pair_lines(rows))) == MAX_PAIRS_PER_PROMPT


def test_pairs_load_as_a_data_set():
    datasets = pytest.importorskip("datasets")
    prompt = (1, "continue", "a\u2028b", "", "", "", "", "en", "")
    text = "".join(pair_lines([(*prompt, " 1\n2", 1), (*prompt, " one", 0)]))

    [row] = datasets.Dataset.from_list([json.loads(line) for line in text.split("\n") if line])

    assert (row["prompt"], row["chosen"], row["rejected"]) == ("a\u2028b", " 1\n2", " one")
