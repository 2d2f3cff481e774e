"""A locked-down process can compute, and answer on the pipes it has; nothing else."""

from __future__ import annotations

import subprocess
import sys


def test_the_child_can_open_connect_and_start_nothing() -> None:
    """The same lock-down in a process that then tries, in Python and, through libc, as native code would."""
    script = """
import ctypes, os, socket, subprocess, sys
from sandbox.lockdown import limit_resources, lock_down
libc, create_socket, connect = ctypes.CDLL(None), socket.socket, socket.create_connection
limit_resources(1_000_000_000); lock_down()
attempts = {
    "socket": lambda: create_socket(),
    "connection": lambda: connect(("127.0.0.1", 9)),
    "file": lambda: open("/etc/passwd"),
    "folder": lambda: os.listdir("/"),
    "new file": lambda: open("/tmp/x", "w"),
    "process": lambda: subprocess.run(["true"]),
    "fork": os.fork,
}
native = {"socket": lambda: libc.socket(2, 1, 0), "file": lambda: libc.open(b"/etc/passwd", 0), "fork": lambda: libc.fork()}
for name, attempt in attempts.items():
    try:
        attempt(); print("DONE", name)
    except PermissionError:
        pass
for name, attempt in native.items():
    if sys.platform == "linux" and attempt() != -1:
        print("DONE natively", name)
print("end")
"""
    found = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False
    )

    assert found.stdout == "end\n", found.stderr
