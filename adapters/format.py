"""The adapter folder: `adapter.json` + `adapter.safetensors`, and what both must say.

Tensors are named `<module>.lora_a` (rank, in) and `<module>.lora_b` (out, rank), PEFT's orientation, with
<module> as the engines name a base matrix, e.g. `layers.0.self_attn.q_proj`. The update of a module's
weight W (out, in) is scale · lora_b @ lora_a. float32, float16 or bfloat16; nothing else is stored.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from adapters.errors import AdapterCorrupt, AdapterUnsupported, listed
from adapters.untrusted import parse_json, short

FORMAT = 1
JSON_NAME = "adapter.json"
WEIGHTS_NAME = "adapter.safetensors"
NAME = re.compile(r"[a-z0-9._-]{1,64}")
MAX_RANK = 128
TARGETS: tuple[str, ...] = (
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "mlp.gate_proj",
    "mlp.up_proj",
    "mlp.down_proj",
)
MAX_ALPHA = 1e6
MAX_TEXT = 512  # characters of any string in the manifest
SCALE_TOLERANCE = 1e-6  # relative, between `scale` and what rank and alpha say


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseModel:
    """What an adapter has to fit. modules: every adaptable matrix → (out, in). digest: SHA-256 (hex)."""

    id: str
    digest: str
    modules: Mapping[str, tuple[int, int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterManifest:
    """`adapter.json`.

    name: the adapter's own; its folder is called the same. task: what it is for ("continue", "rephrase",
    "story", "persona", "audio"), or "" for a general one. scale: the factor of lora_b @ lora_a; it must be
    what rank and alpha say: alpha / rank, or alpha / √rank when `rslora` (arXiv:2312.03732).
    target_modules: TARGETS that are adapted. base_id, base_digest: the model it was made for.
    stage: of the training pipeline ("persona", "task", "ddpo", "imported"); parents: adapters it was
    cloned from, in order. languages: ISO 639-1. licence: SPDX or prose. training: facts about the run, numbers and
    short strings only. sha256, n_bytes: of `adapter.safetensors`.
    """

    name: str
    task: str = ""
    rank: int
    alpha: float
    scale: float
    rslora: bool = False
    target_modules: tuple[str, ...]
    base_id: str
    base_digest: str
    stage: str = "imported"
    parents: tuple[str, ...] = ()
    languages: tuple[str, ...] = ()
    licence: str = ""
    training: Mapping[str, Any] = field(default_factory=dict)
    sha256: str
    n_bytes: int

    def to_json(self) -> bytes:
        """The content of `adapter.json`."""
        return (
            json.dumps({"format": FORMAT, **asdict(self)}, ensure_ascii=False, indent=2) + "\n"
        ).encode()


def scale_of(rank: int, alpha: float, *, rslora: bool) -> float:
    """Return the factor that rank and alpha stand for."""
    return alpha / (math.sqrt(rank) if rslora else rank)


_TYPES: dict[str, tuple[type, ...]] = {
    "name": (str,),
    "task": (str,),
    "rank": (int,),
    "alpha": (int, float),
    "scale": (int, float),
    "rslora": (bool,),
    "target_modules": (list,),
    "base_id": (str,),
    "base_digest": (str,),
    "stage": (str,),
    "parents": (list,),
    "languages": (list,),
    "licence": (str,),
    "training": (dict,),
    "sha256": (str,),
    "n_bytes": (int,),
}
_OPTIONAL = {"task", "rslora", "stage", "parents", "languages", "licence", "training"}
_LISTS = ("target_modules", "parents", "languages")


def is_name(name: str) -> bool:
    """Whether an adapter and its folder may be called `name`."""
    return NAME.fullmatch(name) is not None and name not in (".", "..")


def parse_manifest(content: bytes, where: str) -> AdapterManifest:
    """Return the checked `adapter.json`. where: the adapter's name for messages.

    Raises AdapterUnsupported for a rank that is too high, AdapterCorrupt with every other problem found.
    """
    try:
        raw = parse_json(content)
    except ValueError as error:
        raise AdapterCorrupt(
            f"{where}: {JSON_NAME} is not valid JSON: {str(error)[:120]}."
        ) from error
    if not isinstance(raw, dict) or raw.pop("format", None) != FORMAT:
        raise AdapterCorrupt(
            f'{where}: {JSON_NAME} is not an adapter: expected "format": {FORMAT}.'
        )
    problems = _key_problems(raw) or _value_problems(raw)
    if problems:
        raise AdapterCorrupt(f"{where}: {JSON_NAME} cannot be used: {listed(problems)}.")
    if raw["rank"] > MAX_RANK:
        raise AdapterUnsupported(
            f"{where}: rank {raw['rank']}, at most {MAX_RANK} can be served. "
            "Train it with a lower rank, or merge it into a model."
        )
    values = {key: raw[key] for key in _TYPES if key in raw}
    for key in _LISTS:
        values[key] = tuple(values.get(key, ()))
    return AdapterManifest(**values)


def _key_problems(raw: Mapping[str, Any]) -> list[str]:
    """What is missing, unknown or of the wrong type."""
    problems = [f"{key} is missing" for key in _TYPES if key not in raw and key not in _OPTIONAL]
    problems += [f"unknown key {short(key)}" for key in raw if key not in _TYPES]
    for key, types in _TYPES.items():
        if key in raw and (
            not isinstance(raw[key], types) or (isinstance(raw[key], bool) and bool not in types)
        ):
            problems.append(f"{key} is {type(raw[key]).__name__}, expected {types[-1].__name__}")
    problems += [
        f"{key} must hold short strings"
        for key in _LISTS
        if isinstance(raw.get(key), list) and not all(_is_text(value) for value in raw[key])
    ]
    problems += [
        f"{key} is not printable text of at most {MAX_TEXT} characters"
        for key, value in raw.items()
        if isinstance(value, str) and key in _TYPES and not _is_text(value)
    ]
    return problems


def _value_problems(raw: Mapping[str, Any]) -> list[str]:
    problems: list[str] = []
    if not is_name(raw["name"]):
        problems.append("name must be 1 to 64 of a-z, 0-9, '.', '_', '-'")
    if raw["rank"] < 1:
        problems.append(f"rank is {short(raw['rank'])}, expected 1 to {MAX_RANK}")
    problems += [
        f"{key} is {short(raw[key])}, expected a number other than 0 and at most {MAX_ALPHA:g}"
        for key in ("alpha", "scale")
        if not 0 < abs(raw[key]) <= MAX_ALPHA
    ]
    if not raw["target_modules"] or not set(raw["target_modules"]) <= set(TARGETS):
        problems.append(f"target_modules must be some of {', '.join(TARGETS)}")
    problems += [
        f"{key} is not a SHA-256 in hexadecimal"
        for key in ("sha256", "base_digest")
        if not re.fullmatch(r"[0-9a-f]{64}", raw[key])
    ]
    if raw["n_bytes"] <= 0:
        problems.append(f"n_bytes is {short(raw['n_bytes'])}, expected a positive number")
    problems += [
        f"training.{short(key)} must be a number, a truth value or a short string"
        for key, value in raw.get("training", {}).items()
        if not (value is None or isinstance(value, int | float) or _is_text(value))
    ]
    if problems or raw["rank"] > MAX_RANK:
        return problems
    meant = scale_of(raw["rank"], raw["alpha"], rslora=raw.get("rslora", False))
    if not math.isclose(raw["scale"], meant, rel_tol=SCALE_TOLERANCE):
        kind = "alpha / √rank" if raw.get("rslora") else "alpha / rank"
        problems.append(f"scale is {raw['scale']}, but {kind} is {meant:g}")
    return problems


def _is_text(value: object) -> bool:
    return isinstance(value, str) and len(value) <= MAX_TEXT and value.isprintable()
