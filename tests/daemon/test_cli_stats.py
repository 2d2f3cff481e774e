"""`pushkin stats`, with a daemon and without one."""

from __future__ import annotations

import json
import stat

import pytest

CANARY = "канарейка-canary-e0"


@pytest.fixture
def stats(pushkin):
    """`stats("show")`: the JSON that a command prints."""

    def run(*arguments: str):
        result = pushkin("stats", *arguments, "--json")
        assert result.returncode == 0, result.stderr.decode()
        return json.loads(result.stdout)

    return run


def test_without_a_daemon_the_file_is_used(stats, pushkin, home):
    assert stats("show")["consent"] == {
        "counts": False, "texts": False, "counts_decided_at": None, "texts_decided_at": None,
    }  # fmt: skip
    assert not (home / "stats.sqlite3").exists()
    assert stats("on")["counts"]
    assert stat.S_IMODE((home / "stats.sqlite3").stat().st_mode) == 0o600
    assert stats("show")["consent"]["counts"]
    assert not stats("off")["counts"]
    assert stats("forget", "--yes")["n_bytes"] > 0
    assert not (home / "stats.sqlite3").exists()


def test_texts_are_asked_for_and_only_after_counts(pushkin):
    early = pushkin("stats", "on", "--texts", "--yes")
    assert (early.returncode, b"first" in early.stderr) == (2, True)

    pushkin("stats", "on")
    unsure = pushkin("stats", "on", "--texts", stdin=b"n\n")
    assert unsure.returncode == 130
    assert b"nothing ever leaves this machine" in unsure.stderr
    sure = pushkin("stats", "on", "--texts", stdin=b"y\n")
    assert sure.stdout.decode().split() == ["counts", "on", "texts", "on"]


def test_a_daemon_is_asked_when_it_runs_and_its_pairs_are_exported(
    start_daemon, stats, pushkin, home, tmp_path
):
    daemon = start_daemon(home)
    stats("on")
    stats("on", "--texts", "--yes")
    with daemon.client() as client:
        answer = client.post("/v1/continue", json={"text": CANARY, "max_tokens": 4}).json()
        feedback = {"request_id": answer["id"], "outcome": "edited", "text": "better"}
        assert client.post("/v1/feedback", json=feedback).json()["recorded"]

    report = stats("show")
    assert report["features"]["POST /v1/continue"] == 1
    assert report["n_pairs"] == 1
    assert b"POST /v1/continue\t1" in pushkin("stats", "show").stdout

    file = tmp_path / "pairs.jsonl"
    assert pushkin("stats", "export", "--pairs", str(file)).returncode == 0
    pair = json.loads(file.read_text(encoding="utf-8"))
    assert (pair["prompt"], pair["chosen"]) == (CANARY, "better")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600

    counts = pushkin("stats", "export").stdout.decode()
    assert '"outcome": "edited"' in counts
    assert CANARY not in counts

    assert daemon.stop() == 0
    assert stats("show")["n_pairs"] == 1
    assert stats("forget", "--yes")["n_texts"] == 3


def test_forgetting_the_index_forgets_the_statistics(stats, pushkin, home):
    stats("on")
    forgotten = pushkin("index", "forget", "--yes", "--json")

    assert json.loads(forgotten.stdout)["statistics"]["n_bytes"] > 0
    assert not (home / "stats.sqlite3").exists()
