"""The requests of a fuzzed round, sent again just as they were: rounds that are equal tell a leak from a plateau.

schemathesis draws from what the daemon answered before, so two rounds of its own are never quite the same.
"""

from __future__ import annotations

import base64
import http.client
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from benchmarks.harness import Target

_N_WORKERS = 8
_TIMEOUT_S = 30.0
_OF_THE_CONNECTION = {"host", "content-length", "connection", "transfer-encoding", "authorization"}


@dataclass(frozen=True, slots=True)
class Sent:
    """One recorded request. path: with its query. has_token: its Authorization was left out of the record."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    has_token: bool


def read_requests(recorders: Iterable[dict[str, Any]]) -> list[Sent]:
    """The requests in schemathesis' recorders, in their order."""
    return [
        _sent(interaction["request"])
        for recorder in recorders
        for interaction in recorder.get("interactions", {}).values()
    ]


def replay(target: Target, requests: list[Sent]) -> dict[str, int]:
    """Send all of them over eight connections; how often each status came, or each kind of failure."""
    waiting, lock = iter(requests), threading.Lock()
    seen: Counter[str] = Counter()

    def work() -> None:
        connection = http.client.HTTPConnection(target.host, target.port, timeout=_TIMEOUT_S)
        for request in _shared(waiting, lock):
            outcome = _send(connection, request, target.token)
            with lock:
                seen[outcome] += 1
        connection.close()

    workers = [threading.Thread(target=work) for _ in range(_N_WORKERS)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return dict(sorted(seen.items()))


def _sent(request: dict[str, Any]) -> Sent:
    url = urlsplit(request["uri"])
    headers = {name: ", ".join(values) for name, values in request["headers"].items()}
    return Sent(
        method=request["method"],
        path=f"{url.path}?{url.query}" if url.query else url.path,
        headers={
            name: value for name, value in headers.items() if name.lower() not in _OF_THE_CONNECTION
        },
        body=base64.b64decode((request.get("body") or {}).get("$base64", "")),
        has_token="authorization" in {name.lower() for name in headers},
    )


def _shared(waiting: Iterator[Sent], lock: threading.Lock) -> Iterator[Sent]:
    while True:
        with lock:
            request = next(waiting, None)
        if request is None:
            return
        yield request


def _send(connection: http.client.HTTPConnection, request: Sent, token: str) -> str:
    authorization = {"Authorization": f"Bearer {token}"} if request.has_token else {}
    try:
        connection.request(
            request.method, request.path, request.body, request.headers | authorization
        )
        response = connection.getresponse()
        response.read()
    except (OSError, http.client.HTTPException, ValueError) as error:
        connection.close()  # the next request opens it again
        return type(error).__name__
    return str(response.status)
