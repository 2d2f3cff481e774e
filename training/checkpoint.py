"""Checkpoints that are whole or absent: written to a temporary folder, flushed, then renamed."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from training.optimizers import Optimizers

_PREFIX = "step-"
_TIED = "lm_head.weight"  # the same tensor as the embedding: stored once


@dataclass(frozen=True)
class TrainState:
    """Where a run stands. `position` counts rows used, `tokens` counts targets trained on."""

    step: int = 0
    position: int = 0
    tokens: int = 0
    seconds: float = 0.0
    decay_start: int | None = None
    decay_steps: int = 0


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomic(path: Path, text: str) -> None:
    """Replace a small text file in one step."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text, encoding="utf-8")
    _flush(temporary)
    temporary.replace(path)


def save(
    folder: Path, model: nn.Module, optimizers: Optimizers, state: TrainState, keep: int = 2
) -> Path:
    """Write `folder/step-NNNNNN` (Hugging Face layout plus optimiser and state), drop older ones.

    A crash at any moment leaves the previous checkpoints and `latest` as they were. The last
    checkpoint of the stable phase is kept: a run is prolonged from it.
    """
    final = folder / f"{_PREFIX}{state.step:06d}"
    temporary = folder / f".{final.name}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    weights = {
        name: tensor.detach().cpu().contiguous()
        for name, tensor in model.state_dict().items()
        if name != _TIED
    }
    save_file(weights, temporary / "model.safetensors", metadata={"format": "pt"})
    config: Any = model.config
    (temporary / "config.json").write_text(config.to_json_string(use_diff=False), encoding="utf-8")
    torch.save(optimizers.state_dict(), temporary / "optimizer.pt")
    (temporary / "state.json").write_text(json.dumps(asdict(state), indent=2), encoding="utf-8")
    for path in temporary.iterdir():
        _flush(path)
    if final.exists():
        shutil.rmtree(final)
    temporary.rename(final)
    _flush(folder)
    write_atomic(folder / "latest", final.name)
    old = sorted(folder.glob(f"{_PREFIX}*"))[: -max(1, keep)]
    stable = [path for path in old if read_state(path).decay_start is None]
    for path in old:
        if path != final and (state.decay_start is None or path not in stable[-1:]):
            shutil.rmtree(path)
    return final


def latest(folder: Path) -> Path | None:
    """The checkpoint that `latest` names, or None for a fresh folder."""
    pointer = folder / "latest"
    if not pointer.is_file():
        return None
    path = folder / pointer.read_text(encoding="utf-8").strip()
    if not (path / "state.json").is_file():
        raise FileNotFoundError(f"{pointer} names {path.name}, which is not a complete checkpoint")
    return path


def read_state(path: Path) -> TrainState:
    """The state of a checkpoint folder."""
    return TrainState(**json.loads((path / "state.json").read_text(encoding="utf-8")))


def load_weights(path: Path, model: nn.Module, weights: dict[str, Tensor] | None = None) -> None:
    """Put a checkpoint's weights, or those given that stand in `path`, into the model.

    Raises ValueError with every name that is missing, unknown or of another shape.
    """
    weights = load_file(path / "model.safetensors") if weights is None else weights
    own = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    found = {name: tuple(value.shape) for name, value in weights.items()}
    wrong = [
        f"{name} {found.get(name, 'missing')}, expected {own.get(name, 'none')}"
        for name in sorted(own.keys() | found.keys())
        if name != _TIED and found.get(name) != own.get(name)
    ]
    if wrong:
        raise ValueError(f"{path} does not fit this model: {'; '.join(wrong)}")
    model.load_state_dict(weights, strict=False)


def load(path: Path, model: nn.Module, optimizers: Optimizers) -> TrainState:
    """Restore weights and optimiser state in place; the state to go on from."""
    load_weights(path, model)
    optimizers.load_state_dict(torch.load(path / "optimizer.pt", weights_only=True))
    return read_state(path)
