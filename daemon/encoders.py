"""Speech encoders come from a local folder, never from the network: checked, copied whole, known by their SHA-256."""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from daemon.config import Loaded
from daemon.errors import InputError
from daemon.paths import adapter_roots, find_model
from pushkin_runtime.errors import ModelError
from pushkin_runtime.speech_folder import (
    WEIGHT_NAMES,
    installed_projector,
    read_encoder,
    weights_file,
    weights_sha256,
)

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportedEncoder:
    """is_wanted: whether the installed speech model was trained on these very weights, None without one."""

    name: str
    folder: Path
    sha256: str
    n_bytes: int
    is_wanted: bool | None


def import_encoder(loaded: Loaded, source: Path, name: str | None) -> ImportedEncoder:
    """Copy a Whisper encoder (config.json and safetensors, Hugging Face's layout) to the user's models.

    name: None takes the name that the installed speech model asks for if these are its weights, else the folder's.
    Raises InputError for what is no encoder, or when another one has the name.
    """
    try:
        read_encoder(source)
        weights, sha256 = weights_file(source), weights_sha256(source)
    except ModelError as error:
        raise InputError(str(error)) from error
    model_dir = find_model(loaded.config.runtime.model, loaded.paths)
    wanted = installed_projector(adapter_roots(model_dir, loaded.paths))
    is_wanted = None if wanted is None else wanted.encoder_sha256 == sha256
    chosen = name or (wanted.encoder if wanted and is_wanted else source.resolve().name)
    if not _NAME.fullmatch(chosen):
        raise InputError(
            f"{chosen[:64]!r} is no name for a model: letters, digits, dot, dash and underscore."
        )
    folder = loaded.paths.models / chosen
    if not _has_same(folder, sha256):
        _copy((source / "config.json", weights), folder)
    n_bytes = sum(file.stat().st_size for file in folder.iterdir())
    return ImportedEncoder(
        name=chosen, folder=folder, sha256=sha256, n_bytes=n_bytes, is_wanted=is_wanted
    )


def _has_same(folder: Path, sha256: str) -> bool:
    if not folder.exists():
        return False
    if any((folder / n).is_file() for n in WEIGHT_NAMES) and weights_sha256(folder) == sha256:
        return True
    raise InputError(
        f"{folder} is there already and holds something else: remove it, or import under another --name."
    )


def _copy(files: tuple[Path, Path], folder: Path) -> None:
    """Whole or not at all: copied beside, flushed, renamed."""
    temporary = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True, mode=0o700)
    for file in files:
        with file.open("rb") as read, (temporary / file.name).open("xb") as written:
            shutil.copyfileobj(read, written, 1 << 20)
            written.flush()
            os.fsync(written.fileno())
    temporary.rename(folder)
