"""Remove what the daemon has kept of its user: tokens, documents' index, usage, logs.

Only what it made itself, by name: a home may hold other things. Models, adapters and config.toml stay, for
nothing in them is the user's writing.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from api.scopes import SCOPES
from daemon.instance import InstanceLock
from daemon.paths import Paths


def purge(paths: Paths) -> list[Path]:
    """Remove it and return what was there. Raises AlreadyRunning while a daemon lives, OSError."""
    if not paths.home.is_dir():
        return []
    with InstanceLock(paths.lock_file):  # nobody writes meanwhile
        removed = [path for path in _ours(paths) if _remove(path)]
    paths.lock_file.unlink(missing_ok=True)
    return removed


def _ours(paths: Paths) -> list[Path]:
    usage = paths.usage_file
    return [
        *(paths.token_file_of(scope) for scope in SCOPES),
        paths.clients,
        paths.home / "run",
        paths.index,
        *(usage.with_name(usage.name + suffix) for suffix in ("", "-wal", "-shm")),
        paths.log_key_file,
        paths.logs,
        paths.endpoint_file,
        paths.state_file,
    ]


def _remove(path: Path) -> bool:
    """Remove a file, or a folder with all that is in it; a link goes, what it leads to stays."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
        return True
    existed = path.is_symlink() or path.exists()
    path.unlink(missing_ok=True)
    return existed
