"""`pushkin status`: once, again and again, and as a person reads it."""

from __future__ import annotations

import json
import subprocess
import sys
from io import StringIO

import pytest
from rich.console import Console

from daemon.status_view import status_lines, status_table
from tests.daemon.conftest import environment

PROCESS = {"pid": 7, "port": 1799}


def test_status_tells_health_its_proof_and_the_last_minutes(start_daemon, pushkin, home):
    daemon = start_daemon(home)
    with daemon.client() as client:
        for _ in range(3):
            client.post("/v1/continue", json={"text": "A text", "max_tokens": 4})

    answer = json.loads(pushkin("status", "--json").stdout)

    assert (answer["running"], answer["pid"]) == (True, daemon.process.pid)
    assert answer["health"] == {
        "status": "ok", "state": "ready", "reason": "a token was produced recently",
    }  # fmt: skip
    recent = answer["recent"]
    assert recent["n_generations"] == 3
    assert 0 < recent["ttft_p50_ms"] <= recent["ttft_p95_ms"]
    assert 0 < recent["cache_hit_share"] < 1
    assert answer["index"] == {"n_documents": 0, "n_paragraphs": 0, "n_bytes": answer["index"]["n_bytes"],
                               "n_waiting": 0}  # fmt: skip
    assert answer["resident_bytes"] > 2**20
    assert b"health.status\tok" in pushkin("status").stdout

    shown = dict(status_lines(PROCESS, answer["health"], answer))
    assert shown["state"] == "ok: a token was produced recently"
    assert shown["answers"] == "3 in 5 min, 3 in all"
    assert shown["first text"].endswith("(p50 / p95, 5 min)")
    console = Console(file=StringIO(), width=120)
    console.print(status_table(PROCESS, answer["health"], answer))
    assert "tokens/s" in console.file.getvalue()


def test_watching_goes_on_when_the_daemon_goes_and_comes_back(start_daemon, home):
    watching = subprocess.Popen(
        [sys.executable, "-m", "daemon", "status", "--watch", "0.1", "--json"],
        env=environment(home),
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert watching.stdout is not None
        assert not json.loads(watching.stdout.readline())["running"]
        daemon = start_daemon(home)
        pids = (json.loads(line).get("pid") for line in watching.stdout)
        assert next(pid for pid in pids if pid) == daemon.process.pid
        assert daemon.stop() == 0
        assert not all(json.loads(line)["running"] for line in _until_gone(watching.stdout))
    finally:
        watching.kill()
        watching.wait()
        watching.stdout.close()


def _until_gone(lines):
    for line in lines:
        yield line
        if not json.loads(line)["running"]:
            return


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0, "0 s"), (59, "59 s"), (3_700, "1 h 1 min"), (200_000, "2 d 7 h")]
)
def test_ages_are_told_in_two_units(seconds, shown):
    from daemon.status_view import _age

    assert _age(seconds) == shown
