"""What schemathesis said is read whole, and its requests are sent again as they were."""

from __future__ import annotations

import ast
import base64
import inspect
import json
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from benchmarks.fuzz_api import is_clean, read_report
from benchmarks.fuzz_replay import Sent, read_requests, replay
from benchmarks.harness import Target
from benchmarks.schemathesis_alone import parse_one_at_a_time

TOKEN = "token-of-the-tests-0123456789"
BODY = '{"text": "Мой дядя"}'.encode()

ERRORED = {
    "NonFatalError": {
        "label": "POST /lora-adapters",
        "phase": "coverage",
        "value": {"type": "FlakyFailure", "message": "Inconsistent results"},
    }
}
STOPPED = {"FatalError": {"exception": {"type": "LoaderError", "message": "no schema"}}}


def recorder(uri: str, *, has_token: bool = True) -> dict[str, Any]:
    headers = {"Content-Type": ["application/json"], "Content-Length": ["999"]}
    return {
        "cases": {"a": {"value": {"method": "POST", "path": "/v1/continue"}}},
        "interactions": {
            "a": {
                "request": {
                    "method": "POST",
                    "uri": uri,
                    "headers": headers | ({"Authorization": ["[Filtered]"]} if has_token else {}),
                    "body": {"$base64": base64.b64encode(BODY).decode()},
                },
                "response": {"status_code": 200},
            }
        },
        "checks": {},
    }


def finished(uri: str = "http://127.0.0.1:1/v1/continue") -> dict[str, Any]:
    return {"ScenarioFinished": {"recorder": recorder(uri)}}


def report_of(*events: dict[str, Any], ended: str = "0") -> dict[str, Any]:
    read = read_report([json.dumps(event) for event in events])
    return {
        "rounds": [{"schemathesis": ended} | read],
        "healthy_afterwards": True,
        "failed_inside": {},
    }


def test_a_route_that_could_not_be_tested_is_an_error_and_not_clean() -> None:
    report = report_of(finished(), ERRORED)

    [round_] = report["rounds"]
    assert round_["cases"] == 1
    assert round_["errors"] == [
        {
            "route": "POST /lora-adapters",
            "phase": "coverage",
            "reason": "FlakyFailure: Inconsistent results",
        }
    ]
    assert not is_clean(report)


def test_an_error_of_the_whole_run_has_no_route() -> None:
    [error] = report_of(STOPPED)["rounds"][0]["errors"]

    assert error == {"route": None, "phase": None, "reason": "LoaderError: no schema"}


def test_a_round_with_nothing_found_is_clean() -> None:
    assert is_clean(report_of(finished()))


@pytest.mark.parametrize("ended", ["1", "2", "stopped at the limit"])
def test_a_round_that_did_not_end_well_is_not_clean(ended: str) -> None:
    assert not is_clean(report_of(finished(), ended=ended))


@pytest.mark.parametrize(
    "fault", [{"healthy_afterwards": False}, {"failed_inside": {"KeyError at a": 1}}]
)
def test_a_daemon_that_is_not_well_is_not_clean(fault: dict[str, Any]) -> None:
    assert not is_clean(report_of(finished()) | fault)


class Seen(ThreadingHTTPServer):
    """Keeps what arrives: path, body, token, type of the body."""

    arrived: list[tuple[str, bytes, str | None, str | None]]


class Answers(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Seen

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.arrived.append(
            (self.path, body, self.headers["Authorization"], self.headers["Content-Type"])
        )
        self.send_response(202)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Seen]:
    with Seen(("127.0.0.1", 0), Answers) as listening:
        listening.arrived = []
        thread = threading.Thread(target=listening.serve_forever)
        thread.start()
        yield listening
        listening.shutdown()
        thread.join()


def test_requests_are_sent_again_as_they_were(server: Seen) -> None:
    recorded = [
        recorder("http://127.0.0.1:1/v1/continue?a=%D0%B0"),
        recorder("http://127.0.0.1:1/v1/continue", has_token=False),
    ]
    target = Target("127.0.0.1", server.server_address[1], TOKEN)

    assert replay(target, read_requests(recorded)) == {"202": 2}
    assert sorted(server.arrived) == [
        ("/v1/continue", BODY, None, "application/json"),
        ("/v1/continue?a=%D0%B0", BODY, f"Bearer {TOKEN}", "application/json"),
    ]


def test_requests_that_fail_are_counted_by_their_failure(server: Seen) -> None:
    line_break = Sent("POST", "/v1/continue", {"X": "a\nb"}, BODY, has_token=False)
    whole = Sent("POST", "/v1/continue", {}, BODY, has_token=False)
    target = Target("127.0.0.1", server.server_address[1], TOKEN)

    assert replay(target, [line_break, whole]) == {"202": 1, "ValueError": 1}


class InACycle:
    """Ends in a collection of garbage, and lets another thread run there."""

    def __init__(self) -> None:
        self.itself = self

    def __del__(self) -> None:
        sum(range(50))


def test_threads_that_parse_at_once_do_not_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ast, "parse", ast.parse)  # it is put back at the end
    source = inspect.getsource(ast.NodeVisitor)
    failures: list[Exception] = []

    def work() -> None:
        for _ in range(20):
            try:
                rubbish = [InACycle() for _ in range(50)]
                ast.parse(source)
                del rubbish
            except SystemError as error:
                failures.append(error)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    parse_one_at_a_time()
    try:
        threads = [threading.Thread(target=work) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)

    assert not failures
