"""mlx-lm's LoRA checkpoints (mlx-lm 0.32, `tuner/lora.py`): `adapter_config.json` + `adapters.safetensors`.

Tensors are `<layout>layers.N.<target>.lora_a` (in, rank) and `.lora_b` (rank, out), each the transpose of
ours, and `scale` is the factor itself, not alpha. We add `alpha` and `rslora` beside it, which mlx-lm
ignores, so that both come back.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from adapters.composition import LoraWeights
from adapters.draft import Draft, Provenance, dtype_name, pair_up
from adapters.errors import AdapterCorrupt, AdapterNotFound, AdapterUnsupported
from adapters.format import MAX_ALPHA, MAX_RANK, SCALE_TOLERANCE, BaseModel, scale_of
from adapters.registry import AdapterSpec
from adapters.tensor_file import read_tensors
from adapters.tensor_writer import header_bytes, raw, write_new
from adapters.untrusted import parse_json, read_small, short

CONFIG_NAME = "adapter_config.json"
WEIGHTS_NAME = "adapters.safetensors"

_PARTS = (".lora_a", ".lora_b")


def import_mlx_lm(
    folder: Path, *, name: str, base: BaseModel, provenance: Provenance | None = None
) -> Draft:
    """Read a checkpoint of `mlx_lm.lora`; its dtype is kept.

    Raises AdapterNotFound, AdapterUnsupported (DoRA, full fine-tuning, other layers) or AdapterCorrupt.
    """
    rank, scale, parameters = _parameters(folder)
    where = f"{folder.name}/{WEIGHTS_NAME}"
    stored = read_tensors(folder / WEIGHTS_NAME, where, follow_links=True).arrays
    alpha, rslora = _alpha(parameters, rank, scale)
    return Draft(
        name=name,
        base=base,
        rank=rank,
        alpha=alpha,
        scale=scale,
        rslora=rslora,
        modules={m: (a.T, b.T) for m, (a, b) in pair_up(stored, _PARTS, where).items()},
        provenance=provenance or Provenance(),
    )


def export_mlx_lm(spec: AdapterSpec, weights: LoraWeights, base: BaseModel, out: Path) -> None:
    """Write `weights` to the new folder `out` for `mlx_lm.generate --adapter-path`.

    Exact: importing it again gives the same file. Raises OSError.
    """
    manifest = spec.manifest
    layers = {int(module.split(".")[1]) for module in base.modules}
    first = min(int(module.split(".")[1]) for module in weights.modules)
    config = {
        "fine_tune_type": "lora",
        "num_layers": len(layers) - first,  # counted from the last one
        "lora_parameters": {
            "rank": manifest.rank,
            "scale": manifest.scale,
            "dropout": 0.0,
            "keys": list(manifest.target_modules),
            "alpha": manifest.alpha,
            "rslora": manifest.rslora,
        },
    }
    tensors = {
        f"model.{module}{part}": np.ascontiguousarray(array.T)
        for module, pair in sorted(weights.modules.items())
        for part, array in zip(_PARTS, pair, strict=True)
    }
    out.mkdir(parents=True)
    header = header_bytes(
        {key: (dtype_name(array), array.shape) for key, array in tensors.items()},
        {"format": "mlx"},
    )
    write_new(out / WEIGHTS_NAME, [header, *raw(tensors.values())])
    write_new(out / CONFIG_NAME, [json.dumps(config, indent=2).encode() + b"\n"])


def _parameters(folder: Path) -> tuple[int, float, Mapping[str, Any]]:
    """Return rank, scale and all `lora_parameters` of adapter_config.json."""
    where = f"{folder.name}/{CONFIG_NAME}"
    try:
        config = parse_json(read_small(folder / CONFIG_NAME, where, follow_links=True))
    except AdapterNotFound as error:
        raise AdapterNotFound(f"{error} An mlx-lm checkpoint has one.") from error
    except ValueError as error:
        raise AdapterCorrupt(f"{where}: not valid JSON: {str(error)[:120]}.") from error
    if not isinstance(config, dict) or not isinstance(config.get("lora_parameters"), dict):
        raise AdapterUnsupported(f"{where}: it is not mlx-lm's: there are no lora_parameters.")
    if config.get("fine_tune_type", "lora") != "lora":
        raise AdapterUnsupported(
            f"{where}: fine_tune_type is {short(config['fine_tune_type'])}; only lora can be served."
        )
    parameters = config["lora_parameters"]
    rank, scale = parameters.get("rank"), parameters.get("scale")
    if type(rank) is not int or rank < 1 or type(scale) not in (int, float) or not scale:
        raise AdapterCorrupt(
            f"{where}: rank is {short(rank)} and scale {short(scale)}, expected positive numbers."
        )
    if rank > MAX_RANK or abs(scale) * rank > MAX_ALPHA:
        raise AdapterUnsupported(
            f"{where}: rank is {short(rank)} and scale {short(scale)}, "
            f"expected a rank of at most {MAX_RANK} and an alpha of at most {MAX_ALPHA:g}."
        )
    return rank, float(scale), parameters


def _alpha(parameters: Mapping[str, Any], rank: int, scale: float) -> tuple[float, bool]:
    """Return alpha and rslora: what we once wrote, if it means `scale`, else the plain alpha that does.

    Older mlx-lm wrote an `alpha` that it did not use.
    """
    alpha, rslora = parameters.get("alpha"), parameters.get("rslora")
    if (
        isinstance(alpha, int | float)
        and isinstance(rslora, bool)
        and 0 < abs(alpha) <= MAX_ALPHA
        and math.isclose(scale_of(rank, alpha, rslora=rslora), scale, rel_tol=SCALE_TOLERANCE)
    ):
        return alpha, rslora
    return scale * rank, False
