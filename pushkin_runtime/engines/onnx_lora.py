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

from adapters.composition import SITES, Composition
from adapters.format import BaseModel
from pushkin_runtime.engines.lora import SourcePatterns, check_factors, source_patterns
from pushkin_runtime.engines.onnx_graph import lora_name


@dataclass(frozen=True, slots=True, eq=False)
class OnnxLora:
    """See `Lora`. matrices: input → value, every input but the factors. pattern_of: factors' input → pattern.

    factors: by pattern, (n_rows,) each.
    """

    matrices: Mapping[str, OrtValue]
    patterns: SourcePatterns
    pattern_of: Mapping[str, int]
    factors: tuple[OrtValue, ...]
    n_bytes: int
    n_modules: int
    is_zero: bool

    def inputs(self) -> dict[str, OrtValue]:
        """Return what to bind to each input of the graph."""
        factors = {name: self.factors[pattern] for name, pattern in self.pattern_of.items()}
        return {**self.matrices, **factors}

    def rescaled(self, factors: Sequence[float]) -> OnnxLora:
        """Return the same matrices under other factors."""
        values = check_factors(self.patterns.n_adapters, factors)
        vectors = tuple(_value(vector) for vector in self.patterns.vectors(values))
        return replace(self, factors=vectors, is_zero=not any(values))


def load_lora(composition: Composition, base: BaseModel) -> OnnxLora:
    """Return the composition's matrices as the graph multiplies them, under the adapters' own scales."""
    patterns, pattern_of = source_patterns(composition)
    none = len(patterns.maps)  # the pattern of the sites that nothing adapts
    matrices: dict[str, OrtValue] = {}
    factors: dict[str, int] = {}
    n_modules = 0
    for layer in sorted({int(module.split(".")[1]) for module in base.modules}):
        for site, members in SITES.items():
            adapted = composition.sites.get((layer, site))
            n_in = base.modules[f"layers.{layer}.{members[0]}"][1]
            a = np.empty((0, n_in), np.float32) if adapted is None else adapted.a
            parts = {} if adapted is None else {part.module: part for part in adapted.parts}
            n_modules += len(parts)
            widths = []
            for member in members:
                module = f"layers.{layer}.{member}"
                n_out = base.modules[module][0]
                b = parts[module].b if module in parts else np.empty((n_out, 0), np.float32)
                widths.append(b.shape[1])
                matrices[lora_name(layer, site, f"b.{member}")] = _value(b.T)
            matrices[lora_name(layer, site, "a")] = _value(a.T)
            if len(members) > 1:
                matrices[lora_name(layer, site, "widths")] = _value(np.array(widths, np.int64))
            factors[lora_name(layer, site, "factors")] = pattern_of.get((layer, site), none)
    patterns = SourcePatterns((*patterns.maps, np.empty(0, np.int64)), patterns.n_adapters)
    loaded = OnnxLora(
        matrices=matrices,
        patterns=patterns,
        pattern_of=factors,
        factors=(),
        n_bytes=sum(value.tensor_size_in_bytes() for value in matrices.values()),
        n_modules=n_modules,
        is_zero=False,
    )
    return loaded.rescaled(composition.scales)


def no_lora(base: BaseModel) -> OnnxLora:
    """Return the inputs of a graph without adapters."""
    return load_lora(Composition((), (), {}, 0, 0), base)


def _value(array: NDArray[Any]) -> OrtValue:
    """An OrtValue over the array's own memory, or over a copy in row-major order."""
    return OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array))
