"""Moving keys that were stored after their rotary embedding: turned by as many positions as they move.

Rotations add up, R(p + d) = R(d) R(p) (RoFormer, arXiv:2104.09864), so a key need not be computed again to stand
elsewhere. Values know no positions.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pushkin_runtime.model_config import ModelConfig


def turn_by(
    config: ModelConfig, n_positions: int, *, is_global: bool
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return cos and sin, each (head_dim / 2,), of moving so many positions on, or back, in one kind of layer."""
    theta = config.rope_theta if is_global else config.rope_local_theta
    factor = config.rope_factor if is_global else 1.0
    exponents = np.arange(0, config.head_dim, 2) / config.head_dim
    angles = n_positions / factor / theta**exponents
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


def turn_into(target: Any, keys: Any, cos: Any, sin: Any) -> None:
    """Write keys (…, head_dim), halves layout, turned; all four are arrays of one library."""
    half = keys.shape[-1] // 2
    low, high = keys[..., :half], keys[..., half:]
    target[..., :half] = low * cos - high * sin
    target[..., half:] = low * sin + high * cos
