"""Ids in the log: those the daemon made stand as they are, those a client chose only as a keyed digest.

A client may call its request or document what it likes, the title of a novel too. With the key, which never
leaves the home, `pushkin logs --request` finds an id again; without it nothing can be guessed.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from pathlib import Path

from daemon.paths import create_private

_KEY_BYTES = 32
_DIGEST_BYTES = 8
_MADE_HERE = re.compile(r"(req|job)_[0-9a-f]{24}(-\d{1,2})?|self-test-[0-9a-f]{32}")


class LogIds:
    """How ids are written in the log. key: secret of this installation."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def shown(self, value: str) -> str:
        """Return an id as the log has it."""
        if _MADE_HERE.fullmatch(value):
            return value
        raw = value.encode("utf-8", "surrogatepass")
        return f"#{hashlib.blake2b(raw, key=self._key, digest_size=_DIGEST_BYTES).hexdigest()}"


def ensure_log_key(path: Path) -> bytes:
    """Return the key, making it at the first call; one that cannot be used is replaced in memory only."""
    if not path.exists():
        create_private(path, secrets.token_bytes(_KEY_BYTES))
    found = path.read_bytes()
    return found if len(found) == _KEY_BYTES else secrets.token_bytes(_KEY_BYTES)
