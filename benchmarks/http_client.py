"""The leanest honest client: one blocking keep-alive connection, events stamped as they arrive.

Its own cost is part of every figure, as an editor's client would be.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Any

from benchmarks.harness import Target

TIMEOUT_S = 60.0

Body = dict[str, Any]


@dataclass(frozen=True, slots=True)
class ServerEvent:
    """One server-sent event; at_ms: since just before the request was sent."""

    name: str
    data: dict[str, Any]
    at_ms: float


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer; total_ms: from just before the request was sent to its last byte."""

    status: int
    data: dict[str, Any]
    total_ms: float


class Refused(Exception):
    """An answer that is not a success; `code` is the API's own."""

    def __init__(self, status: int, data: dict[str, Any]) -> None:
        error = data["error"]
        super().__init__(f"{status} {error['code']}: {error['message']}")
        self.status = status
        self.code = str(error["code"])  # a number in llama-server's dialect


class Broken(Exception):
    """The connection ended before the answer did."""


class Client:
    """One connection, opened when needed; used from one thread but for `disconnect`.

    program: its User-Agent; programs are served in turn.
    """

    def __init__(
        self, target: Target, timeout_s: float = TIMEOUT_S, program: str = "benchmark"
    ) -> None:
        self._headers = {
            "Authorization": f"Bearer {target.token}",
            "Content-Type": "application/json",
            "User-Agent": program,
        }
        self._connection = http.client.HTTPConnection(target.host, target.port, timeout=timeout_s)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; the next request opens a new one."""
        self._connection.close()

    def call(
        self, method: str, path: str, body: Body | None = None, *, request_id: str | None = None
    ) -> Answer:
        """One request and its whole answer, whatever its status; `data` is empty for what is not JSON.

        Raises Broken when the connection ended before the answer did.
        """
        started = time.perf_counter()
        response = self._send(method, path, body, request_id)
        try:
            content = response.read()
        except http.client.IncompleteRead as error:
            raise Broken("IncompleteRead") from error
        total_ms = (time.perf_counter() - started) * 1000
        is_json = (response.getheader("Content-Type") or "").startswith("application/json")
        return Answer(response.status, json.loads(content) if is_json else {}, total_ms)

    def stream(
        self, path: str, body: Body, *, request_id: str | None = None
    ) -> Generator[ServerEvent, None, None]:
        """Yield the events of one generation. Closing the iterator early disconnects.

        Raises Refused, or Broken when the connection ended before the stream did.
        """
        started = time.perf_counter()
        response = self._send("POST", path, {**body, "stream": True}, request_id)
        if response.status != 200:
            raise Refused(response.status, json.loads(response.read()))
        is_complete = False
        try:
            for name, data in _events(response):
                yield ServerEvent(name, data, (time.perf_counter() - started) * 1000)
            is_complete = True
        except (OSError, http.client.HTTPException, ValueError, AttributeError) as error:
            # http.client itself trips over a socket that was shut down between two chunks.
            raise Broken(type(error).__name__) from error
        finally:
            if not is_complete:
                self._connection.close()

    def abandon(self, path: str, body: Body, after_s: float = 0.0) -> None:
        """Send a request and leave, at once or after so long, without reading any answer."""
        content = json.dumps(body, ensure_ascii=False).encode()
        self._connection.request("POST", path, content, self._headers)
        time.sleep(after_s)
        self.disconnect()
        self._connection.close()

    def disconnect(self) -> None:
        """Leave, as an editor that lost interest does; from any thread, also while `stream` reads."""
        if self._connection.sock is not None:
            with contextlib.suppress(OSError):
                self._connection.sock.shutdown(socket.SHUT_RDWR)

    def _send(
        self, method: str, path: str, body: Body | None, request_id: str | None
    ) -> http.client.HTTPResponse:
        headers = self._headers | ({"X-Request-Id": request_id} if request_id else {})
        content = None if body is None else json.dumps(body, ensure_ascii=False).encode()
        try:
            self._connection.request(method, path, content, headers)
            return self._connection.getresponse()
        except BaseException:
            self._connection.close()
            raise


def _events(response: http.client.HTTPResponse) -> Iterator[tuple[str, dict[str, Any]]]:
    name, data = "message", b""
    while line := response.readline():
        field, _, value = line.rstrip(b"\n").partition(b": ")
        if field == b"event":
            name = value.decode()
        elif field == b"data":
            data = value
        elif not field and data:
            if data != b"[DONE]":  # how a stream ends in OpenAI's dialect
                yield name, json.loads(data)
            name, data = "message", b""
