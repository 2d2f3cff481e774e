"""Errors of the daemon and its command line; each one carries the exit code it ends with.

DaemonError (1)
├── ConfigError (2)       config.toml, a PUSHKIN_ variable or a flag; every problem is listed at once
├── InputError (2)        the text or an option of a command cannot be used
├── HomeUnusable (1)      the state folder cannot be created, written or kept private
├── NotRunning (3)        no daemon of this home answers
├── AuthError (4)         the token is missing, unsafe, or refused by the daemon
├── AlreadyRunning (1)    another daemon of the same home is alive
├── PortTaken (1)         another process listens on the port
├── SocketsUnusable (1)   no loopback socket to listen on
├── LoadFailed (1)        the model could not be loaded
├── RequestFailed (1)     the daemon or the runtime refused or broke a request
├── TryLater (75)         loading or busy: the same command may work later
├── NotOnThisSystem (69)  the command needs macOS
└── ServiceError (1)      launchctl refused, or the service did not come up
"""

from __future__ import annotations


class DaemonError(Exception):
    """Base; `str()` is the message for the person at the keyboard."""

    exit_code = 1


class ConfigError(DaemonError):
    """The configuration cannot be used."""

    exit_code = 2

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class InputError(DaemonError):
    """What the user gave to a command cannot be used."""

    exit_code = 2


class HomeUnusable(DaemonError):
    """The state folder cannot be created, written to, or kept private."""


class NotRunning(DaemonError):
    """No daemon of this home answers."""

    exit_code = 3


class AuthError(DaemonError):
    """The token is missing, unsafe or refused."""

    exit_code = 4


class AlreadyRunning(DaemonError):
    """Another daemon of the same home holds the lock."""


class PortTaken(DaemonError):
    """Another process listens on the port."""


class SocketsUnusable(DaemonError):
    """There is no loopback socket to listen on."""


class LoadFailed(DaemonError):
    """The model could not be loaded."""


class RequestFailed(DaemonError):
    """A request was refused or broke."""


class TryLater(DaemonError):
    """The model is loading or the queue is full."""

    exit_code = 75


class NotOnThisSystem(DaemonError):
    """The command needs macOS."""

    exit_code = 69


class ServiceError(DaemonError):
    """The launchd service could not be changed or did not come up."""
