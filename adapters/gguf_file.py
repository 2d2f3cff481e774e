"""A GGUF file that is not trusted → metadata and tensors, every count and length checked first.

The layout is ggml's `docs/gguf.md`, version 2 and 3. Kinds, block sizes and dequantisation are the gguf
package's; its GGUFReader is not used, because it follows an array's length past the end of the file and never
comes back (0.19, `_get_field_parts`).
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray

from adapters.errors import AdapterCorrupt, AdapterUnsupported
from adapters.tensor_file import MAX_FILE_BYTES, MAX_SIZE, MAX_TENSORS
from adapters.untrusted import fill, open_regular, short

MAX_FIELDS = 1024
MAX_ARRAY = 1 << 16
MAX_TEXT_BYTES = 1 << 16
MAGIC = b"GGUF"

_SCALARS = {
    gguf.GGUFValueType.UINT8: "<B",
    gguf.GGUFValueType.INT8: "<b",
    gguf.GGUFValueType.UINT16: "<H",
    gguf.GGUFValueType.INT16: "<h",
    gguf.GGUFValueType.UINT32: "<I",
    gguf.GGUFValueType.INT32: "<i",
    gguf.GGUFValueType.FLOAT32: "<f",
    gguf.GGUFValueType.BOOL: "<?",
    gguf.GGUFValueType.UINT64: "<Q",
    gguf.GGUFValueType.INT64: "<q",
    gguf.GGUFValueType.FLOAT64: "<d",
}
_READ_AS = {
    gguf.GGMLQuantizationType.F32: "F32",
    gguf.GGMLQuantizationType.F16: "F16",
    gguf.GGMLQuantizationType.BF16: "BF16",
    gguf.GGMLQuantizationType.Q8_0: "Q8_0",
}


@dataclass(frozen=True, slots=True, eq=False)
class GgufFile:
    """fields: metadata; arrays are lists. tensors: row-major, so ggml's dimensions reversed."""

    fields: Mapping[str, Any]
    tensors: Mapping[str, NDArray[Any]]


def read_gguf(path: Path, where: str) -> GgufFile:
    """Read the whole file. F32 and F16 are kept, BF16 and Q8_0 become float32 (which is exact).

    Raises AdapterNotFound, AdapterUnsupported (another version or kind of tensor) or AdapterCorrupt.
    """
    with open_regular(path, where, MAX_FILE_BYTES, follow_links=True) as (file, found):
        content = bytearray(found.st_size)
        fill(file, content, where)
    cursor = _Cursor(memoryview(content), where)
    if cursor.take(4) != MAGIC:
        raise AdapterUnsupported(f"{where}: not a GGUF file.")
    version = cursor.number("<I")
    if version not in (2, 3):
        raise AdapterUnsupported(f"{where}: GGUF version {version}, expected 2 or 3.")
    n_tensors = cursor.count(MAX_TENSORS, "tensors")
    n_fields = cursor.count(MAX_FIELDS, "metadata fields")
    fields: dict[str, Any] = {}
    for _ in range(n_fields):
        name = cursor.text()
        if name in fields:
            raise AdapterCorrupt(f"{where}: the field {short(name)} is there twice.")
        fields[name] = cursor.value(cursor.number("<I"))
    descriptions = [_description(cursor) for _ in range(n_tensors)]
    alignment = fields.get("general.alignment", gguf.GGUF_DEFAULT_ALIGNMENT)
    if type(alignment) is not int or not 1 <= alignment <= 4096:
        raise AdapterCorrupt(f"{where}: the alignment is {short(alignment)}.")
    start = cursor.position + -cursor.position % alignment
    tensors: dict[str, NDArray[Any]] = {}
    for tensor in descriptions:
        if tensor.name in tensors:
            raise AdapterCorrupt(f"{where}: the tensor {short(tensor.name)} is there twice.")
        tensors[tensor.name] = _tensor(content, start, tensor, where)
    return GgufFile(fields, tensors)


@dataclass(frozen=True, slots=True)
class _Description:
    name: str
    shape: tuple[int, ...]
    kind: gguf.GGMLQuantizationType
    offset: int


class _Cursor:
    """A position in the file that cannot leave it."""

    def __init__(self, content: memoryview, where: str) -> None:
        self._content = content
        self.where = where
        self.position = 0

    def take(self, n_bytes: int) -> bytes:
        end = self.position + n_bytes
        if end > len(self._content):
            raise AdapterCorrupt(
                f"{self.where}: truncated: {n_bytes} bytes expected at {self.position}, "
                f"the file has {len(self._content)}."
            )
        start, self.position = self.position, end
        return bytes(self._content[start:end])

    def number(self, layout: str) -> Any:
        return struct.unpack(layout, self.take(struct.calcsize(layout)))[0]

    def count(self, limit: int, what: str) -> int:
        found: int = self.number("<Q")
        if found > limit:
            raise AdapterCorrupt(f"{self.where}: {found} {what}, expected at most {limit}.")
        return found

    def text(self) -> str:
        try:
            return self.take(self.count(MAX_TEXT_BYTES, "bytes of text")).decode()
        except UnicodeDecodeError as error:
            raise AdapterCorrupt(f"{self.where}: text that is not UTF-8.") from error

    def value(self, kind: int) -> Any:
        if kind == gguf.GGUFValueType.STRING:
            return self.text()
        if kind == gguf.GGUFValueType.ARRAY:
            inner = self.number("<I")
            if inner == gguf.GGUFValueType.ARRAY:
                raise AdapterCorrupt(f"{self.where}: arrays of arrays.")
            return [self.value(inner) for _ in range(self.count(MAX_ARRAY, "values"))]
        if kind not in _SCALARS:
            raise AdapterCorrupt(f"{self.where}: unknown kind of value {kind}.")
        return self.number(_SCALARS[gguf.GGUFValueType(kind)])


def _description(cursor: _Cursor) -> _Description:
    name = cursor.text()
    n_dimensions = cursor.number("<I")
    if not 1 <= n_dimensions <= 4:
        raise AdapterCorrupt(f"{cursor.where}: {short(name)} has {n_dimensions} dimensions.")
    shape = tuple(reversed([cursor.number("<Q") for _ in range(n_dimensions)]))
    if not all(1 <= size <= MAX_SIZE for size in shape):
        raise AdapterCorrupt(f"{cursor.where}: {short(name)} has shape {shape}.")
    kind = cursor.number("<I")
    if kind not in _READ_AS:
        raise AdapterUnsupported(
            f"{cursor.where}: {short(name)} is of kind {kind}, "
            f"expected one of {', '.join(_READ_AS.values())}."
        )
    return _Description(name, shape, gguf.GGMLQuantizationType(kind), cursor.number("<Q"))


def _tensor(content: bytearray, start: int, tensor: _Description, where: str) -> NDArray[Any]:
    block, block_bytes = gguf.GGML_QUANT_SIZES[tensor.kind]
    n_values = math.prod(tensor.shape)
    n_bytes = n_values // block * block_bytes
    if tensor.shape[-1] % block or start + tensor.offset + n_bytes > len(content):
        raise AdapterCorrupt(
            f"{where}: {short(tensor.name)} {tensor.shape} takes {n_bytes} bytes at "
            f"{start + tensor.offset}, the file has {len(content)}."
        )
    stored = np.frombuffer(content, np.uint8, n_bytes, start + tensor.offset)
    if tensor.kind == gguf.GGMLQuantizationType.F32:
        return stored.view(np.float32).reshape(tensor.shape)
    if tensor.kind == gguf.GGMLQuantizationType.F16:
        return stored.view(np.float16).reshape(tensor.shape)
    rows = stored.reshape(-1, tensor.shape[-1] // block * block_bytes)
    values: NDArray[Any] = gguf.dequantize(rows, tensor.kind)
    return values.reshape(tensor.shape)
