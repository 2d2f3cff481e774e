"""Adapters with random matrices that change what a model writes, installed as real ones are."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np

from adapters.draft import Draft
from adapters.format import TARGETS, BaseModel, scale_of
from adapters.install import write

STRENGTH = 0.5  # of an update's entries before scaling; enough to change nearly every greedy text


def install_random(
    root: Path,
    name: str,
    base: BaseModel,
    *,
    rank: int = 8,
    targets: tuple[str, ...] = TARGETS,
    seed: int = 0,
) -> int:
    """Install an adapter of `targets` in `root`; return the bytes of its weights."""
    rng = np.random.default_rng(seed)
    modules = {
        module: (
            (rng.standard_normal((rank, n_in)) / n_in**0.5).astype(ml_dtypes.bfloat16),
            (rng.standard_normal((n_out, rank)) * STRENGTH).astype(ml_dtypes.bfloat16),
        )
        for module, (n_out, n_in) in base.modules.items()
        if module.endswith(targets)
    }
    alpha = 2.0 * rank
    draft = Draft(
        name=name,
        base=base,
        rank=rank,
        alpha=alpha,
        scale=scale_of(rank, alpha, rslora=False),
        rslora=False,
        modules=modules,
    )
    return write(draft, root, replace=True).manifest.n_bytes
