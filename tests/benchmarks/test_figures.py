"""What the benchmarks print is what was measured."""

from __future__ import annotations

import json

import pytest

from benchmarks.harness import Report, figure, publish, running_daemon
from benchmarks.soak import drift_percent


def test_a_figure_is_minimum_median_and_95th_percentile() -> None:
    found = figure([float(x) for x in range(100, -1, -1)], "ms", limit=7.0, limit_is="seven")
    assert (found.n, found.min, found.median, found.p95) == (101, 0.0, 50.0, 95.0)
    assert (found.limit, found.limit_is) == (7.0, "seven")


def test_no_samples_are_an_error_and_not_a_zero() -> None:
    with pytest.raises(ValueError, match="no samples"):
        figure([], "ms")


def test_drift_compares_the_second_tenth_with_the_last() -> None:
    warming = [(n, 10 * n) for n in range(100)]
    steady = [(n, 1000) for n in range(100, 900)]
    grown = [(n, 1100) for n in range(900, 1001)]
    assert drift_percent(warming + steady + grown, 1000) == 10.0
    assert drift_percent(steady, 1000) is None


def test_json_on_stdout_lines_for_people_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    report = Report(benchmark="b", environment={"cpu": "c"}, figures={"f": figure([1.0], "s")})
    publish(report, quiet=False)
    printed = capsys.readouterr()
    assert json.loads(printed.out)["figures"]["f"]["median"] == 1.0
    assert "median 1" in printed.err

    publish(report, quiet=True)
    assert capsys.readouterr().err == ""


def test_a_daemon_that_does_not_start_says_why() -> None:
    with (
        pytest.raises(RuntimeError, match="nonsense"),
        running_daemon({"engine": "nonsense"}),
    ):
        pass
