"""Which files of a watched folder are not looked at: hidden and half-written ones, and what `.killahignore` names.

`.killahignore` has the syntax of .gitignore, in any folder of the tree, for what is below it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathspec import GitIgnoreSpec

IGNORE_FILE = ".killahignore"
MAX_IGNORE_BYTES = 64_000
READ_SUFFIXES = frozenset({".txt", ".text", ".md", ".markdown", ".rtf", ".docx", ".odt", ".pdf"})

# Word's and LibreOffice's locks, Apple's safe-save folders, placeholders of files that are in the cloud only.
_HALF_THERE = re.compile(
    r"~\$|\.|.*\.sb-[0-9a-f-]+|.*\.icloud$|.*\.(tmp|part|crdownload|download)$"
)
# Folders that macOS shows as one file.
_PACKAGE = re.compile(
    r".*\.(app|bundle|framework|photoslibrary|musiclibrary|scriv|rtfd|pages|numbers|key|xcodeproj)$",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class IgnoreRules:
    """The rules of one folder and those above it: each with the depth at which its paths begin."""

    levels: tuple[tuple[int, GitIgnoreSpec], ...] = ()

    def within(self, depth: int, content: bytes) -> IgnoreRules:
        """These rules and those of an ignore file that lies `depth` folders below the root."""
        import pathspec

        lines = content[:MAX_IGNORE_BYTES].decode("utf-8", "replace").splitlines()
        usable = [line for line in lines if _is_usable(line)]
        return IgnoreRules((*self.levels, (depth, pathspec.GitIgnoreSpec.from_lines(usable))))

    def ignores(self, parts: Sequence[str], *, is_folder: bool) -> bool:
        """Whether a path, given by its parts below the root, is left out; the deepest rule that speaks wins."""
        for depth, spec in reversed(self.levels):
            path = str(PurePosixPath(*parts[depth:])) + ("/" if is_folder else "")
            verdict = spec.check_file(path).include
            if verdict is not None:
                return verdict
        return False


def is_passed_over(name: str, *, is_folder: bool) -> bool:
    """Whether a name is never looked at, whatever the rules say."""
    if _HALF_THERE.match(name):
        return True
    if is_folder:
        return bool(_PACKAGE.match(name)) or name in ("node_modules", "__pycache__")
    return PurePosixPath(name).suffix.lower() not in READ_SUFFIXES


def _is_usable(line: str) -> bool:
    """Whether pathspec takes it: one bad line must not switch the others off."""
    import pathspec

    try:
        pathspec.GitIgnoreSpec.from_lines([line])
    except ValueError:
        return False
    return True
