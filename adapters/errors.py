"""Errors of the adapters package; messages name files, tensors and numbers, never a user's text.

AdapterError
├── AdapterNotFound      the name is well formed but no such adapter is installed
├── AdapterCorrupt       a file is truncated, altered, not finite, or not what its header says
├── AdapterIncompatible  intact, but made for another base or of a shape that does not fit it
├── AdapterUnsupported   of a kind that cannot be served (DoRA, rank above the limit, a pickle)
├── AdapterIneffective   it loads, but changes nothing
├── AdapterExists        one of that name is installed and was not to be replaced
└── AdapterInUse         it cannot be removed or unloaded now
"""

from __future__ import annotations

from collections.abc import Sequence

MAX_LISTED = 12  # problems spelled out in one message; the rest are counted


class AdapterError(Exception):
    """Base of everything that can be wrong with an adapter; `param` is the request field at fault."""

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class AdapterNotFound(AdapterError):
    """A request named an adapter that is not installed."""


class AdapterCorrupt(AdapterError):
    """A file of the adapter cannot be trusted: it does not match its header, its manifest or its sizes."""


class AdapterIncompatible(AdapterError):
    """The adapter was made for another base model, or its shapes do not fit this one."""


class AdapterUnsupported(AdapterError):
    """The adapter is well formed, of a kind that is not served."""


class AdapterIneffective(AdapterError):
    """The adapter is loaded and does nothing: every update is zero."""


class AdapterExists(AdapterError):
    """An adapter of that name is installed, and nothing was said about replacing it."""


class AdapterInUse(AdapterError):
    """The adapter is pinned or running and cannot be dropped."""


def listed(problems: Sequence[str]) -> str:
    """Return all problems as one sentence without its full stop; those beyond MAX_LISTED are counted."""
    more = f"; and {len(problems) - MAX_LISTED} more" if len(problems) > MAX_LISTED else ""
    return "; ".join(problems[:MAX_LISTED]) + more
