"""Who listens on a port of this machine, for the message about a taken port."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

_TCP_LISTEN = "0A"


@dataclass(frozen=True, slots=True)
class PortOwner:
    """The listening process; is_pushkin: another daemon of ours, of another home or another user."""

    pid: int
    command: str
    is_pushkin: bool

    def __str__(self) -> str:
        if self.is_pushkin:
            return f"another pushkin daemon (pid {self.pid})"
        return f"{self.command} (pid {self.pid})"


def find_port_owner(port: int, platform: str = sys.platform) -> PortOwner | None:
    """Return the listener, or None when the system does not tell (another user's process)."""
    pid = _pid_from_proc(port) if platform == "linux" else _pid_from_lsof(port)
    if pid is None:
        return None
    arguments = _arguments(pid, platform)
    if not arguments:
        return PortOwner(pid, "a process", is_pushkin=False)
    return PortOwner(pid, Path(arguments[0]).name, _is_pushkin(arguments))


def _is_pushkin(arguments: list[str]) -> bool:
    return ("-m", "daemon") in pairwise(arguments) or any(
        Path(a).name == "pushkin" for a in arguments[:3]
    )


def _pid_from_proc(port: int) -> int | None:
    inodes = {
        fields[9]
        for table in (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))
        if table.exists()
        for fields in map(str.split, table.read_text().splitlines()[1:])
        if fields[3] == _TCP_LISTEN and int(fields[1].rpartition(":")[2], 16) == port
    }
    wanted = {f"socket:[{inode}]" for inode in inodes}
    for process in Path("/proc").glob("[0-9]*"):
        if wanted.intersection(_open_files(process)):
            return int(process.name)
    return None


def _open_files(process: Path) -> Iterator[str]:
    """Yield what a process has open: nothing of another user's, or of one that has just ended."""
    with contextlib.suppress(OSError):
        for descriptor in (process / "fd").iterdir():
            with contextlib.suppress(OSError):
                yield str(descriptor.readlink())


def _pid_from_lsof(port: int) -> int | None:
    output = _output("lsof", "-nP", f"-iTCP:{port}", "-sTCP:LISTEN", "-Fp")
    pids = [line[1:] for line in output.splitlines() if line.startswith("p")]
    return int(pids[0]) if pids and pids[0].isdigit() else None


def _arguments(pid: int, platform: str) -> list[str]:
    if platform == "linux":
        try:
            content = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            return []
        return [part.decode("utf-8", "replace") for part in content.split(b"\0") if part]
    return _output("ps", "-ww", "-o", "command=", "-p", str(pid)).split()


def _output(*command: str) -> str:
    try:
        return subprocess.run(
            command, capture_output=True, text=True, timeout=5, check=False
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""
