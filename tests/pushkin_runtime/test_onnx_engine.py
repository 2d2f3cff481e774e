"""What the onnx engine does with a checkpoint's own numbers; its obligations are in the contract suite."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from pushkin_runtime.engines import onnx_engine
from pushkin_runtime.engines.base import EngineOptions, Tokens
from pushkin_runtime.engines.onnx_engine import OnnxEngine
from pushkin_runtime.engines.torch_engine import TorchEngine
from pushkin_runtime.errors import ModelUnsupported

PROMPT = tuple(np.random.default_rng(5).integers(4, 500, 90).tolist())  # the window is 16


def logits(engine: OnnxEngine | TorchEngine) -> NDArray[np.float32]:
    cache = engine.new_cache()
    engine.prefill(cache, Tokens(PROMPT[:40]))
    return engine.logits(cache, PROMPT[40:])


def symmetric(scales: NDArray[np.float32], bits: int) -> NDArray[np.float32]:
    return -scales * (1 << (bits - 1))


def at_a_code(scales: NDArray[np.float32], bits: int) -> NDArray[np.float32]:
    rng = np.random.default_rng(2)
    codes = rng.integers((1 << (bits - 1)) - 2, (1 << (bits - 1)) + 3, scales.shape)
    return -scales * codes.astype(np.float32)


def between_codes(scales: NDArray[np.float32], bits: int) -> NDArray[np.float32]:
    rng = np.random.default_rng(3)
    offsets = (1 << (bits - 1)) + rng.uniform(-1.5, 1.5, scales.shape)
    return (-scales * offsets).astype(np.float32)


@pytest.mark.parametrize("biases", [symmetric, at_a_code, between_codes])
@pytest.mark.parametrize("bits", [4, 8])
def test_any_offset_is_exact(
    bits: int,
    biases: Callable[[NDArray[np.float32], int], NDArray[np.float32]],
    quantized_with: Callable[..., Path],
) -> None:
    """MatMulNBits has whole codes as zeros; what a bias has beyond one is not rounded away."""
    folder = quantized_with(bits, biases)
    onnx, torch = (
        OnnxEngine(EngineOptions(model_dir=folder)),
        TorchEngine(EngineOptions(model_dir=folder)),
    )
    expected = logits(torch)

    assert expected.std() > 0.5
    np.testing.assert_allclose(logits(onnx), expected, atol=2e-4)


def test_int8_activations_stay_near(quantized_model: Path) -> None:
    """One scale a group of 64 inputs; six layers of 64 dimensions are the worst case for it."""
    exact = logits(OnnxEngine(EngineOptions(model_dir=quantized_model)))
    rounded = logits(OnnxEngine(EngineOptions(model_dir=quantized_model), int8_activations=True))

    assert 0 < np.abs(rounded - exact).max() < 0.25
    assert np.linalg.norm(rounded - exact) / np.linalg.norm(exact) < 0.05


def test_a_large_model_of_floats_is_refused_before_it_is_read(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_engine, "SMALL_MODEL", 1000)

    with pytest.raises(ModelUnsupported, match="pushkin models quantize"):
        OnnxEngine(EngineOptions(model_dir=tiny_model))
