"""INT4 as mx.quantize rounds it, in torch: for the quantisation-aware phase and for evaluation.

Affine, `bits` 4, groups of 64 along the input, scale and bias stored in bfloat16.
Source: mlx/backend/cpu/quantized.cpp, `quantize`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

GROUP_SIZE = 64
BITS = 4
_EPS = 1e-7


def quantize_dequantize(weight: Tensor, group_size: int = GROUP_SIZE, bits: int = BITS) -> Tensor:
    """What is left of a weight matrix (out, in) after INT4; same shape and type.

    Raises ValueError when the input size is not a multiple of the group.
    """
    if weight.shape[-1] % group_size:
        raise ValueError(f"{tuple(weight.shape)}: last size is not a multiple of {group_size}")
    n_bins = (1 << bits) - 1
    groups = weight.float().reshape(-1, group_size).to(torch.bfloat16).float()
    low, high = groups.amin(1, keepdim=True), groups.amax(1, keepdim=True)
    low_is_edge = low.abs() > high.abs()
    scale = ((high - low) / n_bins).clamp_min(_EPS)
    scale = torch.where(low_is_edge, scale, -scale)
    edge = torch.where(low_is_edge, low, high)
    steps = torch.round(edge / scale)
    on_grid = steps != 0
    scale = torch.where(on_grid, edge / torch.where(on_grid, steps, torch.ones_like(steps)), scale)
    bias = torch.where(on_grid, edge, torch.zeros_like(edge))
    codes = torch.round((groups - bias) / scale).clamp(0, n_bins)
    stored_scale, stored_bias = scale.to(torch.bfloat16).float(), bias.to(torch.bfloat16).float()
    return (codes * stored_scale + stored_bias).reshape(weight.shape).to(weight.dtype)


@contextmanager
def quantized_weights(model: nn.Module, enabled: bool = True) -> Iterator[None]:
    """Inside, every matrix holds its INT4 value; after, the float values are back.

    Gradients taken inside belong to the float weights: that is the straight-through estimator.
    """
    matrices = [parameter for parameter in model.parameters() if parameter.ndim == 2]
    if not enabled:
        yield
        return
    kept = [parameter.detach().clone() for parameter in matrices]
    with torch.no_grad():
        for parameter in matrices:
            parameter.copy_(quantize_dequantize(parameter))
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, value in zip(matrices, kept, strict=True):
                parameter.copy_(value)
