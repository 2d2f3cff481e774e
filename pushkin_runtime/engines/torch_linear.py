"""A checkpoint's matrices as PyTorch can multiply with them: dense, or INT4 as stored.

The INT4 kernel is PyTorch's own for CPUs: bfloat16 activations, one scale and zero per group. Where it
does not fit (8 bits, odd sizes) a matrix is expanded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from safetensors import safe_open

from pushkin_runtime.model_store import ModelSpec

ROWS_AT_ONCE = 2048  # of a matrix being packed: bounds what loading needs beside the weights
_KERNEL_GROUPS = (32, 64, 128, 256)
_KERNEL_ROWS = 16  # out_features must be a multiple


class Linear(Protocol):
    """A weight matrix of shape (out, in)."""

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """x: (n, in) → (n, out), freshly allocated."""


class Embedding(Protocol):
    """Rows of the embedding table."""

    def __call__(self, ids: torch.Tensor) -> torch.Tensor:
        """ids: any shape → (*ids.shape, hidden_size), not yet scaled by √hidden."""


@dataclass(frozen=True, slots=True, eq=False)
class DenseLinear:
    """See `Linear`. weight: (out, in)."""

    weight: torch.Tensor

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self.weight)


@dataclass(frozen=True, slots=True, eq=False)
class Int4Linear:
    """See `Linear`; x must be bfloat16.

    packed: (out, in / 2) bytes in the kernel's order. scales_and_zeros: (in / group_size, out, 2) bfloat16; a
    weight is (code - 8) * scale + zero.
    """

    packed: torch.Tensor
    scales_and_zeros: torch.Tensor
    group_size: int

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return torch.ops.aten._weight_int4pack_mm_for_cpu(
            x, self.packed, self.group_size, self.scales_and_zeros
        )


@dataclass(frozen=True, slots=True, eq=False)
class DenseEmbedding:
    """See `Embedding`."""

    weight: torch.Tensor

    def __call__(self, ids: torch.Tensor) -> torch.Tensor:
        return F.embedding(ids, self.weight)


@dataclass(frozen=True, slots=True, eq=False)
class QuantizedEmbedding:
    """See `Embedding`; rows are expanded when looked up.

    The tensors are views of the mapped file: the head has the same numbers in the kernel's order, and
    a second copy of the largest matrix in memory would serve a few rows a request.
    """

    stored: StoredMatrix
    dtype: torch.dtype

    def __call__(self, ids: torch.Tensor) -> torch.Tensor:
        rows = self.stored.rows(ids.flatten())
        return dequantize(rows).to(self.dtype).view(*ids.shape, -1)


@dataclass(frozen=True, slots=True, eq=False)
class StoredMatrix:
    """MLX affine quantisation: packed (out, in * bits / 32) int32, lowest bits first; scales and biases
    (out, in / group_size); a weight is code * scale + bias."""

    packed: torch.Tensor
    scales: torch.Tensor
    biases: torch.Tensor
    bits: int

    @property
    def group_size(self) -> int:
        """Weights that share a scale."""
        return self.packed.shape[1] * 32 // self.bits // self.scales.shape[1]

    @property
    def fits_kernel(self) -> bool:
        """Whether PyTorch's INT4 kernel can multiply with it."""
        return (
            self.bits == 4
            and self.group_size in _KERNEL_GROUPS
            and self.packed.shape[0] % _KERNEL_ROWS == 0
        )

    def rows(self, index: slice | torch.Tensor) -> StoredMatrix:
        """Return some rows of it."""
        return StoredMatrix(self.packed[index], self.scales[index], self.biases[index], self.bits)

    def codes(self) -> torch.Tensor:
        """Return (out, in), integers."""
        as_bytes = self.packed.view(torch.uint8)
        if self.bits == 8:
            return as_bytes
        if self.bits == 6:  # four codes in three bytes
            low, middle, high = as_bytes.unflatten(1, (-1, 3)).int().unbind(-1)
            words = low | middle << 8 | high << 16
            return torch.stack([words >> shift & 63 for shift in (0, 6, 12, 18)], dim=-1).flatten(1)
        return torch.stack((as_bytes & 15, as_bytes >> 4), dim=-1).flatten(1)


def dequantize(stored: StoredMatrix) -> torch.Tensor:
    """Expand to float32 (out, in)."""
    n_out, n_groups = stored.scales.shape
    grouped = stored.codes().view(n_out, n_groups, -1).float()
    grouped = grouped * stored.scales.float()[..., None] + stored.biases.float()[..., None]
    return grouped.view(n_out, -1)


def int4_linear(stored: StoredMatrix) -> Int4Linear:
    """Repack for the kernel; rounds each group's zero, and scales that are not bfloat16, to it."""
    n_out, n_words = stored.packed.shape
    packed = torch.empty((n_out, n_words * 4), dtype=torch.uint8)
    for start in range(0, n_out, ROWS_AT_ONCE):
        span = slice(start, min(start + ROWS_AT_ONCE, n_out))
        codes = stored.rows(span).codes().to(torch.int32)
        packed[span] = torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes, 1)
    zeros = stored.biases.float() + 8 * stored.scales.float()
    both = torch.stack((stored.scales.to(torch.bfloat16), zeros.to(torch.bfloat16)), dim=-1)
    return Int4Linear(packed, both.transpose(0, 1).contiguous(), stored.group_size)


@dataclass(frozen=True, slots=True, eq=False)
class Weights:
    """A loaded checkpoint.

    linears: by module name, `lm_head` included. norms: by tensor name, (1 + w) in float32.
    """

    embedding: Embedding
    linears: Mapping[str, Linear]
    norms: Mapping[str, torch.Tensor]


def load_weights(spec: ModelSpec, dtype: torch.dtype, *, keep_quantized: bool) -> Weights:
    """Read a checkpoint, one matrix at a time. keep_quantized: INT4 stays INT4 (dtype: bfloat16)."""
    norms = {
        name: 1.0 + read_tensor(spec, name).float()
        for name in spec.tensors
        if name.endswith("norm.weight")
    }
    linears: dict[str, Linear] = {}
    embedding: Embedding | None = None
    head = "embed_tokens" if spec.config.tied_embeddings else "lm_head"
    for module in [n.removesuffix(".weight") for n in spec.tensors if n.endswith(".weight")]:
        if f"{module}.weight" in norms or (module == "lm_head" and head != module):
            continue
        stored = _read_quantized(spec, module)
        if stored is None:
            linear: Linear = DenseLinear(read_tensor(spec, f"{module}.weight").to(dtype))
        elif keep_quantized and stored.fits_kernel:
            linear = int4_linear(stored)
        else:
            linear = DenseLinear(_expanded(stored, dtype))
        if module == "embed_tokens":
            embedding = _embedding(spec, linear, dtype)
        if module == head:
            linears["lm_head"] = linear
        elif module != "embed_tokens":
            linears[module] = linear
    assert embedding is not None  # the checkpoint was checked
    return Weights(embedding, linears, norms)


def load_embedding(spec: ModelSpec, dtype: torch.dtype) -> Embedding:
    """Read the embedding table alone, quantised ones as they are stored."""
    matrix = read_matrix(spec, "embed_tokens")
    if isinstance(matrix, StoredMatrix):
        return QuantizedEmbedding(matrix, dtype)
    return DenseEmbedding(matrix.to(dtype))


def read_matrix(spec: ModelSpec, module: str) -> StoredMatrix | torch.Tensor:
    """Return a matrix as it is stored, over the mapped file."""
    stored = _read_quantized(spec, module)
    return read_tensor(spec, f"{module}.weight") if stored is None else stored


def _embedding(spec: ModelSpec, table: Linear, dtype: torch.dtype) -> Embedding:
    if isinstance(table, DenseLinear):
        return DenseEmbedding(table.weight)
    # Read again: a mapping of its own, of which only the rows looked up are ever resident.
    stored = _read_quantized(spec, "embed_tokens")
    assert stored is not None
    return QuantizedEmbedding(stored, dtype)


def _read_quantized(spec: ModelSpec, module: str) -> StoredMatrix | None:
    quantization = spec.config.quantization
    if quantization is None or f"{module}.scales" not in spec.tensors:
        return None
    packed, scales, biases = (
        read_tensor(spec, f"{module}.{end}") for end in ("weight", "scales", "biases")
    )
    return StoredMatrix(packed.view(torch.int32), scales, biases, quantization.of(module).bits)


def read_tensor(spec: ModelSpec, name: str) -> torch.Tensor:
    """Return a tensor of the mapped file; the mapping ends with it, and with it what was resident."""
    tensor = spec.tensors[name]
    with safe_open(tensor.path, framework="pt") as opened:
        return opened.get_tensor(tensor.stored_name)


def _expanded(stored: StoredMatrix, dtype: torch.dtype) -> torch.Tensor:
    n_out = stored.packed.shape[0]
    weight = torch.empty((n_out, stored.scales.shape[1] * stored.group_size), dtype=dtype)
    for start in range(0, n_out, ROWS_AT_ONCE):
        span = slice(start, min(start + ROWS_AT_ONCE, n_out))
        weight[span] = dequantize(stored.rows(span))
    return weight
