"""An adapter that is not installed yet: what importers and training make, and `install.write` takes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adapters.errors import AdapterUnsupported, listed
from adapters.format import TARGETS, BaseModel
from adapters.tensor_file import DTYPES
from adapters.untrusted import short

Matrices = Mapping[str, tuple[NDArray[Any], NDArray[Any]]]

_LAYOUTS = ("model.language_model.", "language_model.model.", "model.", "")
_MODULE = re.compile(r"layers\.(0|[1-9]\d{0,3})\.(" + "|".join(map(re.escape, TARGETS)) + ")")
_VISION = ("vision_tower.", "vision_model.", "multi_modal_projector.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """Where an adapter comes from and what it is for; the fields are those of `AdapterManifest`."""

    task: str = ""
    stage: str = "imported"
    parents: tuple[str, ...] = ()
    languages: tuple[str, ...] = ()
    licence: str = ""
    training: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Draft:
    """scale: the factor of lora_b @ lora_a, alpha / rank or alpha / √rank when `rslora`.

    modules: module → (lora_a (rank, in), lora_b (out, rank)), any of DTYPES.
    """

    name: str
    base: BaseModel
    rank: int
    alpha: float
    scale: float
    rslora: bool
    modules: Matrices
    provenance: Provenance = field(default_factory=Provenance)


def tensors_of(modules: Matrices) -> dict[str, NDArray[Any]]:
    """Return the tensors of `adapter.safetensors`: contiguous, and of one dtype.

    Mixed dtypes become float32, which holds all of them exactly.
    """
    arrays = {
        f"{module}.{part}": array
        for module, pair in modules.items()
        for part, array in zip(("lora_a", "lora_b"), pair, strict=True)
    }
    dtypes = {array.dtype for array in arrays.values()}
    dtype = dtypes.pop() if len(dtypes) == 1 else np.dtype(np.float32)
    return {name: np.ascontiguousarray(array, dtype) for name, array in sorted(arrays.items())}


def dtype_name(array: NDArray[Any]) -> str:
    """Return safetensors' name of the dtype. Raises AdapterUnsupported for one that LoRA does not have."""
    for name, dtype in DTYPES.items():
        if array.dtype == dtype:
            return name
    raise AdapterUnsupported(f"dtype {array.dtype} is not one of {', '.join(DTYPES)}.")


def pair_up(
    stored: Mapping[str, NDArray[Any]],
    parts: tuple[str, str],
    where: str,
    *,
    drop_vision: bool = False,
) -> dict[str, tuple[NDArray[Any], NDArray[Any]]]:
    """Return module → (A, B) of a file that names its tensors <layout><module><part>.

    parts: how A and B are named, e.g. ".lora_A.weight". drop_vision: leave LoRA of a vision tower out,
    which nothing here would use. Raises AdapterUnsupported with every tensor that has no place.
    """
    found: dict[str, dict[str, NDArray[Any]]] = {}
    problems: list[str] = []
    n_vision = 0
    for name, array in stored.items():
        part = next((part for part in parts if name.endswith(part)), "")
        module = module_named(name.removesuffix(part)) if part else None
        if any(vision in name for vision in _VISION):
            n_vision += 1
        elif module is None:
            problems.append(f"{short(name)} is not LoRA of a language model's linear layer")
        elif part in found.setdefault(module, {}):
            problems.append(f"{module} is there in two layouts")
        else:
            found[module][part] = array
    problems += [
        f"{module} has only one of its two matrices"
        for module, pair in found.items()
        if len(pair) != 2
    ]
    if n_vision and not drop_vision:
        problems.append(f"{n_vision} tensors are of the vision tower, which is not served")
    if problems or not found:
        raise AdapterUnsupported(f"{where}: {listed(problems or ['there are no LoRA tensors'])}.")
    return {module: (pair[parts[0]], pair[parts[1]]) for module, pair in found.items()}


def module_named(stored: str) -> str | None:
    """Return our name of a module that some layout names `stored`: "layers.0.mlp.up_proj", or None."""
    for layout in _LAYOUTS:
        if stored.startswith(layout) and _MODULE.fullmatch(stored.removeprefix(layout)):
            return stored.removeprefix(layout)
    return None
