"""The clients that were paired, each a 0600 file with the SHA-256 of its token; the token is theirs alone."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from daemon.auth_token import read_secret
from daemon.errors import AuthError
from daemon.paths import replace_private

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,31}")
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class PairedClient:
    """digest: 32 bytes. paired_at: "2026-11-27T04:00:00Z"."""

    name: str
    digest: bytes
    paired_at: str


class PairedClients:
    """A folder of them; any process may look, add and revoke, each in one step."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def add(self, name: str, digest: bytes) -> None:
        """Remember a client; one of the same name is replaced."""
        self._folder.mkdir(mode=0o700, exist_ok=True)
        paired_at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        record = {"client": name, "sha256": digest.hex(), "paired_at": paired_at}
        replace_private(self._file_of(name), json.dumps(record).encode() + b"\n")

    def revoke(self, name: str) -> bool:
        """Forget a client: its token is nobody's from the next request on. False if there is none."""
        if not _NAME.fullmatch(name):
            return False
        try:
            self._file_of(name).unlink()
        except FileNotFoundError:
            return False
        return True

    def list(self) -> Iterator[PairedClient]:
        """The clients by name. Raises AuthError at a file that cannot be trusted."""
        for path in sorted(self._folder.glob("*.json")):
            yield _parse(path, read_secret(path))

    def _file_of(self, name: str) -> Path:
        return self._folder / f"{name}.json"


def _parse(path: Path, content: bytes) -> PairedClient:
    try:
        record = json.loads(content)
        name, digest, paired_at = record["client"], record["sha256"], record["paired_at"]
        if _NAME.fullmatch(name) and _DIGEST.fullmatch(digest) and isinstance(paired_at, str):
            return PairedClient(name, bytes.fromhex(digest), paired_at)
    except (ValueError, KeyError, TypeError):
        pass
    raise AuthError(f"{path}: does not describe a paired client. Remove it and pair again.")
