"""The typing soak sees growth where there is some, and none where memory only trembles."""

from __future__ import annotations

import json
import os
import signal
from typing import Any

import numpy as np
import pytest

from benchmarks import typing_soak
from benchmarks.harness import Daemon
from benchmarks.typing_soak import main, slope_of


def memory(mib_per_hour: float, minutes: int = 30, jump: float = 0.0) -> list[tuple[float, float]]:
    """One look a second: noise that lasts, a slope, and perhaps a jump at the start."""
    rng = np.random.default_rng(0)
    noise = np.convolve(rng.standard_normal(minutes * 60), np.ones(20) / 20, mode="same")
    return [
        (float(at), 300.0 + mib_per_hour * at / 3600 + n + (jump if at > 60 else 0.0))
        for at, n in enumerate(noise)
    ]


def test_a_leak_is_outside_the_interval_and_noise_inside() -> None:
    leak, still = slope_of(memory(20.0), 360.0), slope_of(memory(0.0), 360.0)

    assert leak is not None
    assert still is not None
    assert abs(leak.mib_per_hour - 20.0) < leak.plus_minus < 5
    assert abs(still.mib_per_hour) < still.plus_minus
    assert leak.n_means == 48


def test_what_happens_in_the_warm_up_does_not_count() -> None:
    jumped, still = slope_of(memory(0.0, jump=100.0), 360.0), slope_of(memory(0.0), 360.0)

    assert jumped is not None
    assert still is not None
    assert jumped.mib_per_hour == pytest.approx(still.mib_per_hour, abs=1e-3)


def test_too_little_is_no_slope() -> None:
    assert slope_of(memory(0.0, minutes=1), 0.0) is None


@pytest.mark.slow
def test_seconds_of_typing_at_the_scripted_daemon_end_well(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["--engine", "scripted", "--minutes", "0.05", "--json"]) == 0

    report = json.loads(capsys.readouterr().out)
    assert report["counts"]["wedged"] is False
    assert set(report["counts"]["keystrokes"]) <= {"ended", "left"}
    assert report["figures"]["ttft_ms"]["n"] > 5


@pytest.mark.slow
def test_a_daemon_that_dies_is_reported(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    type_on = typing_soak._type

    def killed(client: Any, daemon: Daemon, *rest: Any, **options: Any) -> None:
        client.call("GET", "/health")
        os.kill(daemon.pid, signal.SIGKILL)
        type_on(client, daemon, *rest, **options)

    monkeypatch.setattr(typing_soak, "_type", killed)

    assert main(["--engine", "scripted", "--minutes", "0.02", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["counts"]["wedged"] is True
