"""safetensors files of which the same tensors always make the same bytes, written tensor by tensor."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

_ALIGNMENT = 8
_N_BYTES = {"F32": 4, "F16": 2, "BF16": 2, "U32": 4}


@dataclass(frozen=True, slots=True)
class Written:
    """What was written: SHA-256 (hex) and size."""

    sha256: str
    n_bytes: int


def header_bytes(
    tensors: Mapping[str, tuple[str, tuple[int, ...]]], metadata: Mapping[str, str] | None = None
) -> bytes:
    """Return length and header of a file with `tensors` in this order: name → (dtype, shape)."""
    header: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for name, (dtype, shape) in tensors.items():
        start, end = end, end + _N_BYTES[dtype] * math.prod(shape)
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}
    content = json.dumps(header, separators=(",", ":")).encode()
    content += b" " * (-len(content) % _ALIGNMENT)
    return len(content).to_bytes(8, "little") + content


def write_new(path: Path, parts: Iterable[bytes | memoryview]) -> Written:
    """Create `path` (0600) from `parts`, flushed to the disk. Raises OSError, also if it exists."""
    digest, n_bytes = hashlib.sha256(), 0
    with _create(path) as file:
        for part in parts:
            digest.update(part)
            n_bytes += memoryview(part).nbytes
            file.write(part)
        file.flush()
        os.fsync(file.fileno())
    return Written(digest.hexdigest(), n_bytes)


def _create(path: Path) -> BinaryIO:
    flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.fdopen(os.open(path, flags, 0o600), "wb")


def raw(arrays: Iterable[object]) -> Iterator[memoryview]:
    """The bytes of contiguous arrays, bfloat16 included (which has no buffer format of its own)."""
    for array in arrays:
        yield memoryview(array.reshape(-1).view("u1"))  # type: ignore[attr-defined]
