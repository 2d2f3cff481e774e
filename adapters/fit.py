"""Whether the tensors of an adapter are a LoRA, and one that fits the base: every mismatch at once."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from adapters.errors import (
    AdapterCorrupt,
    AdapterError,
    AdapterIncompatible,
    AdapterUnsupported,
    listed,
)
from adapters.format import MAX_RANK, TARGETS, BaseModel
from adapters.tensor_file import TensorInfo
from adapters.untrusted import short

_TENSOR = re.compile(r"(?P<module>layers\.\d{1,4}\.(?P<target>[a-z_.]+))\.(?P<part>lora_[ab])")


@dataclass(frozen=True, slots=True)
class Problems:
    """What is wrong, by the error it leads to; the gravest decides, all are in the message."""

    corrupt: list[str] = field(default_factory=list)
    unsupported: list[str] = field(default_factory=list)
    incompatible: list[str] = field(default_factory=list)

    def raise_for(self, where: str, base: BaseModel) -> None:
        """Raise the AdapterError that `where` deserves, if any."""
        every = [*self.corrupt, *self.unsupported, *self.incompatible]
        if not every:
            return
        kind: type[AdapterError] = AdapterIncompatible
        remedy = f"Take one that was made for {base.id}"
        if self.unsupported:
            kind, remedy = AdapterUnsupported, "Train it with other settings"
        if self.corrupt:
            kind, remedy = AdapterCorrupt, "Install it again from its source"
        raise kind(f"{where}: {len(every)} mismatch(es): {listed(every)}. {remedy}.")


def targets_of(tensors: Mapping[str, TensorInfo]) -> tuple[str, ...]:
    """Return those TARGETS that any tensor belongs to."""
    found = {match["target"] for name in tensors if (match := _TENSOR.fullmatch(name))}
    return tuple(target for target in TARGETS if target in found)


def check_tensors(tensors: Mapping[str, TensorInfo], rank: int, base: BaseModel) -> Problems:
    """Compare every tensor with the base; rank: what the manifest says.

    Nothing may be left over: a tensor that would not be used is a problem.
    """
    problems = Problems()
    pairs: dict[str, dict[str, TensorInfo]] = {}
    for name, info in tensors.items():
        match = _TENSOR.fullmatch(name)
        if match is None:
            problems.corrupt.append(f"{short(name)} is not the lora_a or lora_b of a module")
        else:
            pairs.setdefault(match["module"], {})[match["part"]] = info
    dtypes = sorted({info.dtype for info in tensors.values()})
    if len(dtypes) > 1:
        problems.corrupt.append(f"mixed dtypes {', '.join(dtypes)}, expected one")
    if not tensors:
        problems.corrupt.append("there are no tensors")
    for module, pair in sorted(pairs.items()):
        _check_pair(module, pair, rank, base, problems)
    return problems


def _check_pair(
    module: str, pair: Mapping[str, TensorInfo], rank: int, base: BaseModel, problems: Problems
) -> None:
    missing = {"lora_a", "lora_b"} - pair.keys()
    if missing:
        problems.corrupt.append(f"{module}.{missing.pop()} is missing")
    if module not in base.modules:
        problems.incompatible.append(f"{short(module)} is not an adaptable module of {base.id}")
        return
    out, inner = base.modules[module]
    expected = {"lora_a": (rank, inner), "lora_b": (out, rank)}
    for part, info in pair.items():
        if info.shape == expected[part]:
            continue
        line = f"{module}.{part} has shape {info.shape}, expected {expected[part]}"
        if len(info.shape) == 2 and info.shape[part == "lora_b"] > MAX_RANK:
            problems.unsupported.append(f"{line} and a rank of at most {MAX_RANK}")
        else:
            problems.incompatible.append(line)
