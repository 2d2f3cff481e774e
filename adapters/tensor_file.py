"""A safetensors file that is not trusted → NumPy arrays and the SHA-256 of the bytes they came from.

The header is checked in full before a byte of a tensor is read; it, the payload and the hash come from one
descriptor that is opened once. safetensors' own reader checks the header too, but not what we need beside it:
that nothing but LoRA's dtypes is in it, that sizes are bounded, and that every problem is reported at once.

Layout (huggingface/safetensors, README "Format"): u64 little-endian header length, JSON header
{name: {"dtype", "shape", "data_offsets": [start, stop]}}, payload without gaps.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from adapters.errors import AdapterCorrupt, AdapterUnsupported, listed
from adapters.untrusted import fill, open_regular, parse_json, short

MAX_FILE_BYTES = 1 << 30
MAX_HEADER_BYTES = 4 << 20
MAX_TENSORS = 8192
MAX_SIZE = 1 << 24  # of one dimension
DTYPES: dict[str, Any] = {"F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16}

_EXPONENTS: dict[str, Any] = {
    "F32": np.uint32(0x7F800000),
    "F16": np.uint16(0x7C00),
    "BF16": np.uint16(0x7F80),
}
_CHUNK_BYTES = 1 << 20  # read and hashed while in the processor's cache
_CHECKED_AT_ONCE = 1 << 16  # numbers
_ALIKE = (
    (b"PK\x03\x04", "a zip archive, as PyTorch's .bin and .pt"),
    (b"\x80\x02", "a pickle"),
    (b"\x80\x03", "a pickle"),
    (b"\x80\x04", "a pickle"),
    (b"\x80\x05", "a pickle"),
    (b"GGUF", "a GGUF file"),
    (b"\x93NUMPY", "a NumPy file"),
    (b"version https://git-lfs", "a Git LFS pointer: the file itself was not downloaded"),
    (b"<", "a web page"),
)


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """dtype: one of DTYPES. start, stop: bytes in the payload."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


@dataclass(frozen=True, slots=True, eq=False)
class Tensors:
    """A whole file in memory. arrays: views of one buffer; infos: its header."""

    sha256: str
    n_bytes: int
    infos: Mapping[str, TensorInfo]
    arrays: Mapping[str, NDArray[Any]]


def read_header(
    path: str | Path, where: str, *, dir_fd: int | None = None, max_bytes: int = MAX_FILE_BYTES
) -> tuple[dict[str, TensorInfo], os.stat_result]:
    """Return the checked header and the state of the file it came from; no tensor is read.

    where: the file's name in messages. Raises AdapterNotFound, AdapterUnsupported (another kind of file)
    or AdapterCorrupt, which lists every mismatch.
    """
    with open_regular(path, where, max_bytes, dir_fd=dir_fd) as (file, found):
        infos, _ = _header(file, found.st_size, where)
        return infos, found


def read_tensors(
    path: str | Path, where: str, *, max_bytes: int = MAX_FILE_BYTES, follow_links: bool = False
) -> Tensors:
    """Return every tensor of the file, all finite. Raises as `read_header`."""
    with open_regular(path, where, max_bytes, follow_links=follow_links) as (file, found):
        infos, head = _header(file, found.st_size, where)
        payload = np.empty(found.st_size - len(head), np.uint8)
        digest = hashlib.sha256(head)
        view = payload.data
        for start in range(0, len(view), _CHUNK_BYTES):
            chunk = view[start : start + _CHUNK_BYTES]
            fill(file, chunk, where)
            digest.update(chunk)
        n_bytes = found.st_size
    arrays = {name: _array(payload, info) for name, info in infos.items()}
    broken = [name for name, info in infos.items() if not is_finite(arrays[name], info.dtype)]
    if broken:
        raise AdapterCorrupt(f"{where}: not finite (NaN or infinity): {listed(broken)}.")
    return Tensors(digest.hexdigest(), n_bytes, infos, arrays)


def is_finite(values: NDArray[Any], dtype: str) -> bool:
    """Whether no value is NaN or infinite: those have every bit of the exponent set.

    values: contiguous. Integers, because NumPy has no fast isfinite for bfloat16.
    """
    mask = _EXPONENTS[dtype]
    bits = values.reshape(-1).view(mask.dtype)
    return all(
        (bits[i : i + _CHECKED_AT_ONCE] & mask).max() != mask
        for i in range(0, bits.size, _CHECKED_AT_ONCE)
    )


def parse_header(content: bytes, n_payload: int, where: str) -> dict[str, TensorInfo]:
    """Return the tensors a header describes, in the order of their bytes.

    n_payload: bytes that follow the header. Raises AdapterCorrupt with every mismatch.
    """
    try:
        raw = parse_json(content)
    except ValueError as error:
        raise AdapterCorrupt(
            f"{where}: the header is not valid JSON ({str(error)[:120]})."
        ) from error
    if not isinstance(raw, dict):
        raise AdapterCorrupt(f"{where}: the header is not a JSON object.")
    metadata = raw.pop("__metadata__", None) or {}  # MLX writes null for none
    problems: list[str] = []
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        problems.append("__metadata__ must hold strings")
    if len(raw) > MAX_TENSORS:
        raise AdapterCorrupt(f"{where}: {len(raw)} tensors, expected at most {MAX_TENSORS}.")
    infos: dict[str, TensorInfo] = {}
    for name, entry in raw.items():
        info = _entry(name, entry, problems)
        if info is not None:
            infos[name] = info
    ordered = dict(sorted(infos.items(), key=lambda item: (item[1].start, item[1].stop)))
    if not problems:
        problems = _layout_problems(ordered, n_payload)
    if problems:
        raise AdapterCorrupt(
            f"{where}: {len(problems)} mismatch(es) in the header: {listed(problems)}. "
            "The file is truncated or damaged: copy it again."
        )
    return ordered


def _header(file: FileIO, n_bytes: int, where: str) -> tuple[dict[str, TensorInfo], bytes]:
    """Read and check the header; also return the file's bytes up to the payload."""
    head = bytearray(min(8, n_bytes))
    fill(file, head, where)
    length = int.from_bytes(head, "little")
    if n_bytes < 8 or length > min(MAX_HEADER_BYTES, n_bytes - 8):
        _refuse_foreign(file, bytes(head), where)
        raise AdapterCorrupt(
            f"{where}: not a safetensors file, or truncated: the header is to have {length} bytes, "
            f"the file has {n_bytes}, and {MAX_HEADER_BYTES} are allowed."
        )
    content = bytearray(length)
    fill(file, content, where)
    return parse_header(bytes(content), n_bytes - 8 - length, where), bytes(head + content)


def _refuse_foreign(file: FileIO, head: bytes, where: str) -> None:
    start = head + (file.read(24) or b"")
    for magic, kind in _ALIKE:
        if start.startswith(magic):
            raise AdapterUnsupported(
                f"{where}: not a safetensors file: it looks like {kind}. "
                "Only safetensors is ever opened; convert it where it was made."
            )


def _entry(name: str, entry: object, problems: list[str]) -> TensorInfo | None:
    """Check one tensor by itself."""
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        problems.append(f"{short(name)} does not have just dtype, shape and data_offsets")
        return None
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        problems.append(f"{short(name)} is {short(dtype)}, expected one of {', '.join(DTYPES)}")
        return None
    if not _are_sizes(shape, MAX_SIZE) or len(shape) > 4:
        problems.append(f"{short(name)} has shape {short(shape)}, expected up to 4 small sizes")
        return None
    if not _are_sizes(offsets, MAX_FILE_BYTES) or len(offsets) != 2:
        problems.append(f"{short(name)} has offsets {short(offsets)}, expected [start, stop]")
        return None
    n_bytes = np.dtype(DTYPES[dtype]).itemsize
    for size in shape:
        n_bytes *= size
    if offsets[1] - offsets[0] != n_bytes:
        problems.append(
            f"{short(name)} has {offsets[1] - offsets[0]} bytes, {dtype} {shape} takes {n_bytes}"
        )
        return None
    return TensorInfo(dtype, tuple(shape), offsets[0], offsets[1])


def _are_sizes(values: object, limit: int) -> bool:
    return isinstance(values, list) and all(
        type(value) is int and 0 <= value <= limit for value in values
    )


def _layout_problems(ordered: Mapping[str, TensorInfo], n_payload: int) -> list[str]:
    """Tensors must follow each other without gap or overlap, to the end of the file."""
    problems: list[str] = []
    end = 0
    for name, info in ordered.items():
        if info.start != end:
            problems.append(
                f"{short(name)} starts at {info.start}, expected {end}: "
                + ("a gap" if info.start > end else "an overlap")
            )
        end = max(end, info.stop)
    if end != n_payload:
        problems.append(f"the tensors take {end} bytes, the file has {n_payload}")
    return problems


def _array(payload: NDArray[np.uint8], info: TensorInfo) -> NDArray[Any]:
    array: NDArray[Any] = payload[info.start : info.stop].view(DTYPES[info.dtype])
    return array.reshape(info.shape)
