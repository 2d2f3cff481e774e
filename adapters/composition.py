"""Several adapters with scales → one set of matrices whose product is their exact sum.

Σ sₖ·Bₖ·Aₖ is computed by rank concatenation: A matrices are stacked as rows, B matrices as columns, and
each row of A·x is multiplied by its adapter's scale, so that changing a scale moves no matrix. (PEFT's
`combination_type="linear"` adds A and B separately, which is another function.) Modules that read the same
input share one stacked A, so that a layer costs four products with A instead of seven.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

SITES: dict[str, tuple[str, ...]] = {
    "self_attn.qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "self_attn.o": ("self_attn.o_proj",),
    "mlp.gate_up": ("mlp.gate_proj", "mlp.up_proj"),
    "mlp.down": ("mlp.down_proj",),
}


@dataclass(frozen=True, slots=True, eq=False)
class LoraWeights:
    """One adapter's matrices in host memory, all of one dtype (float32, float16 or ml_dtypes.bfloat16).

    sha256: of the file they came from. scale: the adapter's own. modules: module → (lora_a (rank, in),
    lora_b (out, rank)).
    """

    sha256: str
    scale: float
    modules: Mapping[str, tuple[NDArray[Any], NDArray[Any]]]


@dataclass(frozen=True, slots=True, eq=False)
class ModulePart:
    """A module's share of a site: its rows start to stop of the site's A, and b (out, stop - start)."""

    module: str
    start: int
    stop: int
    b: NDArray[Any]


@dataclass(frozen=True, slots=True, eq=False)
class SiteLora:
    """The adapted modules of one layer that read the same input.

    a: (n_rows, in). source: (n_rows,), which adapter of the composition each row comes from.
    """

    a: NDArray[Any]
    source: NDArray[np.int64]
    parts: tuple[ModulePart, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Composition:
    """Adapters stacked in order. key: their files' SHA-256. scales: each adapter's own factor.

    sites: (layer, name in SITES) → matrices. n_modules: matrices of the base that are adapted.
    """

    key: tuple[str, ...]
    scales: tuple[float, ...]
    sites: Mapping[tuple[int, str], SiteLora]
    n_modules: int
    n_bytes: int


def compose(adapters: Sequence[LoraWeights], dtype: Any) -> Composition:
    """Stack `adapters` as matrices of `dtype`. What need not be stacked or converted is not copied: the result
    may share the adapters' memory, and counts it."""
    sites: dict[tuple[int, str], SiteLora] = {}
    adapted = {module for adapter in adapters for module in adapter.modules}
    for layer in sorted({int(module.split(".")[1]) for module in adapted}):
        for site, members in SITES.items():
            names = [f"layers.{layer}.{member}" for member in members]
            present = [name for name in names if name in adapted]
            if present:
                sites[(layer, site)] = _stack(present, adapters, dtype)
    return Composition(
        key=tuple(adapter.sha256 for adapter in adapters),
        scales=tuple(adapter.scale for adapter in adapters),
        sites=sites,
        n_modules=len(adapted),
        n_bytes=_memory(sites),
    )


def row_scales(site: SiteLora, factors: Sequence[float]) -> NDArray[np.float32]:
    """Return the factor of each row of the site's A. factors: one per adapter of the composition."""
    return np.asarray(factors, dtype=np.float32)[site.source]


def _stack(modules: Sequence[str], adapters: Sequence[LoraWeights], dtype: Any) -> SiteLora:
    rows: list[NDArray[Any]] = []
    source: list[int] = []
    parts: list[ModulePart] = []
    for module in modules:
        start, columns = len(source), []
        for index, adapter in enumerate(adapters):
            if module in adapter.modules:
                a, b = adapter.modules[module]
                rows.append(a.astype(dtype, copy=False))
                columns.append(b.astype(dtype, copy=False))
                source += [index] * a.shape[0]
        parts.append(ModulePart(module, start, len(source), _joined(columns, axis=1)))
    return SiteLora(_joined(rows, axis=0), np.array(source), tuple(parts))


def _joined(arrays: Sequence[NDArray[Any]], *, axis: int) -> NDArray[Any]:
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays, axis=axis)


def _memory(sites: Mapping[tuple[int, str], SiteLora]) -> int:
    """Bytes of everything that the matrices keep alive."""
    owners: dict[int, int] = {}
    for site in sites.values():
        for array in (site.a, *(part.b for part in site.parts)):
            owner = array
            while isinstance(owner.base, np.ndarray):
                owner = owner.base
            owners[id(owner)] = owner.nbytes
    return sum(owners.values())
