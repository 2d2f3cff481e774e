"""A checkpoint's matrices as ONNX Runtime reads them: mapped from the files, no code expanded or copied.

mlx-lm's packed codes are byte for byte what `MatMulNBits` wants; what differs is the offset. There a weight is
code * scale + bias, here (code - zero) * scale with `zero` a code, so what a bias has beyond that is kept as
`rest` and multiplied with the sums of the input's groups: exact.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import tempfile
import threading
from collections.abc import Iterator, Sequence
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
SPILL_BYTES = 64 << 10  # smaller arrays are not worth a file
RELEASE_S = 0.05  # between two releases: tens of megabytes at the pace of packing


@dataclass(frozen=True, slots=True, eq=False)
class QuantizedMatrix:
    """A stored matrix of (out, in) weights, `bits` each, (code - zero) * scale + rest.

    codes: (out, n_groups, group_size * bits / 8) uint8, in the file. scales: (out, n_groups) float32. zeros: packed as
    the codes are; None: the middle code everywhere. rest: (n_groups, out) float32; None: nothing.
    """

    codes: NDArray[np.uint8]
    scales: NDArray[np.float32]
    zeros: NDArray[np.uint8] | None
    rest: NDArray[np.float32] | None
    bits: int
    group_size: int


class Checkpoint:
    """The tensors of a model folder by our names, as views of the mapped files. Any thread.

    scratch: folder for what is made from them and read once; None: that stays in memory. config: a file of the model,
    where it really lies.
    """

    def __init__(self, spec: ModelSpec, scratch: Path | None = None) -> None:
        self._spec, self._scratch = spec, scratch
        self.config = (spec.path / "config.json").resolve()
        self._headers: dict[Path, tuple[int, dict[str, Any]]] = {}
        self._maps: dict[Path, mmap.mmap] = {}
        self._spilled: list[mmap.mmap] = []
        for path in {tensor.path for tensor in spec.tensors.values()}:
            with path.open("rb") as file:
                n_header = int.from_bytes(file.read(8), "little")
                self._headers[path] = 8 + n_header, json.loads(file.read(n_header))
                self._maps[path] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def tensor(self, name: str) -> NDArray[Any]:
        """Return a read-only view in the file's own dtype; pages are read when touched."""
        tensor = self._spec.tensors[name]
        start, header = self._headers[tensor.path]
        entry = header[tensor.stored_name]
        first, last = entry["data_offsets"]
        raw = np.frombuffer(self._maps[tensor.path], np.uint8, last - first, start + first)
        return raw.view(_DTYPES[entry["dtype"]]).reshape(entry["shape"])

    def spill(self, array: NDArray[Any]) -> NDArray[Any]:
        """Return the same numbers as a view of a nameless file, whose pages `release` lets go of.

        ONNX Runtime packs a copy of scales and zeros, keeps the ones it was given, and reads them no more (on x86-64;
        where it does, they are read from the file). A small array, or one that finds no room, stays where it is.
        """
        if self._scratch is None or array.nbytes < SPILL_BYTES:
            return array
        try:
            self._scratch.mkdir(mode=0o700, parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self._scratch) as file:
                array.tofile(file)
                mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except OSError:
            return array
        self._spilled.append(mapped)
        return np.frombuffer(mapped, array.dtype).reshape(array.shape)

    def release(self) -> None:
        """Let go of the pages read so far; they are read again when touched."""
        for mapped in [*self._maps.values(), *self._spilled]:
            mapped.madvise(mmap.MADV_DONTNEED)

    @contextlib.contextmanager
    def releasing(self) -> Iterator[None]:
        """Release again and again while the files are read: what has been packed need not stay as it was."""
        is_over = threading.Event()

        def run() -> None:
            while not is_over.wait(RELEASE_S):
                self.release()

        thread = threading.Thread(target=run, name="checkpoint-pages", daemon=True)
        thread.start()
        try:
            yield
        finally:
            is_over.set()
            thread.join()
            self.release()

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
        codes = self.tensor(f"{module}.weight").view(np.uint8)
        return QuantizedMatrix(
            codes=codes.reshape(*scales.shape, quantization.group_size * bits // 8),
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
