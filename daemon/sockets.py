"""The listening sockets: inherited from launchd, or bound here. Loopback only, always.

launchd holds the port while the daemon is down, so nobody can squat on it and collect tokens, and
connections wait in its backlog instead of being refused.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import ipaddress
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from daemon.errors import PortTaken, SocketsUnusable
from daemon.port_owner import PortOwner, find_port_owner

LAUNCHD_SOCKET_NAMES = ("http4", "http6")
BACKLOG = 128
_EPHEMERAL_ATTEMPTS = 8


@dataclass(frozen=True, slots=True)
class Listeners:
    """Open sockets on one port, and a Unix socket if that is wanted; notes: what the user may want to know.

    editor: those of the shipped editor's port, if it is served.
    """

    sockets: list[socket.socket]
    port: int
    notes: tuple[str, ...] = ()
    unix_socket: socket.socket | None = None
    editor: Listeners | None = None

    def close(self) -> None:
        """Close what listens on the port; the Unix socket belongs to who opened it."""
        for listener in self.sockets:
            listener.close()

    @property
    def all(self) -> list[socket.socket]:
        """Every socket to serve on."""
        unix = [] if self.unix_socket is None else [self.unix_socket]
        return [*self.sockets, *unix, *(self.editor.sockets if self.editor else [])]

    @property
    def editor_port(self) -> int | None:
        """The shipped editor's port, None where it is not served."""
        return self.editor.port if self.editor else None

    @property
    def unix_path(self) -> str | None:
        """Where the Unix socket is."""
        return None if self.unix_socket is None else str(self.unix_socket.getsockname())

    @property
    def addresses(self) -> list[str]:
        """`host:port` of each socket, IPv6 in brackets."""
        return [
            f"[{s.getsockname()[0]}]:{self.port}"
            if s.family == socket.AF_INET6
            else f"{s.getsockname()[0]}:{self.port}"
            for s in self.sockets
        ]


def open_loopback(
    port: int,
    *,
    find_owner: Callable[[int], PortOwner | None] = find_port_owner,
    backlog: int | None = BACKLOG,
) -> Listeners:
    """Listen on 127.0.0.1 and ::1; port 0 takes one that is free on both.

    backlog: None only takes the port, and connections are refused until the server listens. Raises PortTaken with the owner. A machine without IPv6 gets 127.0.0.1 and a note.
    """
    attempts = 1 if port else _EPHEMERAL_ATTEMPTS
    for attempt in range(attempts):
        ipv4 = _listen((socket.AF_INET, "127.0.0.1", port), find_owner, backlog)
        chosen = ipv4.getsockname()[1]
        try:
            ipv6 = _listen((socket.AF_INET6, "::1", chosen), find_owner, backlog)
        except PortTaken:
            ipv4.close()
            if attempt == attempts - 1:
                raise
        except OSError as error:
            note = f"IPv6 loopback is not available ({error.strerror}): 127.0.0.1 only"
            return Listeners([ipv4], chosen, (note,))
        else:
            return Listeners([ipv4, ipv6], chosen)
    raise AssertionError("unreachable")


def _listen(
    address: tuple[socket.AddressFamily, str, int],
    find_owner: Callable[[int], PortOwner | None],
    backlog: int | None,
) -> socket.socket:
    family, host, port = address
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        send_at_once(listener)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind((host, port))
        if backlog is not None:
            listener.listen(backlog)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            owner = find_owner(port)
            raise PortTaken(
                f"Port {port} is taken by {owner or 'another process'}. "
                "Stop it, or choose another port with --port or PUSHKIN_PORT."
            ) from error
        if error.errno == errno.EACCES:
            raise SocketsUnusable(
                f"Port {port} needs root rights. Choose one from 1024 on with --port."
            ) from error
        raise
    return listener


def inherit_from_launchd(library: Any = None) -> Listeners | None:
    """Return the sockets launchd opened for us, or None when it opened none.

    library: what exports `launch_activate_socket` and `free`; the process itself by default.
    Works once per process: launchd hands the sockets over at the first call.
    """
    library = ctypes.CDLL(None) if library is None else library
    sockets = [s for name in LAUNCHD_SOCKET_NAMES for s in _activate(library, name)]
    if not sockets:
        return None
    try:
        port = _checked_port(sockets)
    except SocketsUnusable:
        Listeners(sockets, 0).close()
        raise
    return Listeners(sockets, port)


def _activate(library: Any, name: str) -> list[socket.socket]:
    try:
        activate = library.launch_activate_socket
    except AttributeError:
        return []  # not macOS
    int_pointer = ctypes.POINTER(ctypes.c_int)
    size_pointer = ctypes.POINTER(ctypes.c_size_t)
    activate.argtypes = [ctypes.c_char_p, ctypes.POINTER(int_pointer), size_pointer]
    activate.restype = ctypes.c_int
    library.free.argtypes = [ctypes.c_void_p]
    library.free.restype = None
    array, count = int_pointer(), ctypes.c_size_t()
    code = activate(name.encode(), ctypes.byref(array), ctypes.byref(count))
    if code in (errno.ESRCH, errno.ENOENT):
        return []  # not a child of launchd, or a plist without Sockets
    if code:
        raise SocketsUnusable(f"launchd gave no socket {name!r}: {os.strerror(code)}")
    descriptors = [array[i] for i in range(count.value)]
    library.free(ctypes.cast(array, ctypes.c_void_p))
    for descriptor in descriptors:
        os.set_inheritable(descriptor, False)
    sockets = [socket.socket(fileno=descriptor) for descriptor in descriptors]
    for listener in sockets:
        if listener.family in (socket.AF_INET, socket.AF_INET6):
            send_at_once(listener)
    return sockets


def send_at_once(listener: socket.socket) -> None:
    """Turn off Nagle's algorithm for every connection the listener will accept.

    asyncio does so only where it recognises the protocol; otherwise an answer in two writes waits
    40 ms for the client's delayed acknowledgement.
    """
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _checked_port(sockets: list[socket.socket]) -> int:
    names = [s.getsockname() for s in sockets]
    foreign = [n[0] for n in names if not ipaddress.ip_address(n[0]).is_loopback]
    ports = {n[1] for n in names}
    if foreign or len(ports) != 1:
        raise SocketsUnusable(
            f"launchd's sockets are {names}, expected one port on loopback addresses only. "
            "Run `pushkin service install` again."
        )
    return int(ports.pop())


def turn_away(listeners: Listeners) -> None:
    """Accept and close what waits, so that launchd does not start us again for it, then close."""
    for listener in listeners.sockets:
        listener.setblocking(False)
        with contextlib.suppress(OSError):
            while True:
                listener.accept()[0].close()
    listeners.close()
