"""SHA-256 of files, read once: a large one's is remembered by what the file system says about it.

What is trusted: a file with the path, size, inode, modification and change time it had then has the bytes it had then.
The kernel sets the change time at every write and no program can set it back; who can get around that (the user's own
account by writing to the cache, root by the clock or the disk) can as well replace this program. Damage of the disk
that no write caused goes unnoticed until the file is read again, as it would after a start that had read it well.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import secrets
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from adapters.tensor_writer import write_new

log = logging.getLogger(__name__)

NAME = "file-digests.json"
WORTH_BYTES = 16 << 20  # smaller files are hashed in less than a twentieth of a second
SETTLED_NS = 2_000_000_000  # file systems tell times apart by up to two seconds (FAT)
MAX_FILES = 256  # remembered; the oldest go first

_Stamp = list[int]  # size, inode, mtime and ctime in ns


@dataclass(slots=True)
class FileDigests:
    """One thread at a time. folder: where they are remembered, made when needed; None: nowhere.

    A memory that cannot be read is an empty one, and one that cannot be written stays as it is.
    """

    folder: Path | None = None
    _known: dict[str, tuple[_Stamp, str]] | None = field(default=None, init=False)
    _is_changed: bool = field(default=False, init=False)

    def sha256(self, path: Path, *, expected: str | None = None) -> str:
        """Return the SHA-256 (hex) of a file's bytes; one remembered must be the expected one to be believed.

        Raises OSError.
        """
        if self.folder is None or path.stat().st_size < WORTH_BYTES:
            return _sha256(path)
        if self._known is None:
            self._known = _read(self.folder / NAME)
        key, stamp = str(path.resolve()), _stamp(path)
        found = self._known.pop(key, None)
        if found is None or found[0] != stamp or found[1] != (expected or found[1]):
            started_ns = time.time_ns()
            found = stamp, _sha256(path)
            self._is_changed = True
            # What changes while it is read, or just before, might change again within the same time stamp.
            if _stamp(path) != stamp or started_ns - stamp[3] < SETTLED_NS:
                return found[1]
        self._known[key] = found  # the newest last
        return found[1]

    def save(self) -> None:
        """Write down what was learnt; whole, or not at all."""
        if self.folder is None or self._known is None or not self._is_changed:
            return
        kept = [(key, value) for key, value in self._known.items() if Path(key).is_file()]
        files = {key: {"stamp": stamp, "sha256": sha256} for key, (stamp, sha256) in kept}
        newest = dict(list(files.items())[-MAX_FILES:])
        content = json.dumps(newest, indent=1).encode()
        temporary = self.folder / f".{NAME}.{secrets.token_hex(8)}"
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_new(temporary, [_check(content), content])
            temporary.replace(self.folder / NAME)
            self._is_changed = False
        except OSError as error:
            log.warning("file digests not kept", extra={"reason": error.strerror})
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)


def _read(path: Path) -> dict[str, tuple[_Stamp, str]]:
    """Return what `save` wrote; nothing of it if any of it is damaged."""
    try:
        first, _, content = path.read_bytes().partition(b"\n")
        if first + b"\n" != _check(content):
            return {}
        files: dict[str, Any] = json.loads(content)
        return {key: (file["stamp"], file["sha256"]) for key, file in files.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _check(content: bytes) -> bytes:
    """The first line: it tells a damaged or torn file from a whole one."""
    return hashlib.sha256(content).hexdigest().encode() + b"\n"


def _stamp(path: Path) -> _Stamp:
    now = path.stat()
    return [now.st_size, now.st_ino, now.st_mtime_ns, now.st_ctime_ns]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
