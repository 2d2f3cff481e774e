"""A checkpoint of what a stage trains, beside a frozen base: one file, whole or absent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn


def trained(model: nn.Module) -> dict[str, Tensor]:
    """What a checkpoint holds: the parameters that are trained, by name."""
    return {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}


def save(path: Path, model: nn.Module, optimizer: Any, done: dict[str, Any]) -> None:
    """Write to a temporary name and rename; done: {"step", "tokens", "seconds"}."""
    content = {"model": trained(model), "optimizer": optimizer.state_dict(), "done": done}
    temporary = path.with_name(f".{path.name}.tmp")
    torch.save(content, temporary)
    temporary.replace(path)


def restore(path: Path, model: nn.Module, optimizer: Any = None) -> dict[str, Any]:
    """Load a checkpoint of the same stage into the model; {"step", "tokens", "seconds"}. Raises ValueError."""
    content = torch.load(path, map_location="cpu", weights_only=True)
    own = dict(model.named_parameters())
    if content["model"].keys() != trained(model).keys():
        raise ValueError(f"{path} is of another shape of run: use a fresh --out")
    with torch.no_grad():
        for name, value in content["model"].items():
            own[name].copy_(value)
    if optimizer is not None:
        optimizer.load_state_dict(content["optimizer"])
    done: dict[str, Any] = content["done"]
    return done
