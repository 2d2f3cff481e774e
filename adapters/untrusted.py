"""Files nobody has vouched for: opened once, not through a link, no larger than allowed; strict JSON."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import stat
from collections.abc import Iterator
from io import FileIO
from pathlib import Path
from typing import Any

from adapters.errors import AdapterCorrupt, AdapterNotFound

MAX_JSON_BYTES = 256 << 10

_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK  # a FIFO must not block us


@contextlib.contextmanager
def open_regular(
    path: str | Path,
    where: str,
    max_bytes: int,
    *,
    dir_fd: int | None = None,
    follow_links: bool = False,
) -> Iterator[tuple[FileIO, os.stat_result]]:
    """Open `path` (in the folder `dir_fd`, when given) and stat what was opened.

    where: its name in messages. follow_links: for a source the user has named, such as a folder of Hugging
    Face's cache, which is made of links. Raises AdapterNotFound when there is no such file, AdapterCorrupt when it
    is a link, not a regular file, too large or unreadable (reading inside the block included).
    """
    try:
        descriptor = os.open(path, _FLAGS | (0 if follow_links else os.O_NOFOLLOW), dir_fd=dir_fd)
        try:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode):
                raise AdapterCorrupt(f"{where} is not a regular file.")
            if found.st_size > max_bytes:
                raise AdapterCorrupt(
                    f"{where} has {found.st_size} bytes, expected at most {max_bytes}."
                )
            with FileIO(descriptor, "rb", closefd=False) as file:
                yield file, found
        finally:
            os.close(descriptor)
    except FileNotFoundError as error:
        raise AdapterNotFound(f"{where} is missing.") from error
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise AdapterCorrupt(
                f"{where} is a symbolic link; put the file itself there."
            ) from error
        raise AdapterCorrupt(f"{where} cannot be read: {error.strerror}.") from error


def read_small(
    path: str | Path, where: str, *, dir_fd: int | None = None, follow_links: bool = False
) -> bytes:
    """Return the content of a JSON file, of at most MAX_JSON_BYTES. Raises as `open_regular`."""
    with open_regular(path, where, MAX_JSON_BYTES, dir_fd=dir_fd, follow_links=follow_links) as (
        file,
        found,
    ):
        content = bytearray(found.st_size)
        fill(file, content, where)
        return bytes(content)


def fill(file: FileIO, buffer: bytearray | memoryview, where: str) -> None:
    """Read exactly as many bytes as `buffer` has. Raises AdapterCorrupt at an early end."""
    view, done = memoryview(buffer), 0
    while done < len(view):
        n_read = file.readinto(view[done:])
        if not n_read:
            raise AdapterCorrupt(f"{where} ended after {done} of {len(view)} bytes.")
        done += n_read


def parse_json(content: bytes) -> Any:
    """Return the JSON value; names of an object must differ, numbers must be finite.

    Raises ValueError, also for text that is nested too deeply.
    """
    try:
        return json.loads(
            content,
            object_pairs_hook=_unique,
            parse_constant=_refuse_constant,
            parse_float=_finite,
        )
    except RecursionError:
        raise ValueError("nested too deeply") from None


def short(value: object) -> str:
    """A foreign value for a message: escaped, at most 64 characters."""
    try:
        text = ascii(value)
    except RecursionError:
        return "a deeply nested value"
    return text if len(text) <= 64 else text[:61] + "..."


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for name, value in pairs:
        if name in result:
            raise ValueError(f"the key {short(name)} is there twice")
        result[name] = value
    return result


def _refuse_constant(text: str) -> float:
    raise ValueError(f"{text} is not a number")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{short(text)} is too large a number")
    return value
