"""`pushkin serve --trace FILE`: spans of every thread, no text, bounded, private."""

from __future__ import annotations

import json
import signal
import stat
from pathlib import Path

import pytest

from daemon import trace as trace_module
from daemon.log_ids import LogIds
from daemon.trace import Trace

CANARY = "canary-5d-secret"


def test_a_daemon_writes_what_ran_on_which_thread(start_daemon, home, tmp_path):
    file = tmp_path / "trace.json"
    daemon = start_daemon(home, "--trace", str(file))
    with daemon.client() as client:
        body = {"text": CANARY, "max_tokens": 8}
        headers = {"X-Request-Id": CANARY}
        assert client.post("/v1/continue", json=body, headers=headers).status_code == 200
        client.put("/v1/consent", json={"global": "on"})
    assert daemon.stop() == 0

    text = file.read_text()
    trace = json.loads(text)
    assert CANARY not in text
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    events = trace["traceEvents"]
    threads = {e["tid"]: e["args"]["name"] for e in events if e["ph"] == "M"}
    spans = [(threads[e["tid"]], e["name"]) for e in events if e["ph"] == "X"]
    assert ("inference", "prefill") in spans or ("inference", "decode") in spans
    assert spans.count(("inference", "decode")) >= 7
    begun = {(e["name"], e["id"]): e for e in events if e["ph"] == "b"}
    ended = {(e["name"], e["id"]): e for e in events if e["ph"] == "e"}
    assert set(begun) == set(ended)
    (generation,) = [e for (name, _), e in begun.items() if name == "generation: continue"]
    (request,) = [e for (name, _), e in begun.items() if name == "/v1/continue"]
    assert generation["args"]["completion_tokens"] == 8
    assert request["args"] == {"status": 200}
    assert request["id"] == generation["id"]  # what a client chose, as a digest
    assert request["ts"] <= generation["ts"]
    assert all(e["ts"] <= ended[key]["ts"] for key, e in begun.items())


def test_the_file_is_written_on_demand(start_daemon, home, tmp_path):
    file = tmp_path / "trace.json"
    daemon = start_daemon(home, "--trace", str(file))
    with daemon.client() as client:
        client.post("/v1/continue", json={"text": "a", "max_tokens": 1})
        before = file.stat().st_ino
        daemon.process.send_signal(signal.SIGUSR2)
        while file.stat().st_ino == before:  # replaced whole
            client.get("/health")
        assert any(
            e["name"] == "generation: continue" for e in json.loads(file.read_text())["traceEvents"]
        )


def test_a_file_that_cannot_be_written_is_told_at_the_start(pushkin, tmp_path):
    result = pushkin("serve", "--trace", str(tmp_path / "nowhere" / "trace.json"))

    assert result.returncode == 1
    assert b"nowhere" in result.stderr


def test_only_the_newest_events_are_kept(tmp_path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(trace_module, "MAX_EVENTS", 10)
    file: Path = tmp_path / "trace.json"
    trace = Trace(file, LogIds(b"k" * 32))
    for n in range(20):
        trace.load(n, int)()
    trace.write()

    spans = [e for e in json.loads(file.read_text())["traceEvents"] if e["ph"] == "X"]
    assert [e["args"]["n_adapters"] for e in spans] == list(range(10, 20))


def test_closing_a_generation_closes_what_is_traced(tmp_path):
    trace = Trace(tmp_path / "trace.json", LogIds(b"k" * 32))
    closed = []

    def work():
        try:
            while True:
                yield True
        finally:
            closed.append(True)

    units = trace.units("r", lambda: "decode", work())
    next(units)
    units.close()

    assert closed == [True]


def test_one_request_of_the_command_line_is_traced_without_a_daemon(pushkin, tmp_path):
    file = tmp_path / "trace.json"

    done = pushkin("continue", CANARY, "--max-tokens", "4", "--trace", str(file))

    assert done.returncode == 0, done.stderr
    assert CANARY not in file.read_text()
    events = json.loads(file.read_text())["traceEvents"]
    assert [e["name"] for e in events if e["ph"] == "X"].count("decode") >= 3
    (generation,) = [e for e in events if e["ph"] == "b"]
    assert generation["args"]["completion_tokens"] == 4
