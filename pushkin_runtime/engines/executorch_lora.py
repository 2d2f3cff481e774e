"""Adapters as an ExecuTorch program takes them: pointers to the composition's own matrices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from adapters.composition import SITES, Composition
from pushkin_runtime.engines.executorch_graph import LINEARS, Adapter
from pushkin_runtime.engines.torch_lora import TorchLora, TorchSite, load_lora

Inputs = tuple[torch.Tensor, ...]
"""A, B and factors of each of a layer's matrices, layer after layer."""


@dataclass(frozen=True, slots=True, eq=False)
class ExecutorchLora:
    """See `Lora`. inputs: for the program; the matrices are those of `matrices`."""

    matrices: TorchLora
    inputs: Inputs

    @property
    def sites(self) -> Mapping[tuple[int, str], TorchSite]:
        """The adapted matrices by what they read."""
        return self.matrices.sites

    @property
    def n_bytes(self) -> int:
        """Memory of the matrices."""
        return self.matrices.n_bytes

    @property
    def n_modules(self) -> int:
        """Matrices of the base that are adapted."""
        return self.matrices.n_modules

    @property
    def is_zero(self) -> bool:
        """Whether it changes nothing."""
        return self.matrices.is_zero

    def rescaled(self, factors: Sequence[float], nothing: Inputs) -> ExecutorchLora:
        """Return the same matrices under other factors."""
        return _with_inputs(self.matrices.rescaled(factors), nothing)


def load_executorch_lora(composition: Composition, nothing: Inputs) -> ExecutorchLora:
    """Return the composition as inputs. nothing: what matrices without an adapter get."""
    return _with_inputs(load_lora(composition), nothing)


def _with_inputs(lora: TorchLora, nothing: Inputs) -> ExecutorchLora:
    inputs: list[torch.Tensor] = []
    n_layers = len(nothing) // (3 * len(LINEARS))
    for layer in range(n_layers):
        adapters = {
            member: adapter
            for site, members in SITES.items()
            for member, adapter in _of_site(lora, layer, site, members)
        }
        for index, member in enumerate(LINEARS):
            at = 3 * (layer * len(LINEARS) + index)
            inputs += adapters.get(member, nothing[at : at + 3])
    return ExecutorchLora(lora, tuple(inputs))


def _of_site(
    lora: TorchLora, layer: int, site: str, members: Sequence[str]
) -> list[tuple[str, Adapter]]:
    adapted = lora.sites.get((layer, site))
    if adapted is None:
        return []
    a = adapted.a.t()
    factors = lora.row_factors[adapted.pattern]
    if factors is None:
        factors = torch.ones(a.shape[0], dtype=a.dtype)
    found, start = [], 0
    for (index, b), width in zip(adapted.parts, adapted.widths, strict=True):
        rows = slice(start, start + width)
        found.append((members[index], (a[rows], b.t(), factors[rows])))
        start += width
    return found
