"""The optional Unix socket: in a folder that only its owner can enter, for clients of the same user.

No browser reaches it, no other user does, and no program that is faster at taking a port can stand in for it.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

from daemon.errors import SocketsUnusable

# sun_path holds 104 bytes on macOS, with the zero at the end; 108 on Linux, where we ask for no more.
MAX_PATH_BYTES = 103
_BACKLOG = 128
_REMEDY = "Choose another with server.unix_socket or PUSHKIN_UNIX_SOCKET."
_SOL_LOCAL, _LOCAL_PEERCRED, _XUCRED_BYTES = 0, 1, 76  # <sys/un.h> and <sys/ucred.h> of macOS


class OwnersSocket(socket.socket):
    """A listening socket that takes connections of one user's processes only."""

    owner = -1  # a uid

    def accept(self) -> tuple[socket.socket, object]:
        """Raises ConnectionAbortedError for somebody else, which servers take as "nobody was there"."""
        connection, address = super().accept()
        uid = peer_uid(connection)
        if uid is not None and uid != self.owner:
            connection.close()
            raise ConnectionAbortedError(f"uid {uid} is not the owner's")
        return connection, address


def peer_uid(connection: socket.socket, platform: str = sys.platform) -> int | None:
    """Who is at the other end of a connected Unix socket; None where the system does not tell."""
    if platform == "linux":
        credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        return int(struct.unpack("3i", credentials)[1])  # pid, uid, gid
    if platform == "darwin":
        credentials = connection.getsockopt(_SOL_LOCAL, _LOCAL_PEERCRED, _XUCRED_BYTES)
        return int(struct.unpack_from("2I", credentials)[1])  # version, uid, groups
    return None


@contextlib.contextmanager
def open_unix(path: Path, *, owner: int | None = None) -> Iterator[OwnersSocket]:
    """Listen at `path` for the length of the block; the file is removed afterwards.

    owner: whose connections are taken, ours by default. Raises SocketsUnusable. A file left behind by a killed daemon is replaced; a live socket is not.
    """
    n_bytes = len(os.fsencode(path))
    if n_bytes > MAX_PATH_BYTES:
        raise SocketsUnusable(
            f"{path}: is {n_bytes} bytes long, a Unix socket's path at most {MAX_PATH_BYTES}. {_REMEDY}"
        )
    _prepare_folder(path.parent)
    _remove_stale(path)
    listener = OwnersSocket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.owner = os.geteuid() if owner is None else owner
    try:
        before = os.umask(0o077)
        try:
            listener.bind(os.fspath(path))
        finally:
            os.umask(before)
        listener.listen(_BACKLOG)
        ours = path.lstat().st_ino
    except OSError as error:
        listener.close()
        raise SocketsUnusable(
            f"{path}: cannot listen there: {error.strerror}. {_REMEDY}"
        ) from error
    try:
        yield listener
    finally:
        listener.close()
        with contextlib.suppress(OSError):
            if path.lstat().st_ino == ours:
                path.unlink()


def is_owners(path: Path) -> bool:
    """Whether `path` is a socket that nobody but we (and root) can have put there."""
    try:
        found, folder = path.lstat(), path.parent.lstat()
    except OSError:
        return False
    ours = os.geteuid()
    return (
        stat.S_ISSOCK(found.st_mode)
        and found.st_uid == ours
        and stat.S_ISDIR(folder.st_mode)
        and folder.st_uid == ours
        and not folder.st_mode & 0o077
    )


def _prepare_folder(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except OSError as error:
        raise SocketsUnusable(f"{folder}: cannot create it: {error.strerror}. {_REMEDY}") from error
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
        raise SocketsUnusable(
            f"{folder}: expected a folder of yours with mode 0700 for the Unix socket. {_REMEDY}"
        )


def _remove_stale(path: Path) -> None:
    try:
        found = path.lstat()
    except OSError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise SocketsUnusable(f"{path}: there is something that is not a socket. {_REMEDY}")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(os.fspath(path))
        except ConnectionRefusedError:
            path.unlink()
            return
        except OSError:
            pass
    raise SocketsUnusable(f"{path}: another process listens there. {_REMEDY}")
