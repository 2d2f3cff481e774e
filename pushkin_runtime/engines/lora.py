"""What every engine asks of a composition before it brings the matrices into its own arrays."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from adapters.composition import SITES, Composition
from adapters.format import BaseModel
from pushkin_runtime.errors import EngineFailed

MAX_LISTED = 8  # problems spelled out in one message; the rest are counted


def check_places(composition: Composition, base: BaseModel, dtype: str) -> None:
    """Raise EngineFailed, with all problems, unless every matrix fits a module of `base` in `dtype`."""
    problems = list(_problems(composition, base, dtype))
    if problems:
        more = f"; and {len(problems) - MAX_LISTED} more" if len(problems) > MAX_LISTED else ""
        raise EngineFailed(
            f"The adapters do not fit {base.id}: {'; '.join(problems[:MAX_LISTED])}{more}."
        )


def check_factors(n_adapters: int, factors: Sequence[float]) -> tuple[float, ...]:
    """Return `factors` as floats. Raises EngineFailed unless there is a finite one per adapter."""
    values = tuple(float(factor) for factor in factors)
    if len(values) != n_adapters or not np.isfinite(values).all():
        raise EngineFailed(f"Expected {n_adapters} finite adapter factors, got {values}.")
    return values


@dataclass(frozen=True, slots=True, eq=False)
class SourcePatterns:
    """The distinct row → adapter maps of a composition: a handful, while its sites are a hundred.

    Changing the factors then costs a vector for each pattern, not one for each site.
    """

    maps: tuple[NDArray[np.int64], ...]
    n_adapters: int

    def vectors(self, factors: Sequence[float]) -> list[NDArray[np.float32]]:
        """Return the factor of each row, for each pattern."""
        values = np.asarray(factors, dtype=np.float32)
        return [values[source] for source in self.maps]


def source_patterns(
    composition: Composition,
) -> tuple[SourcePatterns, dict[tuple[int, str], int]]:
    """Return the patterns, and which of them each site has."""
    maps: dict[bytes, tuple[int, NDArray[np.int64]]] = {}
    pattern_of: dict[tuple[int, str], int] = {}
    for place, site in composition.sites.items():
        index, _ = maps.setdefault(site.source.tobytes(), (len(maps), site.source))
        pattern_of[place] = index
    ordered = tuple(source for _, source in maps.values())
    return SourcePatterns(ordered, len(composition.scales)), pattern_of


def _problems(composition: Composition, base: BaseModel, dtype: str) -> Iterator[str]:
    n_modules = 0
    for (layer, name), site in composition.sites.items():
        n_modules += len(site.parts)
        members = {f"layers.{layer}.{member}" for member in SITES.get(name, ())}
        for part in site.parts:
            if part.module not in members & base.modules.keys():
                yield f"{part.module} is not in this model"
                continue
            n_out, n_in = base.modules[part.module]
            b = (n_out, part.stop - part.start)
            if site.a.shape[1] != n_in or part.b.shape != b:
                yield (
                    f"{part.module} has matrices {site.a.shape} and {part.b.shape}, "
                    f"expected (…, {n_in}) and {b}"
                )
            if str(site.a.dtype) != dtype or str(part.b.dtype) != dtype:
                yield f"{part.module} is {part.b.dtype}, expected {dtype}"
    if n_modules != composition.n_modules:
        yield f"{n_modules} matrices were given, expected {composition.n_modules}"
