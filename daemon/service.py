"""Install, change and remove the launchd agent: a state machine around `launchctl`.

launchctl's `bootout` returns before the job is gone and `bootstrap` fails with 5 while it still
goes; both are waited for. Only exit codes and four fields of `print` are relied on.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from daemon.errors import NotOnThisSystem, ServiceError
from daemon.launchd import (
    EXIT_TIMEOUT_S,
    LABEL,
    Job,
    agent_file,
    find_guarded_folder,
    render,
)
from daemon.paths import Paths, prepare
from daemon.plist_lint import lint

_NO_SUCH_SERVICE = (3, 113)
_STILL_GOING = 5
_DISABLED = (37, 119)
_BOOTSTRAP_PAUSES_S = (1, 2, 4, 8)  # between five attempts
_POLL_S = 0.25
_HEALTH_TIMEOUT_S = 20.0
_PRINTED = ("state", "pid", "last exit code", "spawn type")


@dataclass(frozen=True, slots=True, kw_only=True)
class Mac:
    """The outside world of this module, so that tests can give another one."""

    platform: str = sys.platform
    uid: int = field(default_factory=os.getuid)
    user_home: Path = field(default_factory=Path.home)
    sleep: Callable[[float], None] = time.sleep
    monotonic: Callable[[], float] = time.monotonic

    @property
    def domain(self) -> str:
        return f"gui/{self.uid}"

    @property
    def target(self) -> str:
        return f"{self.domain}/{LABEL}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceStatus:
    """What launchd says; `launchd` holds the fields of `launchctl print` we understand."""

    installed: bool
    loaded: bool
    launchd: dict[str, str]


def install(job: Job, paths: Paths, mac: Mac, is_healthy: Callable[[], bool]) -> None:
    """Write the plist, (re)load the agent and wait until it answers.

    is_healthy: asks the daemon once; polled for 20 s. Safe to call again at any time: it is also
    how a changed port or a moved virtual environment takes effect.
    """
    _require_macos(mac)
    if _launchctl("print", mac.domain).returncode:
        raise ServiceError(
            "There is no graphical login session, and a per-user agent lives in one. "
            "Log in once at the screen, then run this again."
        )
    guarded = find_guarded_folder(job, mac.user_home)
    if guarded:
        raise ServiceError(
            f"macOS keeps background programs out of {guarded}, and the daemon would start from "
            "there. Move the folder with the virtual environment elsewhere, for example to "
            f"{mac.user_home / 'Pushkin'}, run `make setup` there, and install again."
        )
    plist = agent_file(mac.user_home)
    content = render(job)
    problems = lint(content, plist.name)
    if problems:
        raise ServiceError("The launchd plist is not fit to install:\n" + "\n".join(problems))
    prepare(paths)
    _write_plist(plist, content)
    _launchctl("enable", mac.target)  # a disabled label cannot be bootstrapped
    _unload(mac)
    _load(plist, mac)
    _await_health(mac, is_healthy)


def uninstall(mac: Mac) -> bool:
    """Stop the agent and remove its plist; False if there was neither. State is left alone."""
    _require_macos(mac)
    plist = agent_file(mac.user_home)
    was_there = plist.exists() or _is_loaded(mac)
    _unload(mac)
    plist.unlink(missing_ok=True)
    return was_there


def restart(mac: Mac, is_healthy: Callable[[], bool]) -> None:
    """Stop the running daemon and start it again with the plist that launchd already has."""
    _require_macos(mac)
    if not _is_loaded(mac):
        raise ServiceError("The service is not installed. Run `pushkin service install`.")
    _check(_launchctl("kickstart", "-k", mac.target), "kickstart")
    _await_health(mac, is_healthy)


def status(mac: Mac) -> ServiceStatus:
    """Return what launchd knows about the agent."""
    _require_macos(mac)
    printed = _launchctl("print", mac.target)
    loaded = printed.returncode == 0
    return ServiceStatus(
        installed=agent_file(mac.user_home).exists(),
        loaded=loaded,
        launchd=_printed_fields(printed.stdout) if loaded else {},
    )


def _require_macos(mac: Mac) -> None:
    if mac.platform != "darwin":
        raise NotOnThisSystem(
            "`pushkin service` is for macOS (launchd). Here, run `pushkin serve` under your own "
            "service manager: it stays in the foreground and stops on SIGTERM."
        )


def _unload(mac: Mac) -> None:
    result = _launchctl("bootout", mac.target)
    if result.returncode and result.returncode not in _NO_SUCH_SERVICE and _is_loaded(mac):
        _check(result, "bootout")
    deadline = mac.monotonic() + EXIT_TIMEOUT_S + 5
    while _is_loaded(mac):
        if mac.monotonic() >= deadline:
            raise ServiceError(
                f"launchd still has {LABEL} {EXIT_TIMEOUT_S + 5} s after bootout. "
                "Log out and in again, then run this again."
            )
        mac.sleep(_POLL_S)


def _load(plist: Path, mac: Mac) -> None:
    for pause_s in (*_BOOTSTRAP_PAUSES_S, None):
        result = _launchctl("bootstrap", mac.domain, str(plist))
        if result.returncode == 0:
            return
        if result.returncode in _DISABLED:
            _check(_launchctl("enable", mac.target), "enable")
        elif result.returncode != _STILL_GOING:
            break
        if pause_s is not None:
            mac.sleep(pause_s)
    _check(result, "bootstrap")


def _await_health(mac: Mac, is_healthy: Callable[[], bool]) -> None:
    deadline = mac.monotonic() + _HEALTH_TIMEOUT_S
    while not is_healthy():
        if mac.monotonic() >= deadline:
            raise ServiceError(
                f"The daemon did not get ready in {_HEALTH_TIMEOUT_S:.0f} s. "
                "See `pushkin status`, `pushkin service status` and `pushkin logs`."
            )
        mac.sleep(_POLL_S)


def _is_loaded(mac: Mac) -> bool:
    return _launchctl("print", mac.target).returncode == 0


def _write_plist(plist: Path, content: bytes) -> None:
    """Put the plist in place in one step; 0644, which launchd asks for and nothing in it minds."""
    plist.parent.mkdir(parents=True, exist_ok=True)
    temporary = plist.with_name(f".{plist.name}.new")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.chmod(0o644)
    temporary.replace(plist)


def _printed_fields(output: str) -> dict[str, str]:
    fields: dict[str, str] = {}
    for line in output.splitlines():
        key, separator, value = line.strip().partition(" = ")
        if separator and key in _PRINTED:
            fields.setdefault(key, value)
    return fields


def _check(result: subprocess.CompletedProcess[str], verb: str) -> None:
    if result.returncode:
        said = (result.stderr or result.stdout).strip() or "no message"
        raise ServiceError(f"launchctl {verb} failed with {result.returncode}: {said}")


def _launchctl(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = ["launchctl", *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    except FileNotFoundError:
        raise ServiceError("launchctl is not on PATH; on macOS it is /bin/launchctl.") from None
    except subprocess.TimeoutExpired:
        raise ServiceError(f"launchctl {arguments[0]} did not return in 60 s.") from None
