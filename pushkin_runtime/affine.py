"""MLX's affine quantisation of a matrix: a weight is code · scale + bias, one scale and bias for each group of a row.

The numbers are mx.quantize's wherever it can be asked; what it cannot do, rounding to a given grid and the symmetric
form, is here.
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np

from pushkin_runtime.model_config import Quantization

# A symmetric group's scale is its largest magnitude over one of these. Codes reach from -8 to 7, so 8 keeps a group whose
# largest weight is negative, 7 one whose largest is positive; between them clipping one weight may serve the others.
_DIVISORS = (7.0, 7.5, 8.0, 8.5)
# Below it float16, which GGUF's Q4_0 stores scales in, has no step left; and no scale is 0: XNNPACK takes positive ones only.
_SMALLEST_SCALE = 2.0**-24
_MIDDLE = 8  # the code of zero in the symmetric form


def quantize(
    weights: mx.array,
    quantization: Quantization,
    dtype: mx.Dtype,
    grid: tuple[mx.array, mx.array] | None = None,
) -> list[mx.array]:
    """Return codes (out, in·bits/32) uint32, scales and biases (out, in/group) of `dtype`.

    weights: (out, in) float32. grid: scales and biases that a group keeps when they fit it better than new
    ones. Codes are rounded against the scales as stored, not against those before their own rounding.
    """
    grouped = weights.reshape(weights.shape[0], -1, quantization.group_size)
    _, *new = mx.quantize(weights, quantization.group_size, quantization.bits)
    scales, biases = (part.astype(dtype) for part in new)
    codes, error = _round(grouped, scales, biases, quantization.bits)
    if grid is not None:
        kept_codes, kept_error = _round(grouped, *grid, quantization.bits)
        keep = kept_error <= error
        codes = mx.where(keep[..., None], kept_codes, codes)
        scales = mx.where(keep, grid[0], scales)
        biases = mx.where(keep, grid[1], biases)
    return [_pack(codes.reshape(weights.shape), quantization.bits), scales, biases]


def quantize_symmetric(weights: mx.array, group_size: int) -> list[mx.array]:
    """Return INT4 codes, bfloat16 scales and biases with bias = -8 · scale, so that code 8 is zero.

    weights: (out, in) float32. Each group's scale is the one of a few with the least squared error, positive, and
    held exactly by bfloat16 and float16 alike: in groups of 32 the result is GGUF's Q4_0 and XNNPACK's symmetric
    INT4 (scales > 0) without rounding again.
    """
    grouped = weights.reshape(weights.shape[0], -1, group_size)
    largest = mx.abs(grouped).max(axis=-1)
    codes, scales, error = None, None, None
    for divisor in _DIVISORS:
        tried = _shared_scale(largest / divisor)
        found, own = _round(grouped, tried, -_MIDDLE * tried, bits=4)
        if codes is None or scales is None or error is None:
            codes, scales, error = found, tried, own
            continue
        better = own < error
        codes = mx.where(better[..., None], found, codes)
        scales = mx.where(better, tried, scales)
        error = mx.where(better, own, error)
    assert codes is not None
    assert scales is not None
    return [_pack(codes.reshape(weights.shape), bits=4), scales, -_MIDDLE * scales]


def expand(
    codes: mx.array, scales: mx.array, biases: mx.array, quantization: Quantization
) -> mx.array:
    """Return the float32 weights (out, in)."""
    result: mx.array = mx.dequantize(
        codes,
        scales.astype(mx.float32),
        biases.astype(mx.float32),
        group_size=quantization.group_size,
        bits=quantization.bits,
    )
    return result


def to_bytes(array: mx.array) -> bytes:
    """Return the array's bytes as safetensors stores them."""
    if array.dtype == mx.bfloat16:  # which has no buffer format
        array = array.view(mx.uint16)
    return np.array(array).tobytes()


def square(values: mx.array) -> float:
    """Return the sum of squares."""
    total: Any = mx.square(values).sum().item()
    return float(total)


def _shared_scale(scale: mx.array) -> mx.array:
    """The nearest bfloat16 that is a float16 too, and not zero."""
    narrow = mx.maximum(scale, _SMALLEST_SCALE).astype(mx.bfloat16)
    return narrow.astype(mx.float16).astype(mx.bfloat16)


def _round(
    grouped: mx.array, scales: mx.array, biases: mx.array, bits: int
) -> tuple[mx.array, mx.array]:
    """Return the nearest codes (out, groups, size) and each group's squared error."""
    scale, bias = (part.astype(mx.float32)[..., None] for part in (scales, biases))
    steps = mx.where(scale == 0, 0.0, (grouped - bias) / mx.where(scale == 0, 1.0, scale))
    codes = mx.clip(mx.round(steps), 0, 2**bits - 1)
    error = mx.square(codes * scale + bias - grouped).sum(axis=-1)
    return codes.astype(mx.uint32), error


def _pack(codes: mx.array, bits: int) -> mx.array:
    """Codes (out, in) as one stream of bits for each row, lowest first: (out, in·bits/32) uint32."""
    n_rows, n_columns = codes.shape
    n_packed = 4 if bits == 6 else 32 // bits
    shifts = mx.arange(n_packed, dtype=mx.uint32) * bits
    words = mx.left_shift(codes.reshape(n_rows, -1, n_packed), shifts).sum(axis=-1)
    words = words.astype(mx.uint32)
    if bits != 6:
        return words
    three = mx.right_shift(words[..., None], mx.array([0, 8, 16], mx.uint32))
    return three.astype(mx.uint8).reshape(n_rows, n_columns * 6 // 8).view(mx.uint32)
