"""A checkpoint's matrices as ONNX Runtime reads them: mapped from the files, nothing expanded or copied.

mlx-lm's packed codes are byte for byte what `MatMulNBits` wants; what differs is the offset. There a weight is
code * scale + bias, here (code - zero) * scale with `zero` a code, so what a bias has beyond that is kept as
`rest` and multiplied with the sums of the input's groups: exact.
"""

from __future__ import annotations

import json
import mmap
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from pushkin_runtime.model_store import ModelSpec

_DTYPES: dict[str, Any] = {
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "U32": np.uint32,
}
ROWS_AT_ONCE = 8192  # of a matrix whose offsets are looked at: bounds what loading needs


@dataclass(frozen=True, slots=True)
class Place:
    """Where bytes lie in a file."""

    path: Path
    offset: int
    n_bytes: int


@dataclass(frozen=True, slots=True, eq=False)
class QuantizedMatrix:
    """A stored matrix of (out, in) weights, `bits` each, (code - zero) * scale + rest.

    codes: where (out, n_groups, group_size * bits / 8) bytes lie. scales: (out, n_groups) float32. zeros: packed as
    the codes are; None: the middle code everywhere. rest: (n_groups, out) float32; None: nothing.
    """

    codes: Place
    scales: NDArray[np.float32]
    zeros: NDArray[np.uint8] | None
    rest: NDArray[np.float32] | None
    bits: int
    group_size: int


class Checkpoint:
    """The tensors of a model folder by our names, as views of the mapped files. folder: the files' common one."""

    def __init__(self, spec: ModelSpec) -> None:
        self._spec = spec
        parents = {str(tensor.path.resolve().parent) for tensor in spec.tensors.values()}
        self.folder = Path(os.path.commonpath(parents))
        self._headers: dict[Path, tuple[int, dict[str, Any]]] = {}
        self._maps: dict[Path, mmap.mmap] = {}

    def tensor(self, name: str) -> NDArray[Any]:
        """Return a read-only view in the file's own dtype; pages are read when touched."""
        place, dtype, shape = self._entry(name)
        if place.path not in self._maps:
            with place.path.open("rb") as file:
                self._maps[place.path] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        raw = np.frombuffer(self._maps[place.path], np.uint8, place.n_bytes, place.offset)
        return raw.view(dtype).reshape(shape)

    def release(self) -> None:
        """Let go of the pages read so far; they are read again when touched."""
        for mapped in self._maps.values():
            mapped.madvise(mmap.MADV_DONTNEED)

    def location(self, place: Place) -> str:
        """Return the file of `place` from `folder`."""
        return str(place.path.resolve().relative_to(self.folder))

    def is_quantized(self, module: str) -> bool:
        """Whether the matrix of `module` is stored as codes."""
        return f"{module}.scales" in self._spec.tensors

    def quantized(self, module: str) -> QuantizedMatrix:
        """Describe a stored quantised matrix; its offsets are read."""
        assert self._spec.config.quantization is not None
        quantization = self._spec.config.quantization.of(module)
        bits = quantization.bits
        scales = self.tensor(f"{module}.scales")
        biases = self.tensor(f"{module}.biases")
        zeros, rest = _offsets(scales, biases, bits)
        return QuantizedMatrix(
            codes=self._entry(f"{module}.weight")[0],
            scales=scales.astype(np.float32),
            zeros=zeros,
            rest=rest,
            bits=bits,
            group_size=quantization.group_size,
        )

    def rows(self, module: str, ids: Sequence[int] | slice) -> NDArray[np.float32]:
        """Return some rows of a matrix, expanded."""
        index = ids if isinstance(ids, slice) else np.asarray(ids, np.int64)
        stored = self.tensor(f"{module}.weight")[index]
        if not self.is_quantized(module):
            return stored.astype(np.float32)
        assert self._spec.config.quantization is not None
        scales = self.tensor(f"{module}.scales")[index].astype(np.float32)
        biases = self.tensor(f"{module}.biases")[index].astype(np.float32)
        codes = np.ascontiguousarray(stored).view(np.uint8)
        if self._spec.config.quantization.of(module).bits == 4:
            codes = np.stack((codes & 15, codes >> 4), axis=-1)
        grouped = codes.reshape(*scales.shape, -1).astype(np.float32)
        grouped *= scales[..., None]
        grouped += biases[..., None]
        return grouped.reshape(len(grouped), -1)

    def _entry(self, name: str) -> tuple[Place, Any, tuple[int, ...]]:
        tensor = self._spec.tensors[name]
        if tensor.path not in self._headers:
            with tensor.path.open("rb") as file:
                n_header = int.from_bytes(file.read(8), "little")
                self._headers[tensor.path] = 8 + n_header, json.loads(file.read(n_header))
        start, header = self._headers[tensor.path]
        entry = header[tensor.stored_name]
        first, last = entry["data_offsets"]
        place = Place(tensor.path, start + first, last - first)
        return place, _DTYPES[entry["dtype"]], tuple(entry["shape"])


def _offsets(
    scales: NDArray[Any], biases: NDArray[Any], bits: int
) -> tuple[NDArray[np.uint8] | None, NDArray[np.float32] | None]:
    """Return the packed zeros and the rest of (out, n_groups) biases, None each where there is nothing to keep."""
    n_out, n_groups = scales.shape
    middle, last = 1 << (bits - 1), (1 << bits) - 1
    zeros = rest = None
    for start in range(0, n_out, ROWS_AT_ONCE):
        span = slice(start, start + ROWS_AT_ONCE)
        scale, bias = scales[span].astype(np.float32), biases[span].astype(np.float32)
        if (bias == scale * np.float32(-middle)).all():
            continue
        with np.errstate(divide="ignore", invalid="ignore"):
            zero = np.rint(bias / -scale)
        np.copyto(zero, middle, where=~np.isfinite(zero))
        np.clip(zero, 0, last, out=zero)
        if zeros is None:
            zeros = np.full((n_out, n_groups), middle, np.uint8)
        zeros[span] = zero
        bias += np.multiply(zero, scale, out=zero)
        if bias.any():
            if rest is None:
                rest = np.zeros((n_groups, n_out), np.float32)
            rest[:, span] = bias.T
    if zeros is not None and (zeros == middle).all():
        zeros = None
    return None if zeros is None else _packed(zeros, bits), rest


def _packed(zeros: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """Return (out, ceil(n_groups * bits / 8)), low halves first."""
    if bits == 8:
        return zeros
    even = np.pad(zeros, ((0, 0), (0, zeros.shape[1] % 2)))
    packed: NDArray[np.uint8] = even[:, ::2] + np.uint8(16) * even[:, 1::2]
    return packed
