"""The diagnostics bundle: what somebody else needs to find a fault, and nothing that is the user's.

Never a text, a token, a document's name or a path with one. Settings that name things of the user's own are
reduced to how many there are; the home folder and the user's name are replaced wherever they stand.
"""

from __future__ import annotations

import getpass
import io
import json
import platform
import re
import zipfile
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from daemon import __version__
from daemon.config import leaves
from daemon.doctor import run_checks
from daemon.errors import DaemonError
from daemon.instance import find_daemon
from daemon.log_reader import Wanted, entries
from daemon.paths import bundled_models

if TYPE_CHECKING:
    from daemon.client import DaemonClient
    from daemon.config import Loaded

N_LOG_ENTRIES = 1000
MAX_FAULTS_BYTES = 50_000

_LIBRARIES = ("fastapi", "mlx", "mlx-lm", "numpy", "starlette", "tokenizers", "torch", "uvicorn")
# Settings whose values are words or numbers of ours; all others may name what is the user's own.
_PLAIN = re.compile(r"auto|none|mlx|onnx|torch|scripted|executorch|debug|info|warning|error")
_ABOUT = """\
What is in here: versions, settings (names of your own reduced to their number), the state and the metrics of the
daemon, the newest events of its log, crash stacks, what launchd says, and a few checks of this machine.
What is not: anything you wrote or had written, names of documents, tokens, the name of your home folder.
Nothing is sent anywhere: look through it, and give it to whom you like.
"""


@dataclass(frozen=True, slots=True)
class Part:
    """A file of the bundle."""

    name: str
    content: str


def gather(loaded: Loaded) -> list[Part]:
    """Look at everything and return it, redacted; what cannot be had is said in its place."""
    redact = redactor(loaded)
    raw: dict[str, str] = {
        "about.txt": _ABOUT,
        "versions.json": _json(_versions()),
        "settings.json": _json(_settings(loaded)),
        "checks.json": _json([asdict(check) for check in run_checks(loaded)]),
        **_from_daemon(loaded),
        "log.jsonl": _log(loaded),
        "faults.txt": _faults(loaded.paths.faults_file),
        "launchd.json": _json(_launchd()),
    }
    return [Part(name, redact(content)) for name, content in raw.items()]


def packed(parts: list[Part]) -> bytes:
    """Return the parts as a zip file."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as bundle:
        for part in parts:
            bundle.writestr(part.name, part.content)
    return buffer.getvalue()


def redactor(loaded: Loaded) -> Callable[[str], str]:
    """Return what replaces the user's own names: folders, their login, a model they installed."""
    model = Path(loaded.config.runtime.model).name
    known = {folder.name for folder in bundled_models().iterdir()}
    names = {
        str(loaded.paths.logs): "<logs>",
        str(loaded.paths.home): "<home>",
        str(Path.home()): "~",
        **({} if model in known else {model: "<model>"}),
    }
    login = re.compile(rf"(?<![\w.-]){re.escape(_login())}(?![\w-])")

    def redact(text: str) -> str:
        for name in sorted(names, key=len, reverse=True):
            for spelled in {name, json.dumps(name)[1:-1]}:
                text = text.replace(spelled, names[name])
        return login.sub("<user>", text)

    return redact


def _versions() -> dict[str, object]:
    def version_of(library: str) -> str | None:
        try:
            return metadata.version(library)
        except metadata.PackageNotFoundError:
            return None

    return {
        "pushkin": __version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        **{library: version_of(library) for library in _LIBRARIES},
    }


def _settings(loaded: Loaded) -> dict[str, dict[str, object]]:
    """Each setting: its value, and whether it comes from a file, a variable or a flag."""
    return {
        name: {"value": _plain(value), "from": _origin(loaded.origins[name])}
        for name, value in leaves(loaded.config).items()
    }


def _plain(value: object) -> object:
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, str):
        known = {folder.name for folder in bundled_models().iterdir()}
        return value if not value or _PLAIN.fullmatch(value) or value in known else "<own>"
    return f"<{len(value)} own>" if isinstance(value, list | tuple) else "<own>"


def _origin(origin: str) -> str:
    return "config.toml" if origin.endswith("config.toml") else origin


def _from_daemon(loaded: Loaded) -> dict[str, str]:
    """What the running daemon says of itself."""
    from daemon.client import DaemonClient

    endpoint = find_daemon(loaded.paths)
    if endpoint is None:
        return {"daemon.txt": "No daemon is running.\n"}
    asked: dict[str, Callable[[DaemonClient], str]] = {
        "health.json": lambda client: _json(client.health()),
        "status.json": lambda client: _json(_named_less(client.get("/v1/status"))),
        "metrics.txt": lambda client: "".join(client.text_of("/metrics")),
    }
    found = {}
    with DaemonClient(loaded, endpoint) as client:
        for name, ask in asked.items():
            try:
                found[name] = ask(client)
            except DaemonError as error:
                found[name] = f"The daemon did not answer ({type(error).__name__}).\n"
    return found


def _named_less(status: Mapping[str, Any]) -> dict[str, Any]:
    """Without the reason of a failed load: it may quote a path or a name."""
    return {**status, "error": "<left out>" if status.get("error") else None}


def _log(loaded: Loaded) -> str:
    newest = deque(entries(loaded.paths.log_file, Wanted()), maxlen=N_LOG_ENTRIES)
    return "".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in newest)


def _faults(file: Path) -> str:
    if not file.exists():
        return ""
    return file.read_bytes()[-MAX_FAULTS_BYTES:].decode("utf-8", "replace")


def _launchd() -> dict[str, object]:
    from daemon.service import Mac, status

    try:
        found = status(Mac())
    except DaemonError as error:
        return {"not asked": type(error).__name__}
    return {"installed": found.installed, "loaded": found.loaded, **found.launchd}


def _login() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return "nobody"


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, indent=1) + "\n"
