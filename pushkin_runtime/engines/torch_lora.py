"""Adapters beside the base: y = W·x + factor · B·(A·x), the base's matrices untouched."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from numpy.typing import NDArray

from adapters.composition import SITES, Composition
from pushkin_runtime.engines.lora import SourcePatterns, check_factors, source_patterns

LONG_DOT = 128  # terms from which PyTorch's own dot products beat oneDNN's on a single bfloat16 row


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
        rows = _product(x, adapted.a)
        factors = self.row_factors[adapted.pattern]
        if factors is not None:
            rows *= factors
        shares = rows.split(adapted.widths, dim=1)
        for (index, b), share in zip(adapted.parts, shares, strict=True):
            _add_product(outputs[index], share, b)

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
        n_bytes=composition.n_bytes,
        n_modules=sum(len(s.parts) for s in sites.values()),
        is_zero=False,
    )
    return loaded.rescaled(composition.scales)


def _product(x: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
    """Return x (n, in) times matrix (in, out), which is stored the other way about."""
    with _own_dot_products(x):
        return torch.mm(x, matrix)


def _add_product(y: torch.Tensor, x: torch.Tensor, matrix: torch.Tensor) -> None:
    """Add x (n, in) times matrix (in, out), stored the other way about, to y in place."""
    with _own_dot_products(x):
        y.addmm_(x, matrix)


@contextmanager
def _own_dot_products(x: torch.Tensor) -> Iterator[None]:
    """Keep oneDNN from the product where it is slow: a single bfloat16 row with many terms.

    Measured at the 4B shape with cold matrices (AVX-512, one thread): 37 against 88 µs for 2560 → 128, 280
    against 420 for 128 → 10240, but 270 against 115 for 64 → 10240.
    """
    if x.shape[0] > 1 or x.shape[1] < LONG_DOT or x.dtype != torch.bfloat16:
        yield
        return
    was_enabled = torch.backends.mkldnn.enabled
    torch.backends.mkldnn.enabled = False  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.backends.mkldnn.enabled = was_enabled


def _tensor(array: NDArray[Any]) -> torch.Tensor:
    if array.dtype.name == "bfloat16":  # a dtype NumPy knows only through ml_dtypes
        return torch.from_numpy(array.view("int16")).view(torch.bfloat16)
    return torch.from_numpy(array)
