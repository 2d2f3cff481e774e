"""The command line gives its token to nobody who has not proved to know it."""

from __future__ import annotations

import json
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from daemon.auth_token import ensure_token
from daemon.instance import Endpoint, InstanceLock
from daemon.paths import Paths, prepare

Pushkin = Callable[..., subprocess.CompletedProcess[bytes]]


@contextmanager
def squatter(answer: Callable[[bytes], bytes]) -> Iterator[tuple[int, list[bytes]]]:
    """Somebody who listens on a port and answers every request; the port, and all that was sent there."""
    heard: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    connection.settimeout(5)
                    request = connection.recv(65536)
                    heard.append(request)
                    body = answer(request)
                    head = f"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
                    connection.sendall(head.encode() + body)

        thread = threading.Thread(target=serve)
        thread.start()
        yield server.getsockname()[1], heard
        server.shutdown(socket.SHUT_RDWR)
        thread.join()


@contextmanager
def home_that_points_at(home: Path, port: int) -> Iterator[str]:
    """A home whose lock says that the daemon listens on that port; its token."""
    paths = Paths(home, home / "logs")
    prepare(paths)
    with InstanceLock(paths.lock_file) as lock:
        lock.record(Endpoint(pid=1, port=port, version="0"))
        yield ensure_token(paths.token_file)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b'{"status": "ok"}',
        b'{"status": "ok", "proof": null}',
        json.dumps({"status": "ok", "proof": "0" * 64}).encode(),
    ],
)
def test_an_impostor_hears_no_token(home: Path, pushkin: Pushkin, body: bytes) -> None:
    with squatter(lambda _: body) as (port, heard), home_that_points_at(home, port) as token:
        result = pushkin("status")

    assert result.returncode == 4
    assert b"did not prove" in result.stderr
    assert heard
    assert token.encode() not in b"".join(heard)


def test_a_proof_fetched_from_the_daemon_is_no_good_elsewhere(
    start_daemon, home: Path, pushkin: Pushkin
) -> None:
    daemon = start_daemon(home)

    def relay(request: bytes) -> bytes:
        path = request.split(b" ")[1].decode()
        return httpx.get(f"http://127.0.0.1:{daemon.port}{path}", trust_env=False).content

    lock = home / "daemon.lock"
    with squatter(relay) as (port, heard):
        lock.write_bytes(lock.read_bytes().replace(str(daemon.port).encode(), str(port).encode()))
        result = pushkin("status")

    assert result.returncode == 4
    assert b"did not prove" in result.stderr
    assert (home / "token").read_bytes().strip() not in b"".join(heard)


def test_the_daemon_itself_is_believed(start_daemon, home: Path, pushkin: Pushkin) -> None:
    daemon = start_daemon(home)

    assert pushkin("status").returncode == 0
    (home / "token").unlink()
    assert pushkin("status").returncode == 4
    assert daemon.stop() == 0
