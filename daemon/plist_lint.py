"""Checks on a launchd plist that launchd itself does not make: it drops what it does not know.

Three layers: the XML parses; every key is known and of the right type (`bool` is not a number, a
number is not a string); the policy of this project holds. Types follow launchd.plist(5) as
nix-darwin's modules/launchd/launchd.nix has them.
"""

from __future__ import annotations

import ipaddress
import plistlib
import re
from collections.abc import Callable, Iterator
from pathlib import PurePosixPath
from typing import Any, NamedTuple
from xml.parsers.expat import ExpatError


class _Strings(NamedTuple):
    """A dictionary from any key to a string."""


class _Each(NamedTuple):
    """A dictionary from any key to a dictionary of this shape."""

    shape: dict[str, Any]


_LIMITS = {
    "Core": int,
    "CPU": int,
    "Data": int,
    "FileSize": int,
    "MemoryLock": int,
    "NumberOfFiles": int,
    "NumberOfProcesses": int,
    "ResidentSetSize": int,
    "Stack": int,
}
_SOCKET = {
    "SockNodeName": str,
    "SockServiceName": str,
    "SockFamily": str,
    "SockType": str,
    "SockProtocol": str,
    "SockPassive": bool,
}
_SCHEMA: dict[str, Any] = {
    "Label": str,
    "ProgramArguments": list,
    "RunAtLoad": bool,
    "KeepAlive": {"SuccessfulExit": bool, "Crashed": bool},
    "ThrottleInterval": int,
    "ExitTimeOut": int,
    "ProcessType": str,
    "LimitLoadToSessionType": str,
    "Umask": int,
    "WorkingDirectory": str,
    "StandardOutPath": str,
    "StandardErrorPath": str,
    "EnvironmentVariables": _Strings(),
    "SoftResourceLimits": _LIMITS,
    "HardResourceLimits": _LIMITS,
    "Sockets": _Each(_SOCKET),
    "AssociatedBundleIdentifiers": list,
    "Nice": int,
}
_REQUIRED = (
    *("Label", "ProgramArguments", "KeepAlive", "ProcessType", "Umask", "Sockets"),
    *("StandardOutPath", "StandardErrorPath", "HardResourceLimits", "ExitTimeOut"),
)
_WRAPPERS = frozenset({"sh", "bash", "zsh", "env", "uv", "open", "pushkin"})
_SECRET = re.compile(r"(^|_)(TOKEN|SECRET|PASSWORD|PASSWD|KEY|CREDENTIALS?)$", re.IGNORECASE)
_SHARED_FOLDERS = ("/tmp/", "/private/tmp/", "/var/tmp/", "/Users/Shared/")


def lint(content: bytes, file_name: str) -> list[str]:
    """Return everything wrong with a plist; an empty list is a plist that may be installed."""
    try:
        job = plistlib.loads(content, fmt=plistlib.FMT_XML)
    except (plistlib.InvalidFileException, ExpatError, ValueError) as error:
        return [f"not an XML property list: {error}"]
    if not isinstance(job, dict):
        return ["the top of the property list is not a dictionary"]
    problems = [*_schema_problems(job, _SCHEMA, "")]
    problems += [f"{key}: missing" for key in _REQUIRED if key not in job]
    if problems:
        return problems  # the policy checks rely on the types
    return [problem for check in _POLICY for problem in check(job, file_name)]


def _schema_problems(table: dict[str, Any], schema: dict[str, Any], where: str) -> Iterator[str]:
    for key, value in table.items():
        name = f"{where}{key}"
        if key not in schema:
            yield f"{name}: not a key of launchd we use"
        else:
            yield from _type_problems(value, schema[key], name)


def _type_problems(value: object, expected: Any, name: str) -> Iterator[str]:
    if isinstance(expected, type):
        if type(value) is not expected:
            yield f"{name}: expected {expected.__name__}, got {type(value).__name__}"
        elif isinstance(value, list) and not all(isinstance(item, str) for item in value):
            yield f"{name}: expected strings only"
    elif not isinstance(value, dict):
        yield f"{name}: expected a dictionary, got {type(value).__name__}"
    elif isinstance(expected, _Strings):
        wrong = [key for key, item in value.items() if not isinstance(item, str)]
        yield from (f"{name}.{key}: expected a string" for key in wrong)
    elif isinstance(expected, _Each):
        for key, item in value.items():
            yield from _type_problems(item, expected.shape, f"{name}.{key}")
    else:
        yield from _schema_problems(value, expected, f"{name}.")


def _name(job: dict[str, Any], file_name: str) -> Iterator[str]:
    if file_name != f"{job['Label']}.plist":
        yield f"Label: {job['Label']!r} must be the file's name {file_name!r} without .plist"


def _program(job: dict[str, Any], _: str) -> Iterator[str]:
    arguments = job["ProgramArguments"]
    if not arguments or not arguments[0].startswith("/"):
        yield "ProgramArguments: the first must be an absolute path"
    elif PurePosixPath(arguments[0]).name in _WRAPPERS:
        yield "ProgramArguments: the first must be the interpreter itself: macOS's privacy rules name it"


def _paths(job: dict[str, Any], _: str) -> Iterator[str]:
    keys = ("WorkingDirectory", "StandardOutPath", "StandardErrorPath")
    for key in (key for key in keys if key in job):
        path = job[key]
        if not path.startswith("/"):
            yield f"{key}: launchd expands neither ~ nor variables; give an absolute path"
        elif path.startswith(_SHARED_FOLDERS):
            yield f"{key}: other users can read there"


def _environment(job: dict[str, Any], _: str) -> Iterator[str]:
    for key in job.get("EnvironmentVariables", {}):
        if _SECRET.search(key):
            yield f"EnvironmentVariables.{key}: every process of the user can read it"


def _sockets(job: dict[str, Any], _: str) -> Iterator[str]:
    for name, entry in job["Sockets"].items():
        node = entry.get("SockNodeName", "")
        try:
            loopback = ipaddress.ip_address(node).is_loopback
        except ValueError:
            loopback = False
        if not loopback:
            yield f"Sockets.{name}.SockNodeName: {node!r} is not a literal loopback address"
        port = entry.get("SockServiceName", "")
        if not (port.isascii() and port.isdigit() and 1 <= int(port) <= 65535):
            yield f"Sockets.{name}.SockServiceName: {port!r} is not a port number"


def _process(job: dict[str, Any], _: str) -> Iterator[str]:
    if job["ProcessType"] != "Interactive":
        yield "ProcessType: anything but Interactive throttles the CPU and the GPU"
    if job["KeepAlive"] != {"SuccessfulExit": False}:
        yield "KeepAlive: must be {SuccessfulExit: false}: exit 0 stays down, a crash restarts"
    if job["Umask"] != 0o077:
        yield "Umask: must be 63 (0o077 in decimal)"
    if job["HardResourceLimits"].get("Core") != 0:
        yield "HardResourceLimits.Core: must be 0: a core dump is the user's text on disk"
    if job["ExitTimeOut"] < 6:
        yield "ExitTimeOut: must leave the daemon its 5 s to drain (0 means for ever)"
    if "Nice" in job:
        yield "Nice: a negative one needs root, a positive one slows typing"


_POLICY: tuple[Callable[[dict[str, Any], str], Iterator[str]], ...] = (
    *(_name, _program, _paths, _environment, _sockets, _process),
)
