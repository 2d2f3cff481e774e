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

from adapters.errors import AdapterCorrupt

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
    stage: of the training pipeline ("persona", "task", "ddpo", "imported"); parents: adapters it was cloned from, in
    order. languages: ISO 639-1. licence: SPDX or prose. training: facts about the run, numbers and
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
_REQUIRED = ("name", "rank", "alpha", "scale", "target_modules", "base_id", "base_digest") + (
    "sha256",
    "n_bytes",
)


def parse_manifest(content: bytes, where: str) -> AdapterManifest:
    """Return the checked `adapter.json`. where: the adapter's name for messages.

    Raises AdapterCorrupt with every problem found.
    """
    try:
        raw = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise AdapterCorrupt(f"{where}: {JSON_NAME} is not valid JSON.") from error
    if not isinstance(raw, dict) or raw.get("format") != FORMAT:
        raise AdapterCorrupt(
            f'{where}: {JSON_NAME} is not an adapter: expected "format": {FORMAT}.'
        )
    problems = [f"{key} is missing" for key in _REQUIRED if key not in raw]
    problems += [
        f"unknown key {key[:32]!r}" for key in raw if key not in _TYPES and key != "format"
    ]
    for key, types in _TYPES.items():
        if key in raw and (
            not isinstance(raw[key], types) or (isinstance(raw[key], bool) and bool not in types)
        ):
            problems.append(f"{key} is {type(raw[key]).__name__}, expected {types[-1].__name__}")
    for key in ("target_modules", "parents", "languages"):
        if isinstance(raw.get(key), list) and not all(isinstance(v, str) for v in raw[key]):
            problems.append(f"{key} must hold strings")
    if not problems:
        problems = _value_problems(raw)
    if problems:
        raise AdapterCorrupt(f"{where}: {JSON_NAME} cannot be used: {'; '.join(problems)}.")
    values = {key: raw[key] for key in _TYPES if key in raw}
    for key in ("target_modules", "parents", "languages"):
        values[key] = tuple(values.get(key, ()))
    return AdapterManifest(**values)


def _value_problems(raw: Mapping[str, Any]) -> list[str]:
    problems: list[str] = []
    if not NAME.fullmatch(raw["name"]):
        problems.append("name must be 1 to 64 of a-z, 0-9, '.', '_', '-'")
    if not 1 <= raw["rank"] <= MAX_RANK:
        problems.append(f"rank is {raw['rank']}, expected 1 to {MAX_RANK}")
    for key in ("alpha", "scale"):
        if not math.isfinite(raw[key]) or raw[key] == 0:
            problems.append(f"{key} is {raw[key]}, expected a number other than 0")
    unknown = [module for module in raw["target_modules"] if module not in TARGETS]
    if unknown or not raw["target_modules"]:
        problems.append(f"target_modules must be some of {', '.join(TARGETS)}")
    for key in ("sha256", "base_digest"):
        if not re.fullmatch(r"[0-9a-f]{64}", raw[key]):
            problems.append(f"{key} is not a SHA-256 in hexadecimal")
    if raw["n_bytes"] <= 0:
        problems.append(f"n_bytes is {raw['n_bytes']}, expected a positive number")
    if problems:
        return problems
    meant = scale_of(raw["rank"], raw["alpha"], rslora=raw.get("rslora", False))
    if not math.isclose(raw["scale"], meant, rel_tol=SCALE_TOLERANCE):
        kind = "alpha / √rank" if raw.get("rslora") else "alpha / rank"
        problems.append(f"scale is {raw['scale']}, but {kind} is {meant:g}")
    return problems
