"""Adapters beside the base: y = W·x + factor · B·(A·x), the base's matrices untouched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from numpy.typing import NDArray

from adapters.composition import SITES, Composition
from pushkin_runtime.engines.lora import SourcePatterns, check_factors, source_patterns
from pushkin_runtime.engines.torch_linear import add_product, product


@dataclass(frozen=True, slots=True, eq=False)
class TorchSite:
    """The adapted matrices that read one input.

    a: transposed, (in, n_rows). widths: of each part, in order, its share of the rows. parts: which output
    of the site, b transposed (width, out). pattern: which of the row factors.
    """

    a: torch.Tensor
    widths: list[int]
    parts: tuple[tuple[int, torch.Tensor], ...]
    pattern: int


@dataclass(frozen=True, slots=True, eq=False)
class TorchLora:
    """See `Lora`. row_factors: by pattern, (n_rows,) each; None where every factor is 1."""

    sites: Mapping[tuple[int, str], TorchSite]
    patterns: SourcePatterns
    row_factors: tuple[torch.Tensor | None, ...]
    n_bytes: int
    n_modules: int
    is_zero: bool

    def add(self, layer: int, site: str, x: torch.Tensor, outputs: Sequence[torch.Tensor]) -> None:
        """Add the adapters' share to the site's `outputs`, (n, out) each, in place. x: (n, in)."""
        adapted = self.sites.get((layer, site))
        if adapted is None:
            return
        rows = product(x, adapted.a)
        factors = self.row_factors[adapted.pattern]
        if factors is not None:
            rows *= factors
        shares = rows.split(adapted.widths, dim=1)
        for (index, b), share in zip(adapted.parts, shares, strict=True):
            add_product(outputs[index], share, b)

    def rescaled(self, factors: Sequence[float]) -> TorchLora:
        """Return the same matrices under other factors."""
        values = check_factors(self.patterns.n_adapters, factors)
        vectors = (torch.from_numpy(v) for v in self.patterns.vectors(values))
        dtype = next(iter(self.sites.values())).a.dtype if self.sites else torch.float32
        row_factors = tuple(None if bool((v == 1).all()) else v.to(dtype) for v in vectors)
        return replace(self, row_factors=row_factors, is_zero=not any(values))


def load_lora(composition: Composition) -> TorchLora:
    """Return the composition as tensors over its own memory, under the adapters' own scales."""
    patterns, pattern_of = source_patterns(composition)
    sites: dict[tuple[int, str], TorchSite] = {}
    for (layer, name), site in composition.sites.items():
        outputs = [f"layers.{layer}.{member}" for member in SITES[name]]
        sites[(layer, name)] = TorchSite(
            a=_tensor(site.a).t(),
            widths=[part.stop - part.start for part in site.parts],
            parts=tuple((outputs.index(part.module), _tensor(part.b).t()) for part in site.parts),
            pattern=pattern_of[(layer, name)],
        )
    loaded = TorchLora(
        sites=sites,
        patterns=patterns,
        row_factors=(),
        n_bytes=sum(s.a.nbytes + sum(b.nbytes for _, b in s.parts) for s in sites.values()),
        n_modules=sum(len(s.parts) for s in sites.values()),
        is_zero=False,
    )
    return loaded.rescaled(composition.scales)


def _tensor(array: NDArray[Any]) -> torch.Tensor:
    if array.dtype.name == "bfloat16":  # a dtype NumPy knows only through ml_dtypes
        return torch.from_numpy(array.view("int16")).view(torch.bfloat16)
    return torch.from_numpy(array)
