"""Loops are found with their period, prose is not a loop."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quality.repetition import distinct_n, loop_period


def test_distinct_n_of_planted_texts() -> None:
    assert distinct_n("abcd", 2) == 1.0
    assert distinct_n("aaaa", 2) == pytest.approx(1 / 3)
    assert distinct_n("ab", 4) == 1.0


@given(st.integers(1, 19), st.lists(st.integers(0, 99), max_size=30))
def test_a_text_that_ends_in_a_cycle_has_its_period(period: int, before: list[int]) -> None:
    cycle = [100 + i for i in range(period)]
    repeats = max(3, -(-19 // period))

    assert loop_period([*before, *cycle * repeats], 19) == period


def test_what_repeats_twice_or_long_ago_is_no_loop() -> None:
    assert loop_period([*range(15), *range(15)], 19) is None
    assert loop_period([*[1, 2] * 20, *range(3, 30)], 19) is None
    assert loop_period([1, 1, 1], 19) is None
