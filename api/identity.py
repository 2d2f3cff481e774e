"""Proof that the one who answers knows a token, asked for before the token is sent to it.

A port proves nothing: whoever listens there first is handed the token by a trusting client. So the
client sends a nonce and the name of its token's key, and checks

    key   = HMAC-SHA256(SHA-256(token), "pushkin identity key 1")
    proof = HMAC-SHA256(key, nonce "\\n" address)        address: "127.0.0.1:1799", where the daemon was reached

The nonce is fresh, so a recorded proof is worth nothing; the address is the daemon's own end of the
connection, so a proof cannot be fetched from the daemon by somebody who listens elsewhere. Neither the
name of the key nor a proof tells anything about a token of 256 random bits.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Sequence

from api.tokens import KnownToken

_KEY = b"pushkin identity key 1"
_KEY_ID = b"pushkin identity name 1"
_N_KEY_ID_DIGITS = 16
_N_NONCE_BYTES = 24


def new_nonce() -> str:
    """A nonce for one question, 32 characters."""
    return secrets.token_urlsafe(_N_NONCE_BYTES)


def key_id(digest: bytes) -> str:
    """The name of the key of the token with this digest: 16 hex digits."""
    return _hmac(digest, _KEY_ID).hex()[:_N_KEY_ID_DIGITS]


def proof(digest: bytes, nonce: str, address: str) -> str:
    """What only who knows the token with this digest can say: 64 hex digits."""
    return _hmac(_hmac(digest, _KEY), f"{nonce}\n{address}".encode()).hex()


def is_proof(given: object, digest: bytes, nonce: str, address: str) -> bool:
    """Whether `given`, of an answer that may say anything, is the proof."""
    expected = proof(digest, nonce, address)
    return isinstance(given, str) and hmac.compare_digest(given.encode(), expected.encode())


def prove(wanted_key: str, nonce: str, address: str, tokens: Sequence[KnownToken]) -> str | None:
    """The proof with the key of that name; None when no token of ours has it."""
    for token in tokens:
        if hmac.compare_digest(key_id(token.digest).encode(), wanted_key.encode()):
            return proof(token.digest, nonce, address)
    return None


def _hmac(key: bytes, message: bytes) -> bytes:
    return hmac.new(key, message, hashlib.sha256).digest()
