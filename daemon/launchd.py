"""The launchd job as data: a per-user agent, rendered with plistlib, never by a text template.

Why each key is there: launchd/README.md. launchd ignores what it does not understand, so every
plist passes `plist_lint` before it is installed.
"""

from __future__ import annotations

import plistlib
import sys
from dataclasses import dataclass
from pathlib import Path

from daemon.environment import DEFAULTS
from daemon.sockets import LAUNCHD_SOCKET_NAMES

LABEL = "com.pushkin.daemon"
EXIT_TIMEOUT_S = 15  # our own drain takes at most 5 s
# -I: no PYTHON* variable, user site or current folder can slip code into the daemon.
_ARGUMENTS = ("-I", "-X", "utf8", "-m", "daemon", "serve", "--launchd")
# Reading there needs a permission that a background process cannot ask for: it hangs or is denied.
_GUARDED_FOLDERS = ("Desktop", "Documents", "Downloads", "Library/Mobile Documents")
_NODES = dict(zip(LAUNCHD_SOCKET_NAMES, (("127.0.0.1", "IPv4"), ("::1", "IPv6")), strict=True))


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What differs between installations. custom_home: PUSHKIN_HOME, when it is not the default."""

    interpreter: Path
    port: int
    home: Path
    logs: Path
    custom_home: bool = False


def current_interpreter() -> Path:
    """The venv's own python, not what it links to: the link is what finds the packages."""
    return Path(sys.executable).absolute()


def agent_file(user_home: Path) -> Path:
    """Where a per-user agent's plist lives; the name must be the label."""
    return user_home / "Library" / "LaunchAgents" / f"{LABEL}.plist"


def find_guarded_folder(job: Job, user_home: Path) -> Path | None:
    """Return the privacy-guarded folder the job would have to read from, if there is one."""
    for folder in (user_home / name for name in _GUARDED_FOLDERS):
        if job.interpreter.is_relative_to(folder) or job.home.is_relative_to(folder):
            return folder
    return None


def job_dict(job: Job) -> dict[str, object]:
    """Return the job as launchd's dictionary."""
    environment = {**DEFAULTS, "LANG": "en_US.UTF-8"}
    if job.custom_home:
        environment["PUSHKIN_HOME"] = str(job.home)
    return {
        "Label": LABEL,
        "ProgramArguments": [str(job.interpreter), *_ARGUMENTS],
        "RunAtLoad": True,
        "KeepAlive": {"SuccessfulExit": False},
        "ThrottleInterval": 10,
        "ExitTimeOut": EXIT_TIMEOUT_S,
        "ProcessType": "Interactive",
        "LimitLoadToSessionType": "Aqua",
        "Umask": 0o077,
        "WorkingDirectory": str(job.home),
        "StandardOutPath": str(job.logs / "launchd.out.log"),
        "StandardErrorPath": str(job.logs / "launchd.err.log"),
        "EnvironmentVariables": environment,
        "SoftResourceLimits": {"NumberOfFiles": 4096, "Core": 0},
        "HardResourceLimits": {"Core": 0},
        "Sockets": {
            name: {
                "SockNodeName": node,
                "SockServiceName": str(job.port),
                "SockFamily": family,
                "SockType": "stream",
                "SockPassive": True,
            }
            for name, (node, family) in _NODES.items()
        },
    }


def render(job: Job) -> bytes:
    """Return the plist as XML."""
    return plistlib.dumps(job_dict(job), sort_keys=False)
