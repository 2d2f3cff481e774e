"""The log keeps numbers and places, never what somebody wrote."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from daemon.logs import start_logging, stop_logging

CANARY = "канарейка-canary"


@pytest.fixture
def log_file(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "daemon.jsonl"
    handler = start_logging(path, "info")
    yield path
    stop_logging(handler)


def entries(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_an_event_is_one_line_with_its_numbers(log_file: Path) -> None:
    logging.getLogger("pushkin.test").info("done", extra={"request_id": "r1", "n_tokens": 24})

    (entry,) = entries(log_file)
    assert entry["event"] == "done"
    assert (entry["request_id"], entry["n_tokens"], entry["level"]) == ("r1", 24, "info")


def test_arguments_and_exception_messages_are_left_out(log_file: Path) -> None:
    log = logging.getLogger("somebody.else")
    log.warning("could not parse %s", CANARY)
    log.warning(ValueError(CANARY))
    try:
        raise ValueError(CANARY)
    except ValueError:
        log.exception("failed")

    assert CANARY not in log_file.read_text(encoding="utf-8")
    *_, failed = entries(log_file)
    assert failed["error"] == "ValueError"
    assert "test_arguments_and_exception_messages_are_left_out" in str(failed["stack"])


def test_a_thread_that_dies_is_an_event_without_its_message(log_file: Path) -> None:
    def die() -> None:
        raise RuntimeError(CANARY)

    thread = threading.Thread(target=die, name="worker")
    thread.start()
    thread.join()

    (entry,) = entries(log_file)
    assert (entry["event"], entry["error"], entry["thread_name"]) == (
        "thread died",
        "RuntimeError",
        "worker",
    )
    assert CANARY not in log_file.read_text(encoding="utf-8")
