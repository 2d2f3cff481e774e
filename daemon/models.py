"""The models on disk: the user's own and those that come with the source tree."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from daemon.config import Loaded
from daemon.paths import bundled_models, find_model

_CONFIG_FILE = "config.json"
_SPEECH_ENCODER = "encoder.safetensors"  # not served by itself


@dataclass(frozen=True, slots=True, kw_only=True)
class InstalledModel:
    """A folder that looks like a model; it is checked in full only when it is loaded.

    origin: "home", "bundled", or "path" for one the configuration names by its absolute path.
    """

    name: str
    folder: Path
    origin: str
    n_bytes: int
    configured: bool

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "folder": str(self.folder)}


def list_models(loaded: Loaded) -> list[InstalledModel]:
    """Return every model that could be served, by name; the user's own hides a bundled one."""
    configured = find_model(loaded.config.runtime.model, loaded.paths)
    places = {"bundled": bundled_models(), "home": loaded.paths.models}
    folders: dict[str, tuple[Path, str]] = {
        folder.name: (folder, origin)
        for origin, place in places.items()
        if place.is_dir()
        for folder in place.iterdir()
    }
    if all(folder != configured for folder, _ in folders.values()):
        folders[str(configured)] = (configured, "path")
    return [
        InstalledModel(
            name=name,
            folder=folder,
            origin=origin,
            n_bytes=sum(file.stat().st_size for file in folder.iterdir() if file.is_file()),
            configured=folder == configured,
        )
        for name, (folder, origin) in sorted(folders.items())
        if (folder / _CONFIG_FILE).is_file() and not (folder / _SPEECH_ENCODER).is_file()
    ]
