"""A checkpoint's matrices as the exporter takes them: float32, or 4 bits in XNNPACK's format.

XNNPACK multiplies 8-bit activations (a scale and zero for each row, chosen as it runs) with 4-bit weights that
have a scale for each group and no zero. Ours have a zero as well: a group that uses it is rounded again.
"""

from __future__ import annotations

import torch
from torch import nn

from pushkin_runtime.engines.torch_linear import (
    ROWS_AT_ONCE,
    StoredMatrix,
    dequantize,
    read_matrix,
    read_tensor,
)
from pushkin_runtime.model_store import ModelSpec

GROUP_SIZE = 32  # of a matrix that is rounded here
_MIDDLE = 8  # the code that stands for zero
_CLIPPINGS = (
    1.0,
    0.95,
    0.9,
    0.85,
    0.8,
)  # of a group's largest value, that its scale may be fitted to


def read_norm(spec: ModelSpec, name: str) -> torch.Tensor:
    """Return a norm's factors, (1 + w)."""
    return 1.0 + read_tensor(spec, name).float()


def read_linear(spec: ModelSpec, module: str, *, quantize: bool) -> nn.Module:
    """Return a linear layer without bias; "lm_head" is the embedding where they are tied."""
    if module == "lm_head" and spec.config.tied_embeddings:
        module = "embed_tokens"
    matrix = read_matrix(spec, module)
    linear = nn.Linear(1, 1, bias=False)
    if quantize and isinstance(matrix, StoredMatrix):
        weight = _xnnpack_weight(matrix)
    elif isinstance(matrix, StoredMatrix):
        weight = dequantize(matrix)
    else:
        weight = matrix.float()
    linear.weight = nn.Parameter(weight, requires_grad=False)
    return linear


def _xnnpack_weight(stored: StoredMatrix) -> torch.Tensor:
    from torchao.quantization import IntxUnpackedToInt8Tensor

    parts = [
        symmetric_codes(stored.rows(slice(start, start + ROWS_AT_ONCE)))
        for start in range(0, stored.packed.shape[0], ROWS_AT_ONCE)
    ]
    codes = torch.cat([part[0] for part in parts])
    scales = torch.cat([part[1] for part in parts])
    weight: torch.Tensor = IntxUnpackedToInt8Tensor(
        codes,
        scales,
        torch.zeros_like(scales, dtype=torch.int8),
        torch.int4,  # type: ignore[attr-defined]
        (1, codes.shape[1] // scales.shape[1]),
        torch.float32,
        "int8_asym_per_token",
    )
    return weight


def symmetric_codes(stored: StoredMatrix) -> tuple[torch.Tensor, torch.Tensor]:
    """Return codes (out, in) from -8 to 7 and scales (out, n_groups); a weight is code * scale.

    Exact where every group's zero is the middle code; else rounded in groups of GROUP_SIZE, each scale the best
    of a few. Scales are bfloat16 numbers, which is what XNNPACK keeps.
    """
    scales, biases = stored.scales.float(), stored.biases.float()
    is_symmetric = stored.bits == 4 and torch.equal(biases, -_MIDDLE * scales)
    if is_symmetric and torch.equal(scales.to(torch.bfloat16).float(), scales):
        return stored.codes().to(torch.int8) - _MIDDLE, scales
    weights = dequantize(stored)
    groups = weights.view(weights.shape[0], -1, GROUP_SIZE)
    largest = groups.abs().amax(dim=-1)
    # The value farthest from zero takes code -8, which has no positive twin.
    signs = torch.where(groups.amax(dim=-1) == largest, -1.0, 1.0)
    best_codes = torch.zeros_like(groups)
    best_scales = torch.ones_like(largest)
    best_errors = torch.full_like(largest, torch.inf)
    for clipping in _CLIPPINGS:
        tried = (signs * largest * (clipping / _MIDDLE)).to(torch.bfloat16).float()
        tried = torch.where(tried == 0, 1.0, tried)
        codes = (groups / tried[..., None]).round().clamp(-_MIDDLE, _MIDDLE - 1)
        errors = (codes * tried[..., None] - groups).square().sum(dim=-1)
        better = errors < best_errors
        best_errors = torch.where(better, errors, best_errors)
        best_scales = torch.where(better, tried, best_scales)
        best_codes = torch.where(better[..., None], codes, best_codes)
    return best_codes.view_as(weights).to(torch.int8), best_scales
