"""Handing a token to an editor that cannot read its file: a sandbox keeps it out of our folder.

The person runs `pushkin pair` and types six digits into the editor. There is one code at a time, it
works once, for two minutes, and dies at the fifth wrong try: who guesses has 5 chances in a million for
each code that a person has asked for. The code is in this process's memory and nowhere else.
"""

from __future__ import annotations

import hmac
import logging
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

from api.tokens import token_digest

log = logging.getLogger("pushkin.api")

PairingEnd = Literal["paired", "refused", "ended"]
Told = Callable[[str, PairingEnd, str | None], None]

CODE_LIFETIME_S = 120.0
MAX_WRONG = 5
_N_DIGITS = 6
_N_TOKEN_BYTES = 32


class ClientBook(Protocol):
    """The paired clients, kept over restarts."""

    def add(self, name: str, digest: bytes) -> None:
        """Accept the token with this digest from now on; one of the same name is replaced."""


class PairingRefused(Exception):
    """No token for this code."""


@dataclass(slots=True)
class Offer:
    """An open code. id: what clients call it where the code itself must not appear."""

    id: str
    code: str
    ends_at: float
    n_wrong: int = 0


class Pairing:
    """The one open code; on the event loop.

    told: hears which offer ended and how: "paired" with a client of that name, "refused" after too many wrong
    tries, or "ended", which is expired, closed, or replaced by another.
    """

    def __init__(
        self, book: ClientBook, told: Told, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._book = book
        self._told = told
        self._clock = clock
        self._offer: Offer | None = None

    def open(self) -> Offer:
        """Make a code, which ends an earlier one."""
        self._end("ended")
        code = "".join(secrets.choice("0123456789") for _ in range(_N_DIGITS))
        offer = Offer(secrets.token_hex(8), code, self._clock() + CODE_LIFETIME_S)
        self._offer = offer
        log.info("pairing opened")
        return offer

    def close(self, offer_id: str) -> None:
        """End that offer if it is still open."""
        if self._offer is not None and self._offer.id == offer_id:
            self._end("ended")

    def redeem(self, code: str, client: str) -> str:
        """Return a new token for `client`. Raises PairingRefused, OSError when it cannot be kept."""
        offer = self._offer
        if offer is not None and self._clock() >= offer.ends_at:
            self._end("ended")
            offer = None
        if offer is None:
            raise PairingRefused
        if not hmac.compare_digest(offer.code.encode(), code.encode()):
            offer.n_wrong += 1
            if offer.n_wrong >= MAX_WRONG:
                self._end("refused")
            raise PairingRefused
        token = secrets.token_urlsafe(_N_TOKEN_BYTES)
        self._book.add(client, token_digest(token.encode()))
        self._end("paired", client)
        return token

    def _end(self, how: PairingEnd, client: str | None = None) -> None:
        offer, self._offer = self._offer, None
        if offer is not None:
            log.info("pairing ended", extra={"how": how, "n_wrong": offer.n_wrong})
            self._told(offer.id, how, client)
