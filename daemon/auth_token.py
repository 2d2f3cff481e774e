"""A token: 256 random bits in a 0600 file inside the 0700 home, one file for each scope."""

from __future__ import annotations

import os
import re
import secrets
import stat
from pathlib import Path

from daemon.errors import AuthError
from daemon.paths import create_private, replace_private

_TOKEN_BYTES = 32
_MAX_BYTES = 1024
_TOKEN = re.compile(r"[A-Za-z0-9_-]{43}")
_ROTATE = "Run `pushkin token --rotate` (with its `--scope`) for a new one."


def ensure_token(path: Path) -> str:
    """Return the token, making it at the first call; two first calls at once agree on one."""
    if not path.is_symlink() and not path.exists():
        create_private(path, _new_token())
    return read_token(path)


def read_token(path: Path) -> str:
    """Return the token; raise AuthError when it is missing, not ours, or open to others."""
    try:
        content = read_secret(path)
    except FileNotFoundError:
        raise AuthError(f"{path}: no token yet. The first `pushkin serve` makes it.") from None
    except AuthError as error:
        raise AuthError(f"{error} {_ROTATE}") from error
    token = content.decode("ascii", "replace").removesuffix("\n")
    if not _TOKEN.fullmatch(token):
        raise AuthError(f"{path}: does not hold a token. {_ROTATE}")
    return token


def read_secret(path: Path) -> bytes:
    """Return a small file that is ours alone. Raises AuthError, FileNotFoundError."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise AuthError(f"{path}: cannot read the token: {error.strerror}.") from error
    with os.fdopen(descriptor, "rb") as file:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid():
            raise AuthError(f"{path}: is not a plain file of yours.")
        if found.st_mode & 0o077:
            mode = stat.S_IMODE(found.st_mode)
            raise AuthError(
                f"{path}: mode is {mode:04o}, expected 0600: others may know the token."
            )
        return file.read(_MAX_BYTES)


def rotate_token(path: Path) -> str:
    """Replace the token, whatever is there now; a running daemon takes the new one at once."""
    replace_private(path, _new_token())
    return read_token(path)


def _new_token() -> bytes:
    return secrets.token_urlsafe(_TOKEN_BYTES).encode() + b"\n"
