"""What commonly goes wrong on a machine, looked at one by one: permissions, port, disk, model, daemon."""

from __future__ import annotations

import os
import shutil
import stat
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from daemon.errors import DaemonError
from daemon.instance import find_daemon, read_refusal
from daemon.paths import find_model
from daemon.port_owner import find_port_owner

if TYPE_CHECKING:
    from daemon.config import Loaded

_ENOUGH_DISK = 1 << 30
_FOLDER_MODE, _FILE_MODE = 0o700, 0o600


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One look. ok: None where there is nothing to judge. remedy: what to do, for one that is not ok."""

    name: str
    ok: bool | None
    found: str
    remedy: str = ""


def run_checks(loaded: Loaded) -> list[Check]:
    """Look at everything; changes nothing, never fails."""
    return [
        *_private(loaded),
        _port(loaded),
        _disk(loaded),
        _model(loaded),
        _daemon(loaded),
        _refusal(loaded),
        _faults(loaded),
    ]


def _private(loaded: Loaded) -> Iterator[Check]:
    paths = loaded.paths
    for name, folder in (("home", paths.home), ("logs", paths.logs), ("index", paths.index)):
        yield _mode_check(name, folder, _FOLDER_MODE, "chmod 700")
    files = {"log key": paths.log_key_file, "statistics": paths.usage_file}
    # Any scope's token: `token`, `token-editor` and what else there may be.
    files |= {found.name: found for found in sorted(paths.home.glob("token*")) if found.is_file()}
    for name, file in files.items():
        yield _mode_check(name, file, _FILE_MODE, "chmod 600")


def _mode_check(name: str, path: Path, wanted: int, command: str) -> Check:
    try:
        found = path.lstat()
    except OSError:
        return Check(name=name, ok=None, found="not there yet")
    mode = stat.S_IMODE(found.st_mode)
    if found.st_uid != os.geteuid():
        return Check(name=name, ok=False, found="belongs to another user", remedy="Remove it.")
    is_ok = not mode & ~wanted and not stat.S_ISLNK(found.st_mode)
    remedy = "" if is_ok else f"{command} {path}"
    return Check(name=name, ok=is_ok, found=f"mode {mode:04o}", remedy=remedy)


def _port(loaded: Loaded) -> Check:
    port, endpoint = loaded.config.server.port, find_daemon(loaded.paths)
    if endpoint is not None:
        return Check(name="port", ok=True, found=f"{endpoint.port}, our daemon's")
    owner = find_port_owner(port)
    if owner is None:
        return Check(name="port", ok=True, found=f"{port} is free")
    return Check(
        name="port",
        ok=False,
        found=f"{port} is taken by {owner}",
        remedy="Stop that program, or set server.port.",
    )


def _disk(loaded: Loaded) -> Check:
    folder = next(path for path in (loaded.paths.home, *loaded.paths.home.parents) if path.exists())
    free = shutil.disk_usage(folder).free
    return Check(
        name="disk",
        ok=free >= _ENOUGH_DISK,
        found=f"{free / 2**30:.1f} GB free",
        remedy="" if free >= _ENOUGH_DISK else "Make room: logs and the index need some.",
    )


def _model(loaded: Loaded) -> Check:
    name = loaded.config.runtime.model
    there = (find_model(name, loaded.paths) / "config.json").is_file()
    remedy = "" if there else "`pushkin models list` names those that are there."
    return Check(
        name="model", ok=there, found="installed" if there else "not installed", remedy=remedy
    )


def _daemon(loaded: Loaded) -> Check:
    from daemon.client import DaemonClient

    endpoint = find_daemon(loaded.paths)
    if endpoint is None:
        return Check(name="daemon", ok=None, found="not running")
    try:
        with DaemonClient(loaded, endpoint) as client:
            health = client.health()
    except DaemonError as error:
        found = f"does not answer ({type(error).__name__})"
        return Check(name="daemon", ok=False, found=found, remedy="Restart it.")
    is_ok = health["status"] == "ok"
    remedy = "" if is_ok else "`pushkin logs --level warning` may say why."
    return Check(
        name="daemon",
        ok=is_ok,
        found=f"{health['status']}: {health['reason']}",
        remedy=remedy,
    )


def _refusal(loaded: Loaded) -> Check:
    refused = read_refusal(loaded.paths) is not None
    return Check(
        name="last start",
        ok=not refused,
        found="refused" if refused else "not refused",
        remedy="`pushkin service status` has the reason." if refused and _is_mac() else "",
    )


def _faults(loaded: Loaded) -> Check:
    file = loaded.paths.faults_file
    n_bytes = file.stat().st_size if file.exists() else 0
    return Check(
        name="crashes",
        ok=n_bytes == 0,
        found=f"{n_bytes} bytes in faults.log" if n_bytes else "none recorded",
        remedy="`pushkin diagnose` packs what is needed to look into it." if n_bytes else "",
    )


def _is_mac() -> bool:
    return sys.platform == "darwin"
