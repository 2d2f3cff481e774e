"""Who a request comes from: the one credential it carries, against the digests of the tokens that are valid.

Tokens are compared by their SHA-256, all of them at every request, so the time taken tells nothing about
any; no token is kept in memory.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from api.scopes import TokenScope

Headers = Iterable[tuple[bytes, bytes]]

MIN_TOKEN_LENGTH = 16


@dataclass(frozen=True, slots=True)
class KnownToken:
    """A valid token. digest: 32 bytes, see `token_digest`."""

    scope: TokenScope
    digest: bytes


class TokenSource(Protocol):
    """Where the valid tokens come from."""

    def current(self) -> Sequence[KnownToken]:
        """The tokens valid now; asked at every request, on the event loop."""


@dataclass(frozen=True, slots=True)
class FixedTokens:
    """Tokens that never change."""

    tokens: tuple[KnownToken, ...] = ()

    @classmethod
    def of(cls, tokens: Mapping[str, TokenScope]) -> FixedTokens:
        """token → its scope. Raises ValueError for a token that is no secret."""
        if any(len(token) < MIN_TOKEN_LENGTH for token in tokens):
            raise ValueError(f"tokens: expected at least {MIN_TOKEN_LENGTH} characters in each")
        return cls(tuple(KnownToken(s, token_digest(t.encode())) for t, s in tokens.items()))

    def current(self) -> Sequence[KnownToken]:
        return self.tokens


def token_digest(token: bytes) -> bytes:
    """The SHA-256 of a token's bytes: 256 random bits need no salt and no slow hash."""
    return hashlib.sha256(token).digest()


def find_token(credential: bytes, tokens: Sequence[KnownToken]) -> KnownToken | None:
    """The token that `credential` is; every one is compared, whichever matches."""
    digest = token_digest(credential)
    found = None
    for token in tokens:
        if hmac.compare_digest(token.digest, digest):
            found = token
    return found


def credential_of(headers: Headers) -> bytes | None:
    """The credential of `Authorization: Bearer` or `X-Api-Key`; None unless there is exactly one."""
    given = [(name, value) for name, value in headers if name in (b"authorization", b"x-api-key")]
    if len(given) != 1:
        return None
    name, value = given[0]
    if name == b"x-api-key":
        return value.strip() or None
    scheme, _, credential = value.partition(b" ")
    return (credential.strip() or None) if scheme.lower() == b"bearer" else None
