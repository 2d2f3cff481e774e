"""Nothing leaves this machine: an audit hook that stops connections and name look-ups beyond loopback.

It holds what Python code of this process does, whichever library it is in, and is the last fence, not the
first: nothing in the daemon wants to connect anywhere. Native code that opens sockets on its own is beyond
its sight, and so is the look-up inside `socket.connect` itself of a name that no library has resolved before;
the connection is stopped all the same. A hook is called for every audited event of the interpreter and cannot be taken away again.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
import sys
from collections.abc import Callable
from typing import Any

_CONNECTING = frozenset({"socket.connect", "socket.bind", "socket.sendto", "socket.sendmsg"})
_RESOLVING = frozenset(
    {"socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr", "socket.getnameinfo"}
)
_LOCAL_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
# Beside the loopback of these two, sockets that never leave the machine.
_INTERNET = frozenset({socket.AF_INET, socket.AF_INET6})
_LOCAL_FAMILIES = frozenset({socket.AF_UNIX, getattr(socket, "AF_NETLINK", socket.AF_UNIX)})


class OutboundRefused(PermissionError):
    """A connection or a look-up beyond loopback was about to be made."""

    def __init__(self, event: str) -> None:
        super().__init__(errno.EPERM, f"{event} beyond the loopback interface is not allowed here")


def forbid_outbound(told: Callable[[str], None], *, may_bind: bool = False) -> None:
    """From now on, whatever would reach beyond loopback raises OutboundRefused in this process.

    told: hears the audit event of each, before it is raised. may_bind: let sockets be bound to any interface.
    """
    connecting = _CONNECTING - {"socket.bind"} if may_bind else _CONNECTING

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event in connecting:
            allowed = _is_local_address(arguments[0].family, arguments[1])
        elif event in _RESOLVING:
            host = arguments[0]
            allowed = _is_local_host(host[0] if isinstance(host, tuple) else host)
        else:
            return
        if not allowed:
            told(event)
            raise OutboundRefused(event)

    sys.addaudithook(hook)


def _is_local_address(family: int, address: object) -> bool:
    if family not in _INTERNET:
        return family in _LOCAL_FAMILIES
    if address is None:  # a message on a socket that is connected already
        return True
    # "" is every interface, not none.
    return isinstance(address, tuple) and bool(address[0]) and _is_local_host(address[0])


def _is_local_host(host: object) -> bool:
    if host is None or host in _LOCAL_NAMES:
        return True
    if isinstance(host, bytes):
        host = host.decode("ascii", "replace")
    try:
        return ipaddress.ip_address(str(host)).is_loopback or str(host) in _LOCAL_NAMES
    except ValueError:
        return str(host) in _LOCAL_NAMES
