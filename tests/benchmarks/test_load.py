"""The rigs of load and kills find what they look for, and nothing where all is well."""

from __future__ import annotations

import argparse
import contextlib
import sqlite3
from collections import Counter
from pathlib import Path

import pytest

from benchmarks.harness import daemon_of, running_daemon
from benchmarks.index_kills import DELETED, Said
from benchmarks.kill_restart import damage, judge
from benchmarks.load import read_mix
from benchmarks.load_mix import DIALECTS, KINDS, TEXTS, CheckedClient, is_served


@pytest.mark.slow
def test_every_kind_of_client_is_answered_rightly() -> None:
    with running_daemon({"engine": "scripted"}) as daemon:
        for kind in filter(lambda kind: is_served(daemon.target, kind), KINDS):
            with contextlib.closing(KINDS[kind](daemon.target, 0)) as client:
                for number in range(15):
                    client.do(number)

            assert client.tally.n_done == 15, kind
            assert client.tally.wrong == Counter(), kind


@pytest.mark.slow
def test_an_answer_that_differs_is_noticed_and_so_is_a_dead_daemon(tmp_path: Path) -> None:
    with daemon_of(tmp_path / "home", {"engine": "scripted"}) as daemon:
        client = CheckedClient(daemon.target, 0, DIALECTS["native"])
        client._expected = dict.fromkeys(TEXTS, "something else")
        for number in range(12):
            client.do(number)
        assert client.tally.wrong["another text"] > 0
    client.do(0)
    client.close()

    assert any(what.startswith("broken") for what in client.tally.wrong)


def test_a_mix_is_read_or_refused() -> None:
    assert read_mix("native=3,documents=1") == {"native": 3, "documents": 1}
    for text in ("native", "native=x", "browsers=3"):
        with pytest.raises(argparse.ArgumentTypeError):
            read_mix(text)


def said() -> Said:
    found = Said()
    found.hear(["try d0 5", "ack d0 5", "try d0 6", "try d1 7"])
    return found


@pytest.mark.parametrize("found", [{"d0": 5}, {"d0": 6}, {"d0": 5, "d1": 7}])
def test_what_was_acknowledged_or_tried_is_right(found: dict[str, int]) -> None:
    assert list(judge(said(), found)) == []


@pytest.mark.parametrize("found", [{}, {"d0": 4}, {"d0": 5, "d1": 8}, {"d0": 5, "d2": 1}])
def test_what_was_lost_or_never_said_is_wrong(found: dict[str, int]) -> None:
    assert len(list(judge(said(), found))) == 1


def test_what_is_there_now_is_what_the_next_has_to_have() -> None:
    known = said()
    assert list(judge(known, {"d0": 6})) == []

    assert known.acknowledged == {"d0": 6, "d1": DELETED}
    assert len(list(judge(known, {"d0": 5}))) == 1


def test_a_damaged_database_is_found(tmp_path: Path) -> None:
    assert list(damage(tmp_path)) == []  # none yet
    folder = tmp_path / "index.noindex"
    folder.mkdir()
    path = folder / "index.sqlite3"
    with contextlib.closing(sqlite3.connect(path)) as database, database:
        database.execute("CREATE TABLE words (word TEXT)")
        database.executemany("INSERT INTO words VALUES (?)", [("word" * 50,)] * 500)
        database.execute("CREATE INDEX by_word ON words (word)")
    assert list(damage(tmp_path)) == []
    content = bytearray(path.read_bytes())
    content[8192:12288] = bytes(4096)
    path.write_bytes(content)

    assert any("integrity_check" in what for what in damage(tmp_path))
