"""A real daemon in a process of its own, with the scripted engine and a home under tmp_path."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
PACED_DAEMON = Path(__file__).with_name("paced_daemon.py")
PATIENCE_S = 20.0
LIFETIME_S = 120.0  # a daemon that a broken test leaves waiting


def environment(home: Path, **extra: str) -> dict[str, str]:
    """What a command needs, and nothing of the developer's own settings."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PUSHKIN_", "_PUSHKIN"))}
    path = os.pathsep.join((str(REPOSITORY), os.environ["PYTHONPATH"]))
    defaults = {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "PUSHKIN_PORT": "0"}
    return {**kept, **defaults, "PUSHKIN_HOME": str(home), "PUSHKIN_ENGINE": "scripted", **extra}


def _hear_hang_ups() -> None:
    """`nohup` starts its children with SIGHUP ignored, which the daemon respects."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


class Daemon:
    """A started daemon; `wait_for` reads its JSON lines, so nothing has to sleep."""

    def __init__(self, command: list[str], home: Path, env: Mapping[str, str]) -> None:
        self.home = home
        self.port = 0
        self.process = subprocess.Popen(
            command,
            env=dict(env),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=_hear_hang_ups,
        )
        self._watchdog = threading.Timer(LIFETIME_S, self.process.kill)
        self._watchdog.start()

    def wait_for(self, event: str) -> dict[str, Any]:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            record: dict[str, Any] = json.loads(line)
            if record["event"] == event:
                self.port = record.get("port", self.port)
                return record
        assert self.process.stderr is not None
        pytest.fail(f"the daemon ended before {event!r}: {self.process.stderr.read()}")

    def permit(self, n: int) -> None:
        """Let the paced engine take `n` more steps."""
        self.say(str(n))

    def say(self, line: str) -> None:
        """Tell a program of the tests something, on its stdin."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()

    def client(self) -> httpx.Client:
        token = (self.home / "token").read_text().strip()
        return httpx.Client(
            base_url=f"http://127.0.0.1:{self.port}",
            headers={"Authorization": f"Bearer {token}"},
            trust_env=False,
            timeout=PATIENCE_S,
        )

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(PATIENCE_S)

    def close(self) -> None:
        self._watchdog.cancel()
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            assert pipe is not None
            pipe.close()


StartDaemon = Callable[..., Daemon]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture(scope="module")
def start_daemon() -> Iterator[StartDaemon]:
    """`start_daemon(home)` starts one and waits until it is ready; `paced=True` makes it take permits,
    `program` is another of the tests' daemons, the rest are environment variables."""
    daemons: list[Daemon] = []

    def start(
        home: Path,
        *flags: str,
        paced: bool = False,
        program: Path | None = None,
        ready: bool = True,
        **env: str,
    ) -> Daemon:
        program = PACED_DAEMON if paced else program
        arguments = [str(program)] if program else ["-m", "daemon", "serve", "--json"]
        daemon = Daemon([sys.executable, *arguments, *flags], home, environment(home, **env))
        daemons.append(daemon)
        if ready:
            daemon.wait_for("ready")
        return daemon

    yield start
    for daemon in daemons:
        daemon.close()


@pytest.fixture
def pushkin(home: Path) -> Callable[..., subprocess.CompletedProcess[bytes]]:
    """Run `pushkin …` in a process of its own, with `home`."""

    def run(
        *arguments: str, stdin: bytes = b"", home: Path = home, **env: str
    ) -> subprocess.CompletedProcess[bytes]:
        command = [sys.executable, "-m", "daemon", *arguments]
        return subprocess.run(
            command,
            input=stdin,
            env=environment(home, **env),
            capture_output=True,
            timeout=PATIENCE_S,
            check=False,
        )

    return run
