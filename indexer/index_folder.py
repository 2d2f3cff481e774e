"""The folder of the index: who may open it, the secret that keys its digests, and how it is erased."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import time
from collections.abc import Iterator
from pathlib import Path

from indexer.errors import IndexLocked

SECRET_BYTES = 32

_DATABASE = "index.sqlite3"
_SECRET = "secret"
_LOCK = "lock"
_ERASING = "erasing"
_DAMAGED = "damaged-"
_ZEROS = bytes(1 << 20)


class IndexFolder:
    """Owns the lock on a folder (0700) from `open` to `close`; everything inside is 0600.

    Raises IndexLocked when another process has it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.chmod(0o700)
        self._lock: int | None = self._acquire()
        if (path / _ERASING).exists():
            self.erase()  # a process died while it erased

    @property
    def database(self) -> Path:
        return self.path / _DATABASE

    def close(self) -> None:
        """Let others open the folder; idempotent."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def secret(self) -> bytes:
        """Return the secret of this installation, made at the first call."""
        path = self.path / _SECRET
        with contextlib.suppress(FileNotFoundError):
            found = path.read_bytes()
            if len(found) == SECRET_BYTES:
                return found
        made = secrets.token_bytes(SECRET_BYTES)
        temporary = path.with_name(f".{_SECRET}")
        temporary.unlink(missing_ok=True)
        _write_private(temporary, made)
        temporary.replace(path)
        _sync(self.path)
        return made

    def prepare_database(self) -> None:
        """Create the database file, empty and private, before SQLite does it with other rights."""
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW
        descriptor = os.open(self.database, flags, 0o600)
        os.fchmod(descriptor, 0o600)
        os.close(descriptor)

    def move_aside(self) -> str:
        """Rename a damaged database, never delete it; returns the name it has now."""
        name = f"{_DAMAGED}{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{secrets.token_hex(3)}"
        for suffix in ("", "-wal", "-shm"):
            with contextlib.suppress(FileNotFoundError):
                source = self.database.with_name(_DATABASE + suffix)
                source.rename(self.path / f"{name}.sqlite3{suffix}")
        _sync(self.path)
        return name

    def damaged(self) -> list[str]:
        """Names of the databases that were moved aside."""
        return sorted(path.stem for path in self.path.glob(f"{_DAMAGED}*.sqlite3"))

    def erase(self) -> int:
        """Overwrite and remove every database and the secret; returns the number of bytes.

        A marker is written first: what a killed process leaves half erased is finished at the next open.
        """
        with contextlib.suppress(FileExistsError):
            _write_private(self.path / _ERASING, b"")
        _sync(self.path)
        n_bytes = 0
        for path in sorted(self._erasable()):
            n_bytes += _overwrite(path)
            path.unlink()
        _sync(self.path)
        (self.path / _ERASING).unlink()
        _sync(self.path)
        return n_bytes

    def _erasable(self) -> Iterator[Path]:
        kept = {_LOCK, _ERASING}
        return (path for path in self.path.iterdir() if path.name not in kept and path.is_file())

    def _acquire(self) -> int:
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(self.path / _LOCK, flags, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise IndexLocked(
                "Another process has the index open. Is a daemon running? `pushkin status` says so."
            ) from None
        return descriptor


def _write_private(path: Path, content: bytes) -> None:
    flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW
    with os.fdopen(os.open(path, flags, 0o600), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _overwrite(path: Path) -> int:
    """Fill a file with zeros, to its length; returns that."""
    descriptor = os.open(path, os.O_WRONLY | os.O_NOFOLLOW)
    with os.fdopen(descriptor, "wb", buffering=0) as file:
        n_bytes = left = os.fstat(descriptor).st_size
        while left > 0:
            left -= file.write(_ZEROS[: min(left, len(_ZEROS))])
        os.fsync(descriptor)
    return n_bytes


def _sync(folder: Path) -> None:
    """Make renames and removals in a folder last through a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
