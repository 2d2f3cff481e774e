"""Synthetic LoRA adapters for the rig: PEFT folder, mlx-lm folder and GGUF file with the same numbers.

Values are small integers times a power of two, so bfloat16 (PEFT, mlx-lm) and float16 (GGUF) hold
them exactly. B is not zero: the adapters change the output by about a tenth of it, as trained ones do.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from gguf import GGUFWriter
from numpy.typing import NDArray
from safetensors.torch import save_file

from benchmarks.true_shape_gguf import ARCHITECTURE, gguf_name
from pushkin_runtime.model_config import ModelConfig
from pushkin_runtime.model_store import expected_shapes

TARGETS = (
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "mlp.gate_proj",
    "mlp.up_proj",
)
RELATIVE_EFFECT = 0.1  # of an adapted linear's output
LIMIT = 127  # largest integer: eight significant bits


@dataclass(frozen=True, slots=True)
class AdapterSpec:
    """One adapter; its effect is scaled by alpha / rank."""

    name: str
    rank: int
    alpha: int
    seed: int


@dataclass(frozen=True, slots=True)
class AdapterPaths:
    """One adapter in the three formats."""

    peft: Path
    mlx: Path
    gguf: Path

    @classmethod
    def under(cls, folder: Path, name: str) -> AdapterPaths:
        """Where adapter `name` of the rig in `folder` lies."""
        root = folder / "adapters" / name
        return cls(root / "peft", root / "mlx", root / f"{name}.gguf")


Pair = tuple[NDArray[np.float32], NDArray[np.float32]]
"""A (rank, in) and B (out, rank)."""


def write_adapter(folder: Path, config: ModelConfig, spec: AdapterSpec) -> int:
    """Write the adapter in the three formats; the number of its parameters."""
    paths = AdapterPaths.under(folder, spec.name)
    for path in (paths.peft, paths.mlx):
        path.mkdir(parents=True)
    pairs = _random_pairs(config, spec)
    _write_peft(paths.peft, spec, pairs)
    _write_mlx(paths.mlx, config, spec, pairs)
    _write_gguf(paths.gguf, config, spec, pairs)
    return sum(a.size + b.size for a, b in pairs.values())


def _random_pairs(config: ModelConfig, spec: AdapterSpec) -> dict[str, Pair]:
    """By module, e.g. layers.0.self_attn.k_proj; x of unit size gives A x of about unit size."""
    rng = np.random.default_rng(spec.seed)
    shapes = expected_shapes(config)
    b_std = RELATIVE_EFFECT / (spec.alpha / spec.rank * math.sqrt(spec.rank))
    pairs: dict[str, Pair] = {}
    for layer in range(config.n_layers):
        for target in TARGETS:
            module = f"layers.{layer}.{target}"
            n_out, n_in = shapes[f"{module}.weight"]  # type: ignore[misc]  # a matrix
            a = _values(rng, (spec.rank, n_in), 1 / math.sqrt(n_in))
            pairs[module] = a, _values(rng, (n_out, spec.rank), b_std)
    return pairs


def _values(rng: np.random.Generator, shape: tuple[int, int], std: float) -> NDArray[np.float32]:
    unit = 2.0 ** round(math.log2(std / (LIMIT / math.sqrt(3))))
    drawn = rng.integers(-LIMIT, LIMIT + 1, shape, dtype=np.int8)
    return drawn.astype(np.float32) * np.float32(unit)


def _bfloat16(values: NDArray[np.float32]) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(values)).to(torch.bfloat16)


def _write_peft(folder: Path, spec: AdapterSpec, pairs: dict[str, Pair]) -> None:
    tensors: dict[str, torch.Tensor] = {}
    for module, (a, b) in pairs.items():
        stem = f"base_model.model.model.{module}"
        tensors |= {f"{stem}.lora_A.weight": _bfloat16(a), f"{stem}.lora_B.weight": _bfloat16(b)}
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    content = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "true-shape",
        "r": spec.rank,
        "lora_alpha": spec.alpha,
        "lora_dropout": 0.0,
        "use_rslora": False,
        "use_dora": False,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "target_modules": sorted(target.partition(".")[2] for target in TARGETS),
    }
    (folder / "adapter_config.json").write_text(json.dumps(content, indent=1))


def _write_mlx(
    folder: Path, config: ModelConfig, spec: AdapterSpec, pairs: dict[str, Pair]
) -> None:
    tensors: dict[str, torch.Tensor] = {}
    for module, (a, b) in pairs.items():
        stem = f"model.{module}"
        tensors |= {f"{stem}.lora_a": _bfloat16(a.T), f"{stem}.lora_b": _bfloat16(b.T)}
    save_file(tensors, folder / "adapters.safetensors", metadata={"format": "mlx"})
    content = {
        "fine_tune_type": "lora",
        "num_layers": config.n_layers,
        "lora_parameters": {
            "rank": spec.rank,
            "scale": spec.alpha / spec.rank,
            "dropout": 0.0,
            "keys": list(TARGETS),
        },
    }
    (folder / "adapter_config.json").write_text(json.dumps(content, indent=1))


def _write_gguf(path: Path, config: ModelConfig, spec: AdapterSpec, pairs: dict[str, Pair]) -> None:
    writer = GGUFWriter(path, ARCHITECTURE)
    writer.add_type("adapter")
    writer.add_name(spec.name)
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", float(spec.alpha))
    for module, (a, b) in pairs.items():
        name = gguf_name(f"{module}.weight", config.n_layers)
        writer.add_tensor(f"{name}.lora_a", a.astype(np.float16))
        writer.add_tensor(f"{name}.lora_b", b.astype(np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
