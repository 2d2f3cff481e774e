"""Server-sent events as other people's servers write them: `data:` lines, comments, perhaps `[DONE]`."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Any

TIMEOUT_S = 900.0  # a prefill on a slow backend
HOST = "127.0.0.1"


class PeerFailed(Exception):
    """A peer that did not start, refused a request, or ended a stream early."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One event; at_ms: since just before the request was sent, connection included."""

    data: dict[str, Any]
    at_ms: float


def post_stream(port: int, path: str, body: dict[str, Any]) -> Generator[Frame, None, None]:
    """Yield the frames of one streamed answer, each stamped as it arrives.

    Raises PeerFailed for a status other than 200, an error frame, or a stream without any frame.
    """
    content = json.dumps(body, ensure_ascii=False).encode()
    started = time.perf_counter()
    connection = http.client.HTTPConnection(HOST, port, timeout=TIMEOUT_S)
    with contextlib.closing(connection):
        try:
            connection.request("POST", path, content, {"Content-Type": "application/json"})
            response = connection.getresponse()
            if response.status != 200:
                words = response.read(2000).decode(errors="replace")
                raise PeerFailed(f"POST {path}: {response.status}: {words}")
            n_frames = 0
            for data in _frames(response):
                n_frames += 1
                yield Frame(data, (time.perf_counter() - started) * 1000)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise PeerFailed(f"POST {path}: the answer broke off ({error!r})") from error
        if not n_frames:
            raise PeerFailed(f"POST {path}: the stream ended without a frame")


def post_and_leave(port: int, path: str, body: dict[str, Any], after_s: float) -> None:
    """Send a request and hang up after so long, whatever has come by then."""
    content = json.dumps(body, ensure_ascii=False).encode()
    connection = http.client.HTTPConnection(HOST, port, timeout=TIMEOUT_S)
    with contextlib.closing(connection):
        connection.request("POST", path, content, {"Content-Type": "application/json"})
        time.sleep(after_s)


def _frames(response: http.client.HTTPResponse) -> Iterator[dict[str, Any]]:
    while line := response.readline():
        field, _, value = line.strip().partition(b":")
        if field != b"data" or value.strip() == b"[DONE]":
            continue  # blank lines, pings, progress in comments
        data = json.loads(value)
        if "error" in data:
            raise PeerFailed(f"error frame: {data['error']}")
        yield data


def get_status(port: int, path: str) -> int:
    """The status of a GET, 0 when nobody answers."""
    connection = http.client.HTTPConnection(HOST, port, timeout=5)
    with contextlib.closing(connection):
        try:
            connection.request("GET", path)
            return connection.getresponse().status
        except (OSError, http.client.HTTPException):
            return 0


def free_port() -> int:
    """A port of the loopback that was free a moment ago."""
    with contextlib.closing(socket.create_server((HOST, 0))) as listening:
        port: int = listening.getsockname()[1]
    return port
