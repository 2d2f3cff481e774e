"""The log keeps numbers and places, never what somebody wrote."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from daemon.log_ids import LogIds, ensure_log_key
from daemon.logs import start_logging, stop_logging

CANARY = "канарейка-canary"


@pytest.fixture
def log_file(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "daemon.jsonl"
    handler = start_logging(path, "info", LogIds(b"k" * 32))
    yield path
    stop_logging(handler)


def entries(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_an_event_is_one_line_with_its_numbers(log_file: Path) -> None:
    logging.getLogger("pushkin.test").info("done", extra={"code": "r1", "n_tokens": 24})

    (entry,) = entries(log_file)
    assert entry["event"] == "done"
    assert (entry["code"], entry["n_tokens"], entry["level"]) == ("r1", 24, "info")


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


def test_what_a_library_says_is_reduced_to_its_place(log_file: Path) -> None:
    formatted_by_itself = "could not parse " + CANARY
    logging.getLogger("some.library").warning(formatted_by_itself)

    (entry,) = entries(log_file)
    assert entry["event"] == "library message"
    assert str(entry["where"]).startswith("test_logs.test_what_a_library_says")
    assert CANARY not in log_file.read_text(encoding="utf-8")


def test_an_id_that_a_client_chose_is_logged_as_a_digest(log_file: Path) -> None:
    made_here = f"req_{'0123456789ab' * 2}"
    log = logging.getLogger("pushkin.test")
    for request_id in (made_here, "my-secret-novel", "my-secret-novel", "another"):
        log.info("done", extra={"request_id": request_id})

    first, second, third, fourth = (entry["request_id"] for entry in entries(log_file))
    assert first == made_here
    assert second == third == LogIds(b"k" * 32).shown("my-secret-novel")
    assert fourth != third != LogIds(b"l" * 32).shown("my-secret-novel")
    assert "novel" not in log_file.read_text(encoding="utf-8")


def test_the_key_of_the_digests_is_made_once_and_private(tmp_path: Path) -> None:
    path = tmp_path / "log_key"

    assert ensure_log_key(path) == ensure_log_key(path)
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_value_that_could_be_text_is_left_out(log_file: Path) -> None:
    extra = {"route": "/v1/models/{model_id}", "what": "two words", "house": "дом", "n": 3}
    logging.getLogger("pushkin.test").info("done", extra=extra)

    (entry,) = entries(log_file)
    assert (entry["route"], entry["n"]) == ("/v1/models/{model_id}", 3)
    assert not {"what", "house"} & set(entry)
