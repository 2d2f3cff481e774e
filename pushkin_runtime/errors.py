"""Errors of the runtime; messages are for the person who reads them and never contain their text.

RuntimeFault
├── ModelError            the model folder cannot be used; every mismatch is listed at once
│   ├── ModelNotFound     no such folder, or a required file is missing
│   ├── ModelCorrupt      a file's size or SHA-256 differs from the manifest, or it cannot be parsed
│   ├── ModelUnsupported  a well-formed model of a kind or shape we cannot run
│   └── ModelDoesNotFit   it takes more memory than this machine has left
├── EngineUnavailable     the chosen engine cannot run on this machine
├── EngineFailed          the engine broke while working (out of memory, backend error)
├── InvalidRequest        a request is well typed but cannot be done; `param` names the field
│   └── ContextExceeded   its prompt does not fit the model's context
├── CapabilityMissing     the request is valid but needs a part that is not installed
├── NotReady              the model is still loading (or failed to); try again
├── QueueFull             too many requests wait; try again
└── Draining              the daemon is shutting down
"""

from __future__ import annotations


class RuntimeFault(Exception):
    """Base of every error the runtime raises or reports."""

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class ModelError(RuntimeFault):
    """A model folder cannot be used."""


class ModelNotFound(ModelError):
    """The model folder, or a file it must contain, does not exist."""


class ModelCorrupt(ModelError):
    """A file does not match the manifest, is truncated, or cannot be parsed."""


class ModelUnsupported(ModelError):
    """The model is intact but is not one this runtime can run."""


class ModelDoesNotFit(ModelError):
    """Loading the model would take more memory than is available."""


class EngineUnavailable(RuntimeFault):
    """The engine's library is missing or does not work on this machine."""


class EngineFailed(RuntimeFault):
    """The engine broke in the middle of its work."""


class InvalidRequest(RuntimeFault):
    """The request cannot be carried out as it stands."""


class ContextExceeded(InvalidRequest):
    """The prompt is longer than the model can read, and the caller does not want it cut."""

    def __init__(self, message: str, *, n_prompt_tokens: int = 0, n_context: int = 0) -> None:
        super().__init__(message, param="prompt")
        self.n_prompt_tokens = n_prompt_tokens
        self.n_context = n_context


class CapabilityMissing(RuntimeFault):
    """The request needs a part of the product that is not installed."""


class NotReady(RuntimeFault):
    """The model is not loaded; `retry_after_s` is None when waiting will not help."""

    def __init__(self, message: str, *, retry_after_s: int | None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class QueueFull(RuntimeFault):
    """The bounded queue is full; `retry_after_s` by the pace at which it moves."""

    def __init__(self, message: str, *, retry_after_s: int = 1) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Draining(RuntimeFault):
    """The daemon no longer accepts work."""
