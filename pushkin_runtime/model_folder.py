"""New model folders: written beside their place under a hidden name, and put there whole or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from adapters.tensor_writer import write_new
from pushkin_runtime.errors import InvalidRequest
from pushkin_runtime.model_config import Quantization
from pushkin_runtime.model_store import ModelSpec

WEIGHTS_NAME = "model.safetensors"
MANIFEST_FORMAT = 1

_NOT_COPIED = ("manifest.json", "config.json", "README.md")


@contextlib.contextmanager
def new_model_folder(out: Path) -> Iterator[Path]:
    """Yield an empty folder that becomes `out` at the end; after an error, nothing is left of it.

    Raises InvalidRequest when `out` exists; OSError.
    """
    if out.exists():
        raise InvalidRequest(f"{out} exists; name a folder that does not.", param="out")
    out.parent.mkdir(parents=True, exist_ok=True)
    made = out.with_name(f".{out.name}.{secrets.token_hex(4)}~")
    made.mkdir()
    try:
        yield made
        _flush(made)
        made.rename(out)
    except BaseException:
        shutil.rmtree(made, ignore_errors=True)
        raise


def copy_rest(spec: ModelSpec, made: Path, quantization: Quantization | None) -> None:
    """Copy the tokenizer and whatever else is beside the weights; say the new quantisation in the config."""
    for path in sorted(spec.path.iterdir()):
        is_weights = path.name.endswith((".safetensors", ".safetensors.index.json"))
        if path.is_file() and not is_weights and path.name not in _NOT_COPIED:
            shutil.copyfile(path, made / path.name)
    config: dict[str, Any] = json.loads((spec.path / "config.json").read_bytes())
    for part in (config, config.get("text_config", {})):
        for key in ("quantization", "quantization_config"):
            part.pop(key, None)
    if quantization is not None:
        config["quantization"] = _as_mlx_lm_writes(spec, quantization)
    write_new(made / "config.json", [json.dumps(config, indent=2).encode() + b"\n"])


def write_manifest(made: Path, **origin: object) -> None:
    """Write manifest.json: size and SHA-256 of every file, and what the model was made from."""
    files: dict[str, dict[str, object]] = {}
    for path in sorted(made.iterdir()):
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        files[path.name] = {"sha256": digest, "n_bytes": path.stat().st_size}
    content = {"format": MANIFEST_FORMAT, "files": files, **origin}
    write_new(made / "manifest.json", [json.dumps(content, indent=2).encode() + b"\n"])


def _as_mlx_lm_writes(spec: ModelSpec, quantization: Quantization) -> dict[str, Any]:
    def one(of: Quantization) -> dict[str, Any]:
        return {"group_size": of.group_size, "bits": of.bits, "mode": "affine"}

    return one(quantization) | {
        spec.tensors[f"{module}.weight"].stored_name.removesuffix(".weight"): one(own)
        for module, own in quantization.exceptions.items()
    }


def _flush(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
