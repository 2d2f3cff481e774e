"""Muon for the hidden matrices, AdamW for embeddings and norms, and the WSD schedule.

Muon: https://kellerjordan.github.io/posts/muon/ (torch.optim.Muon). WSD (warm-up, stable, decay):
https://arxiv.org/abs/2404.06395; the stable phase can be prolonged or ended whenever wanted.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True)
class OptimizerSettings:
    """Peak learning rates and the common rest."""

    muon_lr: float = 0.02
    adam_lr: float = 0.004
    momentum: float = 0.95
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.01
    grad_clip: float = 1.0


@dataclass(frozen=True)
class Schedule:
    """Learning-rate factor by step: linear warm-up, 1, then linear to zero over `decay_steps`.

    `decay_start` None means that the stable phase goes on.
    """

    warmup_steps: int
    decay_start: int | None = None
    decay_steps: int = 0

    def factor(self, step: int) -> float:
        """Factor for the update number `step`, counted from 0."""
        warm = min(1.0, (step + 1) / max(1, self.warmup_steps))
        if self.decay_start is None or step < self.decay_start:
            return warm
        left = 1.0 - (step - self.decay_start) / max(1, self.decay_steps)
        return warm * max(0.0, left)


@dataclass(frozen=True)
class Optimizers:
    """The two optimisers of one model and their peak rates."""

    muon: torch.optim.Optimizer
    adam: torch.optim.Optimizer
    settings: OptimizerSettings

    def step(self, factor: float) -> None:
        """One update with the learning rates scaled by `factor`, then gradients are dropped."""
        peaks = ((self.muon, self.settings.muon_lr), (self.adam, self.settings.adam_lr))
        for optimizer, peak in peaks:
            for group in optimizer.param_groups:
                group["lr"] = peak * factor
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    def state_dict(self) -> dict[str, object]:
        """State of both, for torch.save."""
        return {"muon": self.muon.state_dict(), "adam": self.adam.state_dict()}

    def load_state_dict(self, state: dict[str, dict[str, object]]) -> None:
        """Restore what `state_dict` gave."""
        self.muon.load_state_dict(state["muon"])
        self.adam.load_state_dict(state["adam"])


def make_optimizers(model: nn.Module, settings: OptimizerSettings) -> Optimizers:
    """Split the parameters: matrices inside the layers go to Muon, all else to AdamW."""
    matrices: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        inside = ".layers." in name and parameter.ndim == 2
        (matrices if inside else rest).append(parameter)
    muon = torch.optim.Muon(
        matrices,
        lr=settings.muon_lr,
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
    )
    adam = torch.optim.AdamW(rest, lr=settings.adam_lr, betas=settings.betas, weight_decay=0.0)
    return Optimizers(muon, adam, settings)
