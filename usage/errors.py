"""Errors of the usage statistics.

UsageError
├── TextConsentEarly  text may be kept only by a decision of its own, after the one for counts
├── ChoiceUnknown     feedback names a choice that the answer does not have
├── UsageClosed       the daemon stops, or keeps no statistics
└── UsageFault        the file cannot be read or written
"""

from __future__ import annotations


class UsageError(Exception):
    """Base. param: the request field at fault."""

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class TextConsentEarly(UsageError):
    """Counts come first."""


class ChoiceUnknown(UsageError):
    """There is no such choice."""


class UsageClosed(UsageError):
    """Nothing can be kept or asked."""


class UsageFault(UsageError):
    """SQLite failed; the message has its error's name."""
