"""The fence around the whole suite: what it stops, what it lets through, and that it stands in children too.

`tests/conftest.py` puts it up for every test and fails the one that was stopped.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from daemon.egress import OutboundRefused

ELSEWHERE = "192.0.2.1"  # a documentation address of RFC 5737: it is nobody's


def udp() -> socket.socket:
    return socket.socket(socket.AF_INET, socket.SOCK_DGRAM)


def tcp() -> socket.socket:
    return socket.socket(socket.AF_INET, socket.SOCK_STREAM)


OUTBOUND = {
    "connect": lambda: tcp().connect((ELSEWHERE, 80)),
    "connect_ex": lambda: tcp().connect_ex((ELSEWHERE, 80)),
    "IPv6": lambda: socket.socket(socket.AF_INET6).connect(("2001:db8::1", 80)),
    "an IPv4 address in IPv6": lambda: socket.socket(socket.AF_INET6).connect(
        ("::ffff:192.0.2.1", 80)
    ),
    "sendto": lambda: udp().sendto(b"x", (ELSEWHERE, 53)),
    "sendmsg": lambda: udp().sendmsg([b"x"], [], 0, (ELSEWHERE, 53)),
    "create_connection": lambda: socket.create_connection((ELSEWHERE, 80), 1),
    "getaddrinfo": lambda: socket.getaddrinfo("example.com", 80),
    "gethostbyname": lambda: socket.gethostbyname("example.com"),
    "gethostbyname_ex": lambda: socket.gethostbyname_ex("example.com"),
    "gethostbyaddr": lambda: socket.gethostbyaddr(ELSEWHERE),
    "getnameinfo": lambda: socket.getnameinfo((ELSEWHERE, 80), 0),
    "a name that begins like ours": lambda: socket.getaddrinfo("localhost.example.com", 80),
}


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("way", OUTBOUND)
def test_it_stops_every_way_out(way: str, outbound_refusals) -> None:
    with pytest.raises(OutboundRefused):
        OUTBOUND[way]()

    assert len(outbound_refusals) == 1


def test_it_lets_the_loopback_be() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        socket.create_connection(("localhost", port), 5).close()
        assert socket.getaddrinfo("127.0.0.1", port)
        assert socket.gethostbyname("localhost") == "127.0.0.1"
    here, there = socket.socketpair()
    with here, there:
        here.sendmsg([b"x"])
        assert there.recv(1) == b"x"


@pytest.mark.parametrize(
    "attempt",
    [
        f"socket.create_connection(({ELSEWHERE!r}, 80), 1)",
        "socket.create_server(('0.0.0.0', 0))",
        "socket.create_server(('', 0))",
    ],
)
def test_it_stands_in_a_child_too(tmp_path: Path, attempt: str) -> None:
    log = tmp_path / "log"
    child = subprocess.run(
        [sys.executable, "-c", f"import socket; {attempt}"],
        env=os.environ | {"OUTBOUND_LOG": str(log)},
        capture_output=True,
        text=True,
        check=False,
    )

    assert "beyond the loopback" in child.stderr
    assert log.read_text().startswith("socket.")
