"""Adapters beside mlx-lm's layers: each adaptable matrix is wrapped once, at load, and for good.

A wrapper asks the engine's slot which adapters the forward pass being built is under. MLX runs a graph
later than Python builds it, but the graph holds the arrays themselves: what the slot says afterwards
no longer matters, so generations under different adapters may take turns with a step in flight each.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from numpy.typing import NDArray

from adapters.composition import SITES, Composition
from pushkin_runtime.engines.base import Lora
from pushkin_runtime.engines.lora import SourcePatterns, check_factors, source_patterns

Place = tuple[int, str]


@dataclass(frozen=True, slots=True, eq=False)
class MlxSite:
    """The adapted matrices that read one input.

    a: transposed, (in, n_rows). parts: member of the site → its rows start to stop of a, and b
    transposed, (stop - start, out). pattern: which of the row factors.
    """

    a: mx.array
    parts: Mapping[str, tuple[int, int, mx.array]]
    pattern: int


@dataclass(frozen=True, slots=True, eq=False)
class MlxLora:
    """See `Lora`. row_factors: by pattern, (n_rows,) each; None where every factor is 1."""

    sites: Mapping[Place, MlxSite]
    patterns: SourcePatterns
    row_factors: tuple[mx.array | None, ...]
    n_bytes: int
    n_modules: int
    is_zero: bool

    def rescaled(self, factors: Sequence[float]) -> MlxLora:
        """Return the same matrices under other factors."""
        values = check_factors(self.patterns.n_adapters, factors)
        dtype = next(iter(self.sites.values())).a.dtype if self.sites else mx.float32
        row_factors = tuple(
            None if (v == 1).all() else mx.array(v).astype(dtype)
            for v in self.patterns.vectors(values)
        )
        return replace(self, row_factors=row_factors, is_zero=not any(values))


class LoraSlot:
    """Which adapters the forward pass being built is under, and what it has of A·x so far."""

    def __init__(self) -> None:
        self._lora: MlxLora | None = None
        self._rows: dict[Place, mx.array] = {}

    @contextmanager
    def applied(self, lora: Lora | None) -> Iterator[None]:
        """Build one forward pass under `lora`."""
        assert lora is None or isinstance(lora, MlxLora)
        self._lora = None if lora is None or lora.is_zero else lora
        try:
            yield
        finally:
            self._lora = None
            self._rows.clear()

    def added(self, place: Place, member: str, x: mx.array, y: mx.array) -> mx.array:
        """Return `y` plus what the adapters make of `x` for this member of the site."""
        site = None if self._lora is None else self._lora.sites.get(place)
        if self._lora is None or site is None or member not in site.parts:
            return y
        rows = self._rows.get(place)
        if rows is None:  # a site reads one input in a pass: q, k and v share this product
            rows = x @ site.a
            factors = self._lora.row_factors[site.pattern]
            rows = rows if factors is None else rows * factors
            self._rows[place] = rows
        start, stop, b = site.parts[member]
        return mx.addmm(y, rows[..., start:stop], b)


class AdaptedLinear(nn.Module):  # type: ignore[name-defined]
    """A matrix of the base, and what the slot's adapters add to it."""

    def __init__(self, base: Any, slot: LoraSlot, place: Place, member: str) -> None:
        super().__init__()
        self.base = base
        self._slot, self._place, self._member = slot, place, member

    def __call__(self, x: mx.array) -> mx.array:
        """x: (..., in) → (..., out)."""
        return self._slot.added(self._place, self._member, x, self.base(x))


def install(layers: Sequence[Any], slot: LoraSlot) -> None:
    """Wrap every adaptable matrix of mlx-lm's `layers`; to be done once."""
    for index, layer in enumerate(layers):
        for site, members in SITES.items():
            for member in members:
                block, name = member.split(".")
                parent = getattr(layer, block)
                wrapper = AdaptedLinear(getattr(parent, name), slot, (index, site), member)
                setattr(parent, name, wrapper)


def load_lora(composition: Composition) -> MlxLora:
    """Return a copy of the composition as MLX arrays, under the adapters' own scales."""
    patterns, pattern_of = source_patterns(composition)
    sites: dict[Place, MlxSite] = {}
    for place, site in composition.sites.items():
        parts = {
            part.module.split(".", 2)[2]: (part.start, part.stop, _array(part.b).T)
            for part in site.parts
        }
        sites[place] = MlxSite(_array(site.a).T, parts, pattern_of[place])
    arrays = [a for s in sites.values() for a in (s.a, *(b for *_, b in s.parts.values()))]
    mx.eval(arrays)
    loaded = MlxLora(
        sites=sites,
        patterns=patterns,
        row_factors=(),
        n_bytes=sum(a.nbytes for a in arrays),
        n_modules=sum(len(s.parts) for s in sites.values()),
        is_zero=False,
    )
    return loaded.rescaled(composition.scales)


def _array(array: NDArray[Any]) -> mx.array:
    if array.dtype.name == "bfloat16":  # a dtype NumPy knows only through ml_dtypes
        return mx.array(array.view("uint16")).view(mx.bfloat16)
    return mx.array(array)
