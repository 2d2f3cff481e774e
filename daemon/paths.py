"""Where state lives on disk, and how it is kept private: folders 0700, files 0600."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from daemon.errors import HomeUnusable

if TYPE_CHECKING:
    from api.scopes import TokenScope

_REMEDY = "Set PUSHKIN_HOME to a folder of its own that you can write to."


@dataclass(frozen=True, slots=True)
class Paths:
    """Every path the daemon writes; `logs` is outside `home` only in the macOS default."""

    home: Path
    logs: Path

    @property
    def config_file(self) -> Path:
        return self.home / "config.toml"

    @property
    def token_file(self) -> Path:
        return self.home / "token"

    def token_file_of(self, scope: TokenScope) -> Path:
        """`token` is the admin's; the others say whose they are."""
        return self.token_file if scope == "admin" else self.home / f"token.{scope}"

    @property
    def clients(self) -> Path:
        return self.home / "clients"

    def unix_socket(self, setting: str) -> Path | None:
        """Where `server.unix_socket` says; None for "off"."""
        if setting == "off":
            return None
        return self.home / "run" / "pushkin.sock" if setting == "on" else Path(setting)

    @property
    def lock_file(self) -> Path:
        return self.home / "daemon.lock"

    @property
    def endpoint_file(self) -> Path:
        return self.home / "endpoint.json"

    @property
    def state_file(self) -> Path:
        return self.home / "state.json"

    @property
    def models(self) -> Path:
        return self.home / "models"

    @property
    def cache(self) -> Path:
        """What can be made again from what is elsewhere."""
        return self.home / "cache"

    @property
    def adapters(self) -> Path:
        return self.home / "adapters"

    @property
    def index(self) -> Path:
        return self.home / "index.noindex"  # Spotlight leaves such folders alone

    @property
    def usage_file(self) -> Path:
        return self.home / "stats.sqlite3"

    @property
    def log_file(self) -> Path:
        return self.logs / "daemon.jsonl"

    @property
    def log_key_file(self) -> Path:
        return self.home / "log_key"

    @property
    def faults_file(self) -> Path:
        return self.logs / "faults.log"


def paths_for(home: Path | None, *, platform: str, data_home: Path | None = None) -> Paths:
    """Return the paths under `home`, or under the platform's default when it is None.

    data_home: XDG_DATA_HOME, used on Linux only.
    """
    if home is not None:
        return Paths(home, home / "logs")
    if platform == "darwin":
        library = Path.home() / "Library"
        return Paths(library / "Application Support" / "Pushkin", library / "Logs" / "Pushkin")
    home = (data_home or Path.home() / ".local" / "share") / "pushkin"
    return Paths(home, home / "logs")


def bundled_models() -> Path:
    """The models that come with the source tree."""
    return Path(__file__).resolve().parent.parent / "models"


def find_model(name: str, paths: Paths) -> Path:
    """Return the folder of a model: an absolute path, else the user's own, else the bundled one."""
    if Path(name).is_absolute():
        return Path(name)
    own = paths.models / name
    return own if own.is_dir() else bundled_models() / name


def adapter_roots(model_dir: Path, paths: Paths) -> tuple[Path, Path]:
    """Where adapters are looked for: the user's own hide those that come with the model."""
    return paths.adapters, model_dir / "adapters"


def prepare(paths: Paths) -> None:
    """Create the folders with mode 0700 and check that they are ours, private and writable."""
    for folder in (paths.home, paths.logs):
        _prepare_folder(folder)


def _prepare_folder(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.stat()
    except OSError as error:
        raise HomeUnusable(f"{folder}: cannot create it: {error.strerror}. {_REMEDY}") from error
    if found.st_uid != os.geteuid():
        raise HomeUnusable(f"{folder}: belongs to another user (uid {found.st_uid}). {_REMEDY}")
    if found.st_mode & stat.S_ISVTX or folder in (Path.home(), Path("/")):
        raise HomeUnusable(f"{folder}: is shared with other things. {_REMEDY}")
    if found.st_mode & 0o077:
        folder.chmod(0o700)
    if not os.access(folder, os.W_OK | os.X_OK):
        raise HomeUnusable(f"{folder}: cannot be written to. {_REMEDY}")


def create_private(path: Path, content: bytes) -> bool:
    """Create `path` (0600) with `content` in one step; False, and nothing changed, if it exists."""
    temporary = _write_temporary(path, content)
    try:
        os.link(temporary, path, follow_symlinks=False)
    except FileExistsError:
        return False
    finally:
        temporary.unlink()
    return True


def replace_private(path: Path, content: bytes) -> None:
    """Put a file (0600) with `content` in the place of whatever is at `path`, in one step."""
    temporary = _write_temporary(path, content)
    try:
        temporary.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def _write_temporary(path: Path, content: bytes) -> Path:
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW
    with os.fdopen(os.open(temporary, flags, 0o600), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    return temporary
