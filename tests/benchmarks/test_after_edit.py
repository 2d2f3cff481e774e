"""What the benchmark of moved keys and values compares is what it says it compares."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.after_edit import EDITS, N_AFTER, Case, cases, harm_of
from pushkin_runtime.engines.scripted_engine import ScriptedEngine

TEXT = " ".join(f"word{number * 7919 % 10007}" for number in range(3000))


def test_each_case_is_a_text_with_one_edit_at_its_distance() -> None:
    found = list(cases(ScriptedEngine(), [TEXT], 1200, 8, [300, 600]))

    assert [(case.kind, case.distance) for case in found] == [
        (kind, far) for far in (300, 600) for kind in EDITS
    ]
    for case in found:
        n = min(len(case.old), len(case.new))
        first = int(np.flatnonzero(case.old[:n] != case.new[:n])[0])
        n_same = int(np.flatnonzero(case.old[::-1][:n] != case.new[::-1][:n])[0])
        assert len(case.old) - first == pytest.approx(case.distance, rel=0.15)
        assert n_same > 0.5 * case.distance  # what stood behind it still does
        assert len(case.following) == N_AFTER


def test_harm_is_the_divergence_of_the_moved_from_the_exact() -> None:
    case = Case("", 0, np.array([1]), np.array([1]), (0, 1))
    exact = np.log(np.array([[0.5, 0.5], [0.25, 0.75], [0.1, 0.9]]))
    other = np.log(np.array([[0.75, 0.25], [0.25, 0.75], [0.9, 0.1]]))
    harm = harm_of(exact, other, case)

    expected = 0.5 * np.log(0.5 / 0.75) + 0.5 * np.log(2)
    assert harm.nats == pytest.approx([expected, 0.0, 0.8 * np.log(9)])
    assert harm.same.tolist() == [True, True, False]
    assert harm.loss == pytest.approx([np.log(0.5 / 0.75), 0.0])
