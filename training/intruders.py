"""Intruder dimensions of an adapter: `python -m training.intruders --base DIR --adapter DIR`.

A left singular vector of W + scale·B·A is an intruder when no left singular vector of W is near it: the largest
|cos| is under a threshold. Counted among the ten largest of each matrix. Shuttleworth et al.,
"LoRA vs Full Fine-tuning: An Illusion of Equivalence", arXiv:2410.21228. The count means little alone: random
noise of the same size makes some too, so every report has that control. PEFT's `reduce_intruder_dimension` takes
intruders out of a model but reports no counts, therefore the few lines here.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from adapters.format import JSON_NAME, WEIGHTS_NAME, parse_manifest
from training.export import dequantized_weights

TOP_K = 10
THRESHOLD = 0.5


def intruder_cosines(weight: Tensor, update: Tensor, top_k: int = TOP_K) -> Tensor:
    """For the `top_k` largest left singular vectors of weight + update, the largest |cos| with weight's.

    weight, update: (out, in), any float type; the result is float32, (min(top_k, out, in),).
    """
    before = torch.linalg.svd(weight.float(), full_matrices=False).U
    after = torch.linalg.svd((weight + update).float(), full_matrices=False).U
    cosines: Tensor = (after[:, :top_k].T @ before).abs().amax(1)
    return cosines


def count_intruders(
    weight: Tensor, update: Tensor, top_k: int = TOP_K, threshold: float = THRESHOLD
) -> int:
    """How many of the `top_k` are intruders."""
    return int((intruder_cosines(weight, update, top_k) < threshold).sum())


def noise_like(update: Tensor, generator: torch.Generator) -> Tensor:
    """A random full-rank update of the same Frobenius norm: what training nothing would look like."""
    noise = torch.randn(update.shape, generator=generator)
    return noise * (update.float().norm() / noise.norm())


def intruder_report(
    weights: Mapping[str, Tensor], updates: Mapping[str, Tensor], seed: int = 0
) -> dict[str, Any]:
    """Counts by module and in total, with the noise control.

    weights: base matrices (out, in) by module; updates: scale·B·A by module. Raises KeyError for a module that
    the base lacks.
    """
    generator = torch.Generator().manual_seed(seed)
    modules: dict[str, dict[str, float]] = {}
    for module, update in updates.items():
        weight = weights[module].float()
        modules[module] = {
            "intruders": count_intruders(weight, update),
            "noise": count_intruders(weight, noise_like(update, generator)),
            "relative_norm": round(float(update.float().norm() / weight.norm()), 4),
        }
    entries = list(modules.values())
    return {
        "top_k": TOP_K,
        "threshold": THRESHOLD,
        "matrices": len(entries),
        "intruders": sum(int(entry["intruders"]) for entry in entries),
        "noise": sum(int(entry["noise"]) for entry in entries),
        "mean_relative_norm": round(
            sum(entry["relative_norm"] for entry in entries) / max(1, len(entries)), 4
        ),
        "modules": modules,
    }


def adapter_updates(tensors: Mapping[str, Tensor], scale: float) -> dict[str, Tensor]:
    """scale·B·A (out, in) in float32 by module, from `<module>.lora_a` and `.lora_b`."""
    modules = [name.removesuffix(".lora_a") for name in tensors if name.endswith(".lora_a")]
    return {
        module: scale * tensors[f"{module}.lora_b"].float() @ tensors[f"{module}.lora_a"].float()
        for module in modules
    }


def base_matrices(folder: Path) -> dict[str, Tensor]:
    """The base's weights (out, in) by module as adapters name them; INT4 folders are dequantised."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if "quantization" in config:
        stored = dequantized_weights(folder)
    else:
        stored = {}
        for path in sorted(folder.glob("*.safetensors")):
            stored |= load_file(path)
    return {
        name[name.index("layers.") :].removesuffix(".weight"): tensor
        for name, tensor in stored.items()
        if "layers." in name and tensor.ndim == 2 and "vision" not in name
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(prog="training.intruders", description=__doc__)
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--adapter", type=Path, required=True, help="a folder in our format")
    args = parser.parse_args(argv)
    manifest = parse_manifest((args.adapter / JSON_NAME).read_bytes(), args.adapter.name)
    updates = adapter_updates(load_file(args.adapter / WEIGHTS_NAME), manifest.scale)
    print(json.dumps(intruder_report(base_matrices(args.base), updates), indent=2))


if __name__ == "__main__":
    main()
