"""A small base, random LoRA matrices that fit it, and installed adapters to damage."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from adapters.draft import Draft, Provenance
from adapters.format import TARGETS, BaseModel, scale_of
from adapters.install import write
from adapters.registry import AdapterRegistry, AdapterSpec

HIDDEN, INTERMEDIATE, N_LAYERS = 48, 80, 3
SHAPES = {
    "self_attn.q_proj": (64, HIDDEN),
    "self_attn.k_proj": (32, HIDDEN),
    "self_attn.v_proj": (32, HIDDEN),
    "self_attn.o_proj": (HIDDEN, 64),
    "mlp.gate_proj": (INTERMEDIATE, HIDDEN),
    "mlp.up_proj": (INTERMEDIATE, HIDDEN),
    "mlp.down_proj": (HIDDEN, INTERMEDIATE),
}
DTYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}


@pytest.fixture(scope="session")
def base() -> BaseModel:
    """Three layers of a Gemma-like shape."""
    modules = {
        f"layers.{i}.{target}": SHAPES[target] for i in range(N_LAYERS) for target in TARGETS
    }
    return BaseModel(id="tiny", digest="ab" * 32, modules=modules)


@pytest.fixture(scope="session")
def make_modules(base: BaseModel) -> Callable[..., dict[str, tuple[Any, Any]]]:
    """`make_modules(rank, targets=..., dtype=..., seed=...)`: random matrices by module."""

    def make(
        rank: int = 4, *, targets: Sequence[str] = TARGETS, dtype: str = "float32", seed: int = 0
    ) -> dict[str, tuple[Any, Any]]:
        rng = np.random.default_rng(seed)
        return {
            module: (
                rng.standard_normal((rank, inner)).astype(DTYPES[dtype]),
                rng.standard_normal((out, rank)).astype(DTYPES[dtype]),
            )
            for module, (out, inner) in base.modules.items()
            if module.endswith(tuple(targets))
        }

    return make


@pytest.fixture(scope="session")
def make_draft(base: BaseModel, make_modules: Callable[..., Any]) -> Callable[..., Draft]:
    """`make_draft(name, rank=..., alpha=..., rslora=..., modules=..., dtype=..., task=...)`."""

    def make(name: str = "quiet", **given: Any) -> Draft:
        rank, alpha = given.pop("rank", 4), given.pop("alpha", 8.0)
        rslora, task = given.pop("rslora", False), given.pop("task", "")
        modules = given.pop("modules", None)
        return Draft(
            name=name,
            base=base,
            rank=rank,
            alpha=alpha,
            scale=scale_of(rank, alpha, rslora=rslora),
            rslora=rslora,
            modules=make_modules(rank, **given) if modules is None else modules,
            provenance=Provenance(task=task),
        )

    return make


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "adapters"


@pytest.fixture
def registry(root: Path, base: BaseModel) -> AdapterRegistry:
    return AdapterRegistry([root], base)


@pytest.fixture
def installed(root: Path, make_draft: Callable[..., Draft]) -> AdapterSpec:
    """The adapter `quiet` in `root`."""
    return write(make_draft(), root)


@pytest.fixture
def edit_manifest() -> Callable[..., None]:
    """`edit_manifest(folder, key=value)` changes adapter.json."""

    def edit(folder: Path, **changes: Any) -> None:
        path = folder / "adapter.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return edit
