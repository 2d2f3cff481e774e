"""`pushkin logs`: over rotated files, by level, time and request, and onwards."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path

import pytest

from daemon.errors import InputError
from daemon.log_reader import Wanted, entries, follow, parse_since, pretty

NOW = datetime(2026, 11, 27, 10, 0, 0, tzinfo=UTC)


def line(event: str, **fields: object) -> str:
    entry = {"time": "2026-11-27T09:00:00.000Z", "level": "info", "event": event, **fields}
    return json.dumps(entry) + "\n"


def append(log: Path, text: str) -> None:
    with log.open("a") as file:
        file.write(text)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "daemon.jsonl"
    (tmp_path / "daemon.jsonl.10").write_text(line("first"))
    (tmp_path / "daemon.jsonl.2").write_text(line("second", level="error"))
    (tmp_path / "daemon.jsonl.1").write_text(line("third", time="2026-11-27T09:59:00.000Z"))
    path.write_text("half a li\n[1]\n" + line("fourth", request_id="req_1", level="debug"))
    return path


def events(log: Path, **wanted: str) -> list[str]:
    return [entry["event"] for entry in entries(log, Wanted(**wanted))]


def test_rotated_files_are_read_oldest_first_and_rubbish_is_left_out(log):
    assert events(log) == ["first", "second", "third", "fourth"]


def test_entries_are_chosen_by_level_time_and_request(log):
    assert events(log, level="warning") == ["second"]
    assert events(log, level="info") == ["first", "second", "third"]
    assert events(log, since=parse_since("10m", NOW)) == ["third"]
    assert events(log, request_id="req_1") == ["fourth"]
    assert events(log.with_name("none.jsonl")) == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("90s", "2026-11-27T09:58:30"),
        ("2h", "2026-11-27T08:00:00"),
        ("3d", "2026-11-24T10:00:00"),
        ("2026-11-27T09:30:00+03:00", "2026-11-27T06:30:00"),
    ],
)
def test_times_are_given_as_an_age_or_as_a_date(text, expected):
    assert parse_since(text, NOW) == expected


@pytest.mark.parametrize("text", ["yesterday", "5w", "", "99999999999d"])
def test_other_times_are_refused_with_an_example(text):
    with pytest.raises(InputError, match="10m"):
        parse_since(text, NOW)


def test_following_goes_along_with_rotation_and_waits_for_whole_lines(log):
    steps = iter(
        [
            lambda: append(log, line("a")),
            lambda: append(log, '{"event": "half'),
            lambda: append(log, '", "level": "info"}\n'),
            lambda: (append(log, line("b")), log.rename(f"{log}.1")),
            lambda: log.write_text(line("c")),
        ]
    )

    followed = follow(log, Wanted(), sleep=lambda _: next(steps)())

    assert [entry["event"] for entry in islice(followed, 4)] == ["a", "half", "b", "c"]


def test_following_begins_with_a_log_that_is_not_there_yet(tmp_path):
    log = tmp_path / "daemon.jsonl"
    followed = follow(log, Wanted(), sleep=lambda _: log.write_text(line("first")))

    assert next(followed)["event"] == "first"


def test_an_entry_is_one_readable_line():
    shown = pretty({"time": "2026-11-27T09:00:00.000Z", "level": "info", "event": "request finished",
                    "status": 200, "finish_reasons": ["stop", "length"], "route": None})  # fmt: skip

    assert shown.endswith("info     request finished  status=200 finish_reasons=stop,length")
    assert pretty({}) == "?  ?        ?"


def test_a_request_is_found_by_the_id_its_client_chose(start_daemon, pushkin, home):
    daemon = start_daemon(home)
    with daemon.client() as client:
        for request_id in ("my-novel", "another"):
            headers = {"X-Request-Id": request_id}
            client.post("/v1/continue", json={"text": "a", "max_tokens": 1}, headers=headers)
    assert daemon.stop() == 0

    found = pushkin("logs", "--request", "my-novel", "--json").stdout.decode().splitlines()
    (entry,) = [json.loads(one) for one in found]
    assert entry["event"] == "request finished"
    assert entry["finish_reasons"] == ["length"]
    assert b"request finished" in pushkin("logs", "-n", "3").stdout
    assert b"my-novel" not in pushkin("logs").stdout
    assert pushkin("logs", "--since", "soon").returncode == 2
    assert b"no such event" in pushkin("logs", "--request", "nobody").stderr
