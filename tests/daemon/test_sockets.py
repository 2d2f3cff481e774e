"""Loopback only: bound here or inherited from launchd."""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from daemon.errors import PortTaken, SocketsUnusable
from daemon.port_owner import find_port_owner
from daemon.sockets import inherit_from_launchd, open_loopback, turn_away

_ACTIVATE = ctypes.CFUNCTYPE(
    ctypes.c_int,
    ctypes.c_char_p,
    ctypes.POINTER(ctypes.POINTER(ctypes.c_int)),
    ctypes.POINTER(ctypes.c_size_t),
)


class FakeLaunchd:
    """Exports `launch_activate_socket` as libSystem does: C calling convention, malloc'd array."""

    def __init__(self, answers: dict[bytes, int | list[int]]) -> None:
        libc = ctypes.CDLL(None)
        libc.malloc.restype = ctypes.c_void_p
        self.free = libc.free

        def activate(name: bytes, array: Any, count: Any) -> int:
            answer = answers[name]
            if isinstance(answer, int):
                return answer
            memory = libc.malloc(ctypes.sizeof(ctypes.c_int) * max(1, len(answer)))
            array[0] = ctypes.cast(memory, ctypes.POINTER(ctypes.c_int))
            for i, descriptor in enumerate(answer):
                array[0][i] = descriptor
            count[0] = len(answer)
            return 0

        self.launch_activate_socket: Callable[..., int] = _ACTIVATE(activate)


def listening(host: str = "127.0.0.1", port: int = 0) -> int:
    """The descriptor of a listening socket that belongs to nobody yet, as launchd would pass it."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, port), family=family) as server:
        return os.dup(server.fileno())


def port_of(descriptor: int) -> int:
    with socket.socket(fileno=os.dup(descriptor)) as server:
        return int(server.getsockname()[1])


def test_both_loopback_families_listen_on_the_same_port() -> None:
    listeners = open_loopback(0)

    try:
        hosts = [s.getsockname()[0] for s in listeners.sockets]
        ports = {s.getsockname()[1] for s in listeners.sockets}
        assert ports == {listeners.port}
        assert hosts == (["127.0.0.1"] if listeners.notes else ["127.0.0.1", "::1"])
        assert listeners.addresses[0] == f"127.0.0.1:{listeners.port}"
    finally:
        listeners.close()


def test_connections_wait_from_the_moment_the_sockets_are_open() -> None:
    listeners = open_loopback(0)

    with socket.create_connection(("127.0.0.1", listeners.port), timeout=1):
        pass
    listeners.close()


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_port_taken_on_either_family_is_refused_with_its_owner(host: str) -> None:
    try:
        descriptor = listening(host)
    except OSError:
        pytest.skip("no IPv6 loopback here")
    port = port_of(descriptor)

    with pytest.raises(PortTaken, match=rf"Port {port} is taken by .*\(pid {os.getpid()}\)"):
        open_loopback(port)
    os.close(descriptor)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_owner_of_a_port_is_found_and_a_free_port_has_none() -> None:
    descriptor = listening()
    port = port_of(descriptor)

    owner = find_port_owner(port)
    os.close(descriptor)

    assert owner is not None
    assert owner.pid == os.getpid()
    assert not owner.is_pushkin
    assert find_port_owner(port) is None


def test_sockets_of_launchd_are_taken_over() -> None:
    ipv4 = listening()
    port = port_of(ipv4)
    ipv6 = listening("::1", port)
    os.set_inheritable(ipv4, True)

    listeners = inherit_from_launchd(FakeLaunchd({b"http4": [ipv4], b"http6": [ipv6]}))

    assert listeners is not None
    assert listeners.port == port
    assert [s.fileno() for s in listeners.sockets] == [ipv4, ipv6]
    assert not os.get_inheritable(ipv4)
    listeners.close()


@pytest.mark.parametrize("code", [errno.ESRCH, errno.ENOENT])
def test_without_sockets_of_launchd_we_bind_ourselves(code: int) -> None:
    assert inherit_from_launchd(FakeLaunchd({b"http4": code, b"http6": code})) is None


def test_a_library_without_the_function_is_not_macos() -> None:
    assert inherit_from_launchd(object()) is None


def test_taking_the_sockets_twice_is_an_error_with_a_name() -> None:
    with pytest.raises(SocketsUnusable, match="http4"):
        inherit_from_launchd(FakeLaunchd({b"http4": errno.EALREADY, b"http6": errno.EALREADY}))


def test_a_socket_that_others_can_reach_is_refused_and_closed() -> None:
    open_to_all = listening("0.0.0.0")

    with pytest.raises(SocketsUnusable, match="loopback addresses only"):
        inherit_from_launchd(FakeLaunchd({b"http4": [open_to_all], b"http6": errno.ENOENT}))

    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(open_to_all)


def test_turning_away_leaves_no_connection_waiting() -> None:
    listeners = open_loopback(0)
    with socket.create_connection(("127.0.0.1", listeners.port), timeout=5) as client:
        turn_away(listeners)

        assert client.recv(1) == b""


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("/opt/p/bin/python -I -m daemon serve --launchd", "another pushkin daemon (pid 4242)"),
        ("/usr/bin/ruby server.rb", "ruby (pid 4242)"),
        ("", "a process (pid 4242)"),
    ],
)
def test_on_macos_the_owner_comes_from_lsof_and_ps(
    command: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, output in (("lsof", "p4242\nf7"), ("ps", command)):
        program = tmp_path / name
        program.write_text(f"#!/bin/sh\necho '{output}'\n")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))

    assert str(find_port_owner(1799, platform="darwin")) == expected


def test_without_lsof_the_owner_is_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    assert find_port_owner(1799, platform="darwin") is None
