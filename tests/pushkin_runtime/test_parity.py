"""Our engines against transformers and against each other, on the same checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from pushkin_runtime.engines.base import DecodePlan, Engine, EngineOptions, Tokens
from pushkin_runtime.engines.registry import EngineChoice, create_engine
from pushkin_runtime.sampling_types import SamplingParams

PROMPT = tuple(np.random.default_rng(5).integers(4, 500, 120).tolist())


@pytest.fixture
def logits_of(programs: Path) -> Callable[[str, Path], NDArray[np.float32]]:
    def run(engine_name: str, path: Path) -> NDArray[np.float32]:
        options = EngineOptions(model_dir=path, cache_dir=programs)
        engine = create_engine(EngineChoice(engine_name, "test"), options)
        cache = engine.new_cache()
        engine.prefill(cache, Tokens(PROMPT[:50]))
        logits = engine.logits(cache, PROMPT[50:])
        engine.close()
        return logits

    return run


@pytest.mark.parametrize("engine_name", ["torch", "mlx", "onnx", "executorch"])
def test_logits_equal_transformers(
    engine_name: str, tiny_model: Path, logits_of: Callable[[str, Path], NDArray[np.float32]]
) -> None:
    """Window, QK-norm, both RoPE bases, the global factor 8, embedding scale: all of it, in float32."""
    import torch
    from transformers import Gemma3ForCausalLM

    reference = Gemma3ForCausalLM.from_pretrained(tiny_model, dtype=torch.float32).eval()
    with torch.inference_mode():
        expected = reference(torch.tensor([PROMPT])).logits[0, 50:].numpy()

    assert expected.std() > 0.5
    np.testing.assert_allclose(logits_of(engine_name, tiny_model), expected, atol=5e-5)


@pytest.mark.parametrize("engine_name", ["torch", "mlx", "onnx"])
def test_multimodal_layout_is_the_same_model(
    engine_name: str,
    tiny_model: Path,
    multimodal_model: Path,
    logits_of: Callable[[str, Path], NDArray[np.float32]],
) -> None:
    np.testing.assert_array_equal(
        logits_of(engine_name, multimodal_model), logits_of(engine_name, tiny_model)
    )


@pytest.mark.parametrize("engine_name", ["mlx", "onnx"])
def test_engines_agree_on_int4(
    engine_name: str,
    quantized_model: Path,
    logits_of: Callable[[str, Path], NDArray[np.float32]],
) -> None:
    """Expanded weights in torch, quantised matmuls in the others: float32 rounding apart."""
    np.testing.assert_allclose(
        logits_of(engine_name, quantized_model), logits_of("torch", quantized_model), atol=1e-3
    )


def test_int4_is_near_the_float_model(
    tiny_model: Path,
    quantized_model: Path,
    logits_of: Callable[[str, Path], NDArray[np.float32]],
) -> None:
    float_logits = logits_of("torch", tiny_model).ravel()
    int4_logits = logits_of("torch", quantized_model).ravel()

    assert np.corrcoef(float_logits, int4_logits)[0, 1] > 0.8


@pytest.mark.parametrize(
    "sampling",
    [
        SamplingParams(min_p=0.05),
        SamplingParams(min_p=0.0, top_p=0.8, temperature=1.4),
        SamplingParams(min_p=0.02, top_k=7, repetition_penalty=1.3, order="temperature_first"),
    ],
)
def test_a_seed_writes_the_same_text_on_every_engine(
    tiny_model: Path, programs: Path, sampling: SamplingParams
) -> None:
    written: list[list[int]] = []
    for name in ("torch", "mlx", "onnx", "executorch"):
        engine: Engine = create_engine(
            EngineChoice(name, "test"), EngineOptions(model_dir=tiny_model, cache_dir=programs)
        )
        cache = engine.new_cache()
        engine.prefill(cache, Tokens(PROMPT[:-1]))
        plan = DecodePlan(
            last_token=PROMPT[-1], n_rows=1, sampling=sampling, seed=11, recent=PROMPT[-64:]
        )
        decoder = engine.decode(cache, plan)
        written.append([decoder.step().tokens[0] for _ in range(30)])
        decoder.close()

    assert written[0] == written[1] == written[2] == written[3]
    assert len(set(written[0])) > 5
