"""Look through a folder without ever leaving it: no symbolic link is followed, at any level."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from indexer.errors import DocumentNotFound, DocumentTooLarge
from indexer.ignore import IGNORE_FILE, MAX_IGNORE_BYTES, IgnoreRules, is_passed_over

MAX_FILES = 100_000
MAX_DEPTH = 32
MAX_FILE_BYTES = 50_000_000
_SF_DATALESS = 0x40000000  # macOS: the content is in the cloud, reading would fetch it
_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundFile:
    """A file as the scan saw it. path: relative to the root, with slashes."""

    path: str
    inode: int
    n_bytes: int
    mtime_ns: int


def scan(root: Path) -> list[FoundFile]:
    """Every file that may be read, by path. Raises OSError when the root itself cannot be read.

    Folders inside that cannot be read are passed over.
    """
    descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        found: list[FoundFile] = []
        for file in _walk(descriptor, (), IgnoreRules()):
            found.append(file)
            if len(found) >= MAX_FILES:
                break
        return sorted(found, key=lambda file: file.path)
    finally:
        os.close(descriptor)


def read_beneath(root: Path, path: str) -> bytes:
    """Read a file of the scan. Raises DocumentNotFound if it is not there any more, or is a link now."""
    try:
        with os.fdopen(_open_beneath(root, path.split("/")), "rb") as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise DocumentNotFound("The file is none any more.")
            content = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise DocumentNotFound(f"The file cannot be read ({error.strerror}).") from error
    if len(content) > MAX_FILE_BYTES:
        raise DocumentTooLarge(f"The file is larger than {MAX_FILE_BYTES} bytes.")
    return content


def _walk(folder: int, parts: tuple[str, ...], rules: IgnoreRules) -> Iterator[FoundFile]:
    rules = _with_own_rules(folder, len(parts), rules)
    with os.scandir(folder) as entries:
        listed = sorted(entries, key=lambda entry: entry.name)
        for entry in listed:
            inner = (*parts, entry.name)
            is_folder = entry.is_dir(follow_symlinks=False)
            if is_passed_over(entry.name, is_folder=is_folder) or not _is_text(entry.name):
                continue
            if rules.ignores(inner, is_folder=is_folder):
                continue
            if is_folder and len(parts) < MAX_DEPTH:
                yield from _walk_inside(folder, entry.name, inner, rules)
            elif not is_folder and entry.is_file(follow_symlinks=False):
                found = entry.stat(follow_symlinks=False)
                if not getattr(found, "st_flags", 0) & _SF_DATALESS:
                    yield FoundFile(
                        path="/".join(inner),
                        inode=found.st_ino,
                        n_bytes=found.st_size,
                        mtime_ns=found.st_mtime_ns,
                    )


def _walk_inside(
    folder: int, name: str, parts: tuple[str, ...], rules: IgnoreRules
) -> Iterator[FoundFile]:
    try:
        inner = os.open(name, _OPEN | os.O_DIRECTORY, dir_fd=folder)
    except OSError:
        return
    try:
        yield from _walk(inner, parts, rules)
    finally:
        os.close(inner)


def _with_own_rules(folder: int, depth: int, rules: IgnoreRules) -> IgnoreRules:
    try:
        descriptor = os.open(IGNORE_FILE, _OPEN | os.O_NONBLOCK, dir_fd=folder)
    except OSError:
        return rules
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return rules
        return rules.within(depth, file.read(MAX_IGNORE_BYTES))


def _open_beneath(root: Path, parts: list[str]) -> int:
    """Open step by step, so that no folder on the way can be a link."""
    descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    for position, part in enumerate(parts):
        is_last = position == len(parts) - 1
        flags = _OPEN | (os.O_NONBLOCK if is_last else os.O_DIRECTORY)
        try:
            inner = os.open(part, flags, dir_fd=descriptor)
        finally:
            os.close(descriptor)
        descriptor = inner
    return descriptor


def _is_text(name: str) -> bool:
    """Whether a name is Unicode: others cannot be written into the index, nor shown."""
    return not any("\ud800" <= letter <= "\udfff" for letter in name)
