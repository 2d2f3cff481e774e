"""Errors of the adapters package.

AdapterError
└── AdapterNotFound   the name is well formed but no such adapter is installed
"""

from __future__ import annotations


class AdapterError(Exception):
    """Base of everything that can be wrong with an adapter; `param` is the request field at fault."""

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class AdapterNotFound(AdapterError):
    """A request named an adapter that is not installed."""
