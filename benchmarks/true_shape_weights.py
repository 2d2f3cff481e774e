"""Random INT4 weights that mlx-lm's layout and GGUF Q4_0 hold as exactly the same numbers.

A weight is scale * (code - 8) with codes 1..15, so the mean is zero: a common offset would grow along
the all-ones direction from layer to layer. Scales have four significant bits, which bfloat16 (mlx-lm's
scales) and float16 (Q4_0's) both hold exactly. Codes are drawn as bytes; no float matrix is ever made.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file

GROUP_SIZE = 64  # weights to one scale in mlx-lm's layout
Q4_0_BLOCK = 32  # weights to one scale in Q4_0: two blocks share a group's scale
CODE_STD = math.sqrt(17.5)  # of code - 8: uniform over ±7, zero twice as likely
SCALE_STEPS = 8  # a group's scale is base * (1 + k/8)

# Both nibbles of a random byte, with the code 0 (-8, which has no positive twin) made 8 (zero).
_SYMMETRIC = np.array(
    [(b & 15 or 8) | ((b >> 4 or 8) << 4) for b in range(256)],
    dtype=np.uint8,
)


@dataclass(frozen=True, slots=True)
class Int4Matrix:
    """codes: (out, in / 2) uint8, even columns in the low nibbles. scales: (out, in / 64) float32."""

    codes: NDArray[np.uint8]
    scales: NDArray[np.float32]


def random_matrix(rng: np.random.Generator, n_out: int, n_in: int, std: float) -> Int4Matrix:
    """Draw a matrix of about `std`; the base scale is the nearest power of two."""
    drawn = np.frombuffer(rng.bytes(n_out * n_in // 2), dtype=np.uint8)
    mean_step = 1 + (SCALE_STEPS - 1) / SCALE_STEPS / 2
    base = 2.0 ** round(math.log2(std / (CODE_STD * mean_step)))
    steps = rng.integers(0, SCALE_STEPS, (n_out, n_in // GROUP_SIZE), dtype=np.uint8)
    scales = base * (1 + steps / SCALE_STEPS)
    codes = _SYMMETRIC[drawn].reshape(n_out, n_in // 2)
    return Int4Matrix(codes, scales.astype(np.float32))


def random_norm(rng: np.random.Generator, n: int, mean: float) -> NDArray[np.float32]:
    """Norm weights w, applied as (1 + w), that bfloat16 holds exactly."""
    return (mean + rng.integers(-16, 17, n) / 64).astype(np.float32)


def mlx_tensors(name: str, matrix: Int4Matrix) -> dict[str, torch.Tensor]:
    """mlx-lm's affine layout: uint32 codes lowest bits first, bfloat16 scales and biases."""
    scales = torch.from_numpy(matrix.scales)
    stem = name.removesuffix(".weight")
    return {
        f"{stem}.weight": torch.from_numpy(matrix.codes.view("<u4")),
        f"{stem}.scales": scales.to(torch.bfloat16),
        f"{stem}.biases": (-8 * scales).to(torch.bfloat16),
    }


def q4_0_bytes(matrix: Int4Matrix) -> NDArray[np.uint8]:
    """GGUF Q4_0 rows: blocks of a float16 scale and 16 bytes, weight j low and j + 16 high in byte j."""
    n_out, n_bytes = matrix.codes.shape
    n_blocks = n_bytes // (Q4_0_BLOCK // 2)
    pairs = matrix.codes.reshape(n_out, n_blocks, 2, 8)  # weights 2k, 2k+1 in a byte
    first, second = pairs[:, :, 0], pairs[:, :, 1]
    blocks = np.empty((n_out, n_blocks, 18), dtype=np.uint8)
    scales = np.repeat(matrix.scales.astype("<f2"), GROUP_SIZE // Q4_0_BLOCK, axis=1)
    blocks[:, :, :2] = scales.view(np.uint8).reshape(n_out, n_blocks, 2)
    blocks[:, :, 2::2] = (first & 15) | (second << 4)
    blocks[:, :, 3::2] = (first >> 4) | (second & 0xF0)
    return blocks.reshape(n_out, -1)


def save_tensors(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """One safetensors file, marked as mlx-lm marks its own."""
    save_file(dict(tensors), path, metadata={"format": "mlx"})
