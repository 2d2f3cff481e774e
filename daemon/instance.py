"""One daemon per home: the lock that says so, and the small files that say where it listens.

The lock is an flock, so the kernel drops it when the process dies in whatever way: after `kill -9`
there is nothing stale to reason about. Its file names the process and the port for the clients.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from daemon.errors import AlreadyRunning
from daemon.paths import Paths, replace_private

# A client that looks at the lock holds it for microseconds; a daemon holds it for good.
_LOCK_ATTEMPTS = 20
_LOCK_PAUSE_S = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """A live daemon, as its lock file or endpoint.json describes it. unix_socket: its path, if there is one.

    editor_port: the shipped editor's, if it is served.
    """

    pid: int
    port: int
    version: str
    unix_socket: str | None = None
    editor_port: int | None = None


class InstanceLock:
    """Held for the life of the daemon; a context manager used from the main thread."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: IO[bytes] | None = None

    def __enter__(self) -> InstanceLock:
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        file = os.fdopen(descriptor, "r+b")
        for _ in range(_LOCK_ATTEMPTS):
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                file.truncate(0)
                self._file = file
                return self
            time.sleep(_LOCK_PAUSE_S)
        other = _parse_endpoint(file.read())
        file.close()
        where = f" (pid {other.pid}, port {other.port})" if other else ""
        raise AlreadyRunning(
            f"A pushkin daemon with this home is already running{where}. "
            "Stop it first, or set PUSHKIN_HOME to another folder."
        )

    def record(self, endpoint: Endpoint) -> None:
        """Say who holds the lock and where it listens."""
        assert self._file is not None
        self._file.seek(0)
        self._file.write(_encode(asdict(endpoint)))
        self._file.truncate()
        self._file.flush()

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.truncate(0)
            self._file.close()
            self._file = None


def find_daemon(paths: Paths) -> Endpoint | None:
    """Return the live daemon of this home, ready or still loading; None when there is none.

    A port alone proves nothing (anyone can listen there and collect tokens): only the process
    that holds the lock inside the private home is ours.
    """
    try:
        file = paths.lock_file.open("rb")
    except OSError:
        return None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return _parse_endpoint(file.read())
    return None


def publish_endpoint(paths: Paths, endpoint: Endpoint) -> None:
    """Tell the editor where the ready daemon listens; clears the reason of an earlier refusal."""
    url = f"http://127.0.0.1:{endpoint.port}"
    replace_private(paths.endpoint_file, _encode({"url": url, **asdict(endpoint)}))
    paths.state_file.unlink(missing_ok=True)


def withdraw_endpoint(paths: Paths) -> None:
    """Remove endpoint.json, at exit and at start (a killed daemon leaves it behind)."""
    paths.endpoint_file.unlink(missing_ok=True)


def record_refusal(paths: Paths, reason: str) -> None:
    """Leave word of why the daemon did not start, for `pushkin service status`."""
    when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    replace_private(paths.state_file, _encode({"state": "refused", "at": when, "reason": reason}))


def read_refusal(paths: Paths) -> str | None:
    """Return the reason of the last refusal to start, if nothing has started since."""
    try:
        record = json.loads(paths.state_file.read_bytes())
    except (OSError, ValueError):
        return None
    reason = record.get("reason") if isinstance(record, dict) else None
    return reason if isinstance(reason, str) else None


def _encode(record: dict[str, object]) -> bytes:
    return json.dumps(record, ensure_ascii=False, indent=1).encode() + b"\n"


def _parse_endpoint(content: bytes) -> Endpoint | None:
    try:
        record = json.loads(content)
        unix_socket, editor_port = record.get("unix_socket"), record.get("editor_port")
        return Endpoint(
            pid=int(record["pid"]),
            port=int(record["port"]),
            version=str(record["version"]),
            unix_socket=unix_socket if isinstance(unix_socket, str) else None,
            editor_port=editor_port if isinstance(editor_port, int) else None,
        )
    except (ValueError, KeyError, TypeError):
        return None
