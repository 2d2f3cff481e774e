"""The tokens that are valid now, as their files say, for a daemon that runs on while they change."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from api.scopes import SCOPES, TokenScope
from api.tokens import KnownToken, token_digest
from daemon.auth_token import read_token
from daemon.errors import AuthError
from daemon.paired_clients import PairedClients
from daemon.paths import Paths

log = logging.getLogger(__name__)

Signature = tuple[tuple[int, int] | None, ...]


class TokenFiles:
    """A `TokenSource`. A rotated, added or removed file counts from the next request on.

    Its files are looked at before each request, which costs some microseconds; they are read again when
    they have changed. Used on the event loop.
    """

    def __init__(self, paths: Paths) -> None:
        self._paths = paths
        self._signature: Signature = ()
        self._tokens: tuple[KnownToken, ...] = ()

    def current(self) -> Sequence[KnownToken]:
        files = (*(self._paths.token_file_of(scope) for scope in SCOPES), self._paths.clients)
        signature = tuple(_mark(path) for path in files)
        if signature != self._signature:
            # The look comes first: what changes while the files are read is seen at the next request.
            self._signature, self._tokens = signature, tuple(self._read())
        return self._tokens

    def _read(self) -> list[KnownToken]:
        found = (self._token_of(scope) for scope in SCOPES)
        return [token for token in found if token is not None] + self._paired()

    def _paired(self) -> list[KnownToken]:
        try:
            clients = PairedClients(self._paths.clients).list()
            return [KnownToken("editor", client.digest) for client in clients]
        except (AuthError, OSError):
            log.warning("paired clients unusable")
            return []

    def _token_of(self, scope: TokenScope) -> KnownToken | None:
        path = self._paths.token_file_of(scope)
        if _mark(path) is None:
            return None
        try:
            return KnownToken(scope, token_digest(read_token(path).encode()))
        except (AuthError, OSError):
            # Closed, not open: a file that others can read or that is damaged is nobody's token.
            log.warning("token unusable", extra={"scope": scope})
            return None


def _mark(path: Path) -> tuple[int, int] | None:
    """What changes when a file is replaced, rewritten or its mode set, or when a folder's files change;
    None where there is none."""
    try:
        found = path.lstat()
    except OSError:
        return None
    return found.st_ino, found.st_ctime_ns
