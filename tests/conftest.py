"""Fixtures shared by all tests."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-golden", action="store_true", help="rewrite golden files, then review the diff"
    )


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[Path, str], None]:
    """`golden(path, text)` asserts that the file holds the text, or rewrites it on request."""

    def check(path: Path, text: str) -> None:
        if request.config.getoption("--update-golden"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        assert path.exists(), f"{path} is missing: run `make golden` and review it"
        assert path.read_text(encoding="utf-8") == text, (
            f"{path} differs: review, then run `make golden`"
        )

    return check


@pytest.fixture
def write_adapter() -> Callable[..., None]:
    """`write_adapter(root, name, base, seed=..., fill=..., rank=..., dtype=..., **manifest)`: an adapter of all
    modules of `base` with random matrices, or with B full of one number."""
    import ml_dtypes
    import numpy as np
    from safetensors.numpy import save

    from adapters.format import JSON_NAME, TARGETS, WEIGHTS_NAME, AdapterManifest, BaseModel

    def write(root: Path, name: str, base: BaseModel, **options: Any) -> None:
        rng = np.random.default_rng(options.pop("seed", 0))
        rank, fill = options.pop("rank", 4), options.pop("fill", None)
        dtype = np.dtype(options.pop("dtype", ml_dtypes.bfloat16))
        tensors = {}
        for module, (n_out, n_in) in base.modules.items():
            a = rng.standard_normal((rank, n_in)) / n_in**0.5
            b = (
                rng.standard_normal((n_out, rank)) * 0.3
                if fill is None
                else np.full((n_out, rank), fill)
            )
            tensors[f"{module}.lora_a"] = a.astype(dtype)
            tensors[f"{module}.lora_b"] = b.astype(dtype)
        content = save(tensors)
        manifest = {
            "name": name,
            "rank": rank,
            "alpha": 2.0 * rank,
            "scale": 2.0,
            "target_modules": TARGETS,
            "base_id": base.id,
            "base_digest": base.digest,
            "sha256": hashlib.sha256(content).hexdigest(),
            "n_bytes": len(content),
        }
        folder = root / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / WEIGHTS_NAME).write_bytes(content)
        (folder / JSON_NAME).write_bytes(AdapterManifest(**(manifest | options)).to_json())

    return write
