"""Adapters as inputs of the graph: every adaptable matrix has some, of rank 0 where nothing adapts it.

Changing the adapters changes which arrays are bound; nothing is copied, and the graph is the same without any.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnxruntime import OrtValue

from adapters.composition import SITES, Composition, SiteLora
from adapters.format import BaseModel
from pushkin_runtime.engines.lora import SourcePatterns, check_factors, source_patterns
from pushkin_runtime.engines.onnx_graph import lora_name


@dataclass(frozen=True, slots=True, eq=False)
class OnnxLora:
    """See `Lora`. sites: by place, the values of its inputs but the factors. pattern_of: factors' input → pattern.

    factors: by pattern, (n_rows,) each.
    """

    sites: Mapping[tuple[int, str], Mapping[str, OrtValue]]
    patterns: SourcePatterns
    pattern_of: Mapping[str, int]
    factors: tuple[OrtValue, ...]
    n_bytes: int
    n_modules: int
    is_zero: bool

    def inputs(self) -> dict[str, OrtValue]:
        """Return what to bind to each input of the graph."""
        values = {name: self.factors[pattern] for name, pattern in self.pattern_of.items()}
        for site in self.sites.values():
            values |= site
        return values

    def rescaled(self, factors: Sequence[float]) -> OnnxLora:
        """Return the same matrices under other factors."""
        values = check_factors(self.patterns.n_adapters, factors)
        vectors = tuple(_value(vector) for vector in self.patterns.vectors(values))
        return replace(self, factors=vectors, is_zero=not any(values))


def load_lora(composition: Composition, base: BaseModel) -> OnnxLora:
    """Return the composition's matrices as the graph multiplies them, under the adapters' own scales."""
    patterns, pattern_of = source_patterns(composition)
    none = len(patterns.maps)  # the pattern of the sites that nothing adapts
    layers = sorted({int(module.split(".")[1]) for module in base.modules})
    places = [(layer, site) for layer in layers for site in SITES]
    loaded = OnnxLora(
        sites={place: _site_inputs(place, composition.sites.get(place), base) for place in places},
        patterns=SourcePatterns((*patterns.maps, np.empty(0, np.int64)), patterns.n_adapters),
        pattern_of={lora_name(*place, "factors"): pattern_of.get(place, none) for place in places},
        factors=(),
        n_bytes=sum(
            site.a.nbytes + sum(part.b.nbytes for part in site.parts)
            for site in composition.sites.values()
        ),
        n_modules=sum(len(site.parts) for site in composition.sites.values()),
        is_zero=False,
    )
    return loaded.rescaled(composition.scales)


def no_lora(base: BaseModel) -> OnnxLora:
    """Return the inputs of a graph without adapters."""
    return load_lora(Composition((), (), {}, 0, 0), base)


def _site_inputs(
    place: tuple[int, str], site: SiteLora | None, base: BaseModel
) -> dict[str, OrtValue]:
    """Return A and every member's B, transposed, and how many of A's columns are whose."""
    layer, name = place
    members = SITES[name]
    parts = {} if site is None else {part.module: part.b for part in site.parts}
    n_in = base.modules[f"layers.{layer}.{members[0]}"][1]
    a = np.empty((0, n_in), np.float32) if site is None else site.a
    inputs = {lora_name(layer, name, "a"): _value(a.T)}
    widths = []
    for member in members:
        module = f"layers.{layer}.{member}"
        b = parts.get(module, np.empty((base.modules[module][0], 0), np.float32))
        widths.append(b.shape[1])
        inputs[lora_name(layer, name, f"b.{member}")] = _value(b.T)
    if len(members) > 1:
        inputs[lora_name(layer, name, "widths")] = _value(np.array(widths, np.int64))
    return inputs


def _value(array: NDArray[Any]) -> OrtValue:
    """An OrtValue over the array's own memory, or over a copy in row-major order."""
    return OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array))
