"""Reading the log back: over its rotated files, filtered, and onwards as it grows."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO, Any

from daemon.errors import InputError

Entry = dict[str, Any]

LEVELS = ("debug", "info", "warning", "error", "critical")
_AGO = re.compile(r"(\d+)([smhd])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_PAUSE_S = 0.3
_FIRST = ("time", "level", "logger", "event")  # shown by `pretty` in its own way


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which entries. level: the lowest. since: as in the log, UTC. request_id: as the log writes it."""

    level: str = "debug"
    since: str = ""
    request_id: str | None = None

    def fits(self, entry: Entry) -> bool:
        """Whether an entry is one of them."""
        level = entry.get("level", "info")
        return (
            (level not in LEVELS or LEVELS.index(level) >= LEVELS.index(self.level))
            and str(entry.get("time", "")) >= self.since
            and self.request_id in (None, entry.get("request_id"))
        )


def entries(path: Path, wanted: Wanted) -> Iterator[Entry]:
    """Yield what was logged, oldest first; lines that are no entries are left out."""
    for file in log_files(path):
        with file.open(encoding="utf-8", errors="replace") as lines:
            yield from _fitting(lines, wanted)


def follow(
    path: Path, wanted: Wanted, *, sleep: Callable[[float], None] = time.sleep
) -> Iterator[Entry]:
    """Yield what is logged from now on, for ever; goes along when the log is rotated or begins."""
    file = path.open(encoding="utf-8", errors="replace") if path.exists() else None
    if file is not None:
        file.seek(0, 2)
    try:
        while True:
            if file is not None:
                yield from _fitting(_whole_lines(file), wanted)
            if _is_another(path, file):
                if file is not None:
                    yield from _fitting(_whole_lines(file), wanted)  # what came in between
                    file.close()
                file = path.open(encoding="utf-8", errors="replace")
            else:
                sleep(_PAUSE_S)
    finally:
        if file is not None:
            file.close()


def log_files(path: Path) -> list[Path]:
    """The log's files, oldest first."""
    old = [found for found in path.parent.glob(f"{path.name}.*") if found.suffix[1:].isdigit()]
    old.sort(key=lambda found: int(found.suffix[1:]), reverse=True)
    return [*old, path] if path.exists() else old


def parse_since(text: str, now: datetime) -> str:
    """Return the time that "10m", "2h", "3d" or an ISO date and time means, as the log writes times.

    Raises InputError.
    """
    ago = _AGO.fullmatch(text)
    try:
        if ago is not None:
            when = now - timedelta(**{_UNITS[ago[2]]: int(ago[1])})
        else:
            when = datetime.fromisoformat(text)
        return when.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S")
    except (ValueError, OverflowError):
        raise InputError(
            f"--since: expected a time such as 10m, 2h, 3d or 2026-11-27T10:30, got {text!r}."
        ) from None


def pretty(entry: Entry) -> str:
    """One entry for a person: local time, level, event, then the other fields."""
    try:
        when = (
            datetime.fromisoformat(str(entry.get("time"))).astimezone().strftime("%d %b %H:%M:%S")
        )
    except ValueError:
        when = "?"
    fields = " ".join(
        f"{name}={_short(value)}"
        for name, value in entry.items()
        if name not in _FIRST and value is not None
    )
    return f"{when}  {entry.get('level', '?'):7}  {entry.get('event', '?')}  {fields}".rstrip()


def _short(value: object) -> str:
    if isinstance(value, list):
        return ",".join(map(str, value))
    return str(value)


def _fitting(lines: Iterator[str] | IO[str], wanted: Wanted) -> Iterator[Entry]:
    for line in lines:
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict) and wanted.fits(entry):
            yield entry


def _whole_lines(file: IO[str]) -> Iterator[str]:
    """What has been added; a line that is still being written is left for later."""
    while True:
        at = file.tell()
        line = file.readline()
        if not line.endswith("\n"):
            file.seek(at)
            return
        yield line


def _is_another(path: Path, file: IO[str] | None) -> bool:
    try:
        found = path.stat()
    except FileNotFoundError:
        return False
    if file is None:
        return True
    return os.fstat(file.fileno()).st_ino != found.st_ino
