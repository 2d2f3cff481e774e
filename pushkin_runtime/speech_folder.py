"""Speech models on disk: the projector beside the adapter `dictate`, and the Whisper encoder it was trained on.

ROOT/dictate/adapter.*           the audio LoRA, an adapter like any other
ROOT/dictate/speech-projector.*  JSON that vouches for the safetensors; names the encoder and the SHA-256 of its weights
MODELS/<encoder>/                config.json and encoder.safetensors (or model.safetensors), as Hugging Face lays them out
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file

from adapters.checked_folder import read_folder
from pushkin_runtime.errors import CapabilityMissing, ModelCorrupt, ModelNotFound
from pushkin_runtime.speech_model import (
    EncoderConfig,
    FloatArray,
    Projector,
    encoder_config,
    encoder_weights,
)
from pushkin_runtime.speech_types import CommandLimits, PhraseLimits

ADAPTER = "dictate"
KIND = "speech-projector"
LIMITS = "commands"
"""The setting with a speech model's CommandLimits; without it the defaults hold."""
_WITHIN = ("do_within", "offer_within")
WEIGHT_NAMES = ("encoder.safetensors", "model.safetensors")


@dataclass(frozen=True, slots=True, eq=False)
class SpeechFiles:
    """A speech model, read and checked. encoder: its folder's name."""

    encoder: str
    encoder_sha256: str
    config: EncoderConfig
    weights: Mapping[str, FloatArray]
    projector: Projector
    base_digest: str


def read_speech(adapter_roots: Sequence[Path], model_roots: Sequence[Path]) -> SpeechFiles:
    """Read the first projector that is there and its encoder.

    Raises CapabilityMissing when either is not there, ModelCorrupt when one is damaged or another than was meant.
    """
    folder = _find(adapter_roots)
    if folder is None:
        raise CapabilityMissing(
            f"Dictation needs a speech model: no {ADAPTER}/{KIND}.json beside the adapters of this model.",
            param="speech",
        )
    projector, settings = _read(folder)
    name, wanted = str(settings["encoder"]), str(settings["encoder_sha256"])
    where = next(
        (r / name for r in model_roots if Path(name).name == name and (r / name).is_dir()), None
    )
    if where is None:
        raise CapabilityMissing(
            f"Dictation needs the speech encoder {name}, which does not come with the program: "
            f"`pushkin models import DIR` takes it from a folder with its config.json and safetensors.",
            param="speech",
        )
    found = weights_sha256(where)
    if found != wanted:
        raise ModelCorrupt(
            f"The speech encoder {name} is not the one this speech model was trained on (SHA-256 {found[:12]}…, "
            f"expected {wanted[:12]}…): import the right one."
        )
    config, weights = read_encoder(where)
    n_in = projector.n_stack * config.d_model
    if projector.first.shape[1] != n_in:
        raise ModelCorrupt(
            f"{KIND}: reads {projector.first.shape[1]} numbers a row, {name} gives {n_in}."
        )
    return SpeechFiles(name, found, config, weights, projector, str(settings["base_digest"]))


@dataclass(frozen=True, slots=True)
class WantedEncoder:
    """What an installed projector was trained on."""

    encoder: str
    encoder_sha256: str


def installed_projector(adapter_roots: Sequence[Path]) -> WantedEncoder | None:
    """Return which encoder the first projector needs, None without a projector. Raises ModelCorrupt."""
    folder = _find(adapter_roots)
    if folder is None:
        return None
    _, settings = _read(folder)
    return WantedEncoder(str(settings["encoder"]), str(settings["encoder_sha256"]))


def is_installed(adapter_roots: Sequence[Path], model_roots: Sequence[Path]) -> bool:
    """Whether a projector is there and a folder with its encoder's name; neither is checked."""
    folder = _find(adapter_roots)
    if folder is None:
        return False
    try:
        name = str(json.loads((folder / f"{KIND}.json").read_bytes())["settings"]["encoder"])
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return Path(name).name == name and any((root / name).is_dir() for root in model_roots)


def _find(adapter_roots: Sequence[Path]) -> Path | None:
    folders = (root / ADAPTER for root in adapter_roots)
    return next((folder for folder in folders if (folder / f"{KIND}.json").is_file()), None)


def read_projector(folder: Path) -> Projector:
    """Return the projector of an adapter's folder. Raises ModelCorrupt."""
    return _read(folder)[0]


def _read(folder: Path) -> tuple[Projector, Mapping[str, Any]]:
    content = read_folder(folder, KIND, ModelCorrupt)
    settings = content.settings
    if not {"encoder", "encoder_sha256", "n_stack", "base_digest"} <= settings.keys():
        raise ModelCorrupt(
            f"{folder.name}/{KIND}.json: the settings lack the encoder, the stacking or the base."
        )
    pieces = settings.get("pieces")
    if pieces is not None and not (
        isinstance(pieces, list) and all(isinstance(p, int) for p in pieces)
    ):
        raise ModelCorrupt(f"{folder.name}/{KIND}.json: pieces must be token ids.")
    projector = content.build(lambda arrays: _projector(arrays, int(settings["n_stack"])))
    if (limits := settings.get(LIMITS)) is not None:
        projector = replace(projector, limits=_limits(limits, f"{folder.name}/{KIND}.json"))
    if pieces is None:
        return projector, settings
    if len(pieces) != len(projector.heard) - 1:
        raise ModelCorrupt(
            f"{folder.name}/{KIND}.json: {len(pieces)} pieces, expected {len(projector.heard) - 1}."
        )
    return replace(projector, pieces=tuple(pieces)), settings


def read_encoder(folder: Path) -> tuple[EncoderConfig, dict[str, FloatArray]]:
    """Return the shape and the float32 weights of a Whisper encoder. Raises ModelNotFound or ModelCorrupt."""
    path = weights_file(folder)
    try:
        config = encoder_config(
            json.loads((folder / "config.json").read_bytes()), f"{folder.name}/config.json"
        )
        tensors = load_file(path)
    except (OSError, ValueError, SafetensorError) as error:
        raise ModelCorrupt(f"{folder.name}: cannot be read ({error}). Import it again.") from error
    return config, encoder_weights(config, tensors, f"{folder.name}/{path.name}")


def weights_file(folder: Path) -> Path:
    """Return the safetensors file of an encoder's folder. Raises ModelNotFound."""
    found = next((folder / name for name in WEIGHT_NAMES if (folder / name).is_file()), None)
    if found is None or not (folder / "config.json").is_file():
        raise ModelNotFound(f"{folder}: expected config.json and {' or '.join(WEIGHT_NAMES)}.")
    return found


def weights_sha256(folder: Path) -> str:
    """Return the SHA-256 (hex) of an encoder's weights. Raises ModelNotFound."""
    with weights_file(folder).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _limits(stored: object, where: str) -> CommandLimits:
    """Read what `asdict` makes of CommandLimits. Raises ModelCorrupt."""
    plain, phrase = _names(CommandLimits) - set(_WITHIN), _names(PhraseLimits)
    given = dict(stored) if isinstance(stored, dict) else {}
    within = {name: _numbers(given.pop(name, None), phrase) for name in _WITHIN}
    numbers = _numbers(given, plain)
    do, offer = (within[name] for name in _WITHIN)
    if numbers is None or do is None or offer is None:
        raise ModelCorrupt(
            f"{where}: {LIMITS} must have just the numbers {', '.join(sorted(plain))}, and {' and '.join(_WITHIN)} "
            f"with just {', '.join(sorted(phrase))}."
        )
    return CommandLimits(
        do_within=PhraseLimits(**do), offer_within=PhraseLimits(**offer), **numbers
    )


def _names(kind: type[CommandLimits] | type[PhraseLimits]) -> set[str]:
    return {field.name for field in fields(kind)}


def _numbers(stored: object, names: set[str]) -> dict[str, float] | None:
    """`stored`, if it has just these names and finite numbers for them."""
    if not isinstance(stored, dict) or stored.keys() != names:
        return None
    is_good = all(type(value) in (int, float) and isfinite(value) for value in stored.values())
    return {name: float(value) for name, value in stored.items()} if is_good else None


def _projector(arrays: Mapping[str, NDArray[Any]], n_stack: int) -> Projector:
    names = ("first", "first_bias", "second", "second_bias", "heard", "heard_bias")
    first, first_bias, second, second_bias, heard, heard_bias = (
        np.ascontiguousarray(arrays[name], dtype=np.float32) for name in names
    )
    n_hidden = len(first_bias)
    if (
        first.ndim != 2
        or first.shape[0] != n_hidden
        or second.shape != (len(second_bias), n_hidden)
    ):
        raise ValueError(
            f"matrices {first.shape} and {second.shape} with {n_hidden} hidden units do not fit"
        )
    [row_rms] = arrays["row_rms"].astype(float).tolist()
    if not row_rms > 0:
        raise ValueError(f"row_rms is {row_rms}")
    if heard.shape != (len(heard_bias), len(second_bias)) or not len(heard):
        raise ValueError(f"pieces {heard.shape} with {len(heard_bias)} biases do not fit")
    return Projector(n_stack, first, first_bias, second, second_bias, row_rms, heard, heard_bias)
