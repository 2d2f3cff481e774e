"""INT4 weights multiplied as they are stored, against the same weights expanded."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from adapters.composition import LoraWeights, compose
from pushkin_runtime.engines.base import DecodePlan, Engine, EngineOptions, Tokens
from pushkin_runtime.engines.torch_engine import TorchEngine
from pushkin_runtime.engines.torch_linear import (
    ROWS_AT_ONCE,
    DenseLinear,
    Int4Linear,
    StoredMatrix,
    dequantize,
    int4_linear,
)
from pushkin_runtime.sampling_types import SamplingParams

PROMPT = tuple(np.random.default_rng(5).integers(4, 500, 90).tolist())
BF16_LOGITS = 0.12  # six bfloat16 layers against float32, logits of a few units


def stored_matrix(n_out: int, n_in: int, bits: int = 4, group_size: int = 64) -> StoredMatrix:
    generator = torch.Generator().manual_seed(n_out + n_in)
    shape = (n_out, n_in * bits // 32)
    packed = torch.randint(-(2**31), 2**31, shape, generator=generator).to(torch.int32)
    scales = torch.rand(n_out, n_in // group_size, generator=generator) * 0.02 + 0.001
    biases = -7.0 * scales + torch.randn(scales.shape, generator=generator) * 0.01
    return StoredMatrix(packed, scales.to(torch.bfloat16), biases.to(torch.bfloat16), bits)


@pytest.fixture(scope="module")
def kept(quantized_model: Path) -> Iterator[TorchEngine]:
    engine = TorchEngine(EngineOptions(model_dir=quantized_model), keep_quantized=True)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def expanded(quantized_model: Path) -> Iterator[TorchEngine]:
    engine = TorchEngine(EngineOptions(model_dir=quantized_model))
    yield engine
    engine.close()


def lora_logits(engine: Engine, factor: float) -> NDArray[np.float32]:
    rng = np.random.default_rng(1)
    modules = {
        module: (
            (rng.standard_normal((16, n_in)) * 0.1).astype(np.float32),
            (rng.standard_normal((n_out, 16)) * 0.02).astype(np.float32),
        )
        for module, (n_out, n_in) in engine.base.modules.items()
    }
    dtype = ml_dtypes.bfloat16 if engine.lora_dtype == "bfloat16" else np.float32
    composition = compose([LoraWeights("sha", factor, modules)], dtype)
    cache = engine.new_cache(engine.load_lora(composition))
    engine.prefill(cache, Tokens(PROMPT[:40]))
    return engine.logits(cache, PROMPT[40:])


@pytest.mark.parametrize("group_size", [32, 64, 128])
@pytest.mark.parametrize("n_rows", [1, 2, 37])
def test_the_kernel_multiplies_as_the_expanded_matrix_does(group_size: int, n_rows: int) -> None:
    stored = stored_matrix(192, 256, group_size=group_size)
    x = torch.randn(n_rows, 256, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    expected = x.float() @ dequantize(stored).t()

    got = int4_linear(stored)(x).float()

    # Products in bfloat16: 2⁻⁸ of the result, and 2⁻⁸ of the zero of each group.
    assert (got - expected).abs().max() < 2**-7 * expected.abs().max()


def test_packing_by_blocks_of_rows_equals_packing_at_once() -> None:
    stored = stored_matrix(2 * ROWS_AT_ONCE + 48, 64)
    codes = stored.codes().to(torch.int32)

    assert torch.equal(
        int4_linear(stored).packed,
        torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes, 1),
    )


@pytest.mark.parametrize(
    ("stored", "fits"),
    [
        (stored_matrix(64, 64), True),
        (stored_matrix(64, 64, bits=8), False),
        (stored_matrix(40, 64), False),
    ],
)
def test_what_the_kernel_cannot_multiply_is_known(stored: StoredMatrix, fits: bool) -> None:
    assert stored.fits_kernel == fits


def test_int4_stays_int4_only_where_it_is_wanted(
    kept: TorchEngine, expanded: TorchEngine, tiny_model: Path
) -> None:
    plain = TorchEngine(EngineOptions(model_dir=tiny_model), keep_quantized=True)

    assert {type(m) for m in kept._weights.linears.values()} == {Int4Linear}
    assert kept.lora_dtype == "bfloat16"
    assert {type(m) for m in expanded._weights.linears.values()} == {DenseLinear}
    assert expanded.lora_dtype == plain.lora_dtype == "float32"


def test_embedding_rows_are_those_of_the_expanded_table(
    kept: TorchEngine, expanded: TorchEngine
) -> None:
    ids = torch.tensor([[3, 511, 3], [0, 77, 4]])

    assert torch.equal(
        kept._weights.embedding(ids), expanded._weights.embedding(ids).to(torch.bfloat16)
    )


@pytest.mark.parametrize("factor", [0.0, 1.5])
def test_logits_are_those_of_the_expanded_weights(
    kept: TorchEngine, expanded: TorchEngine, factor: float
) -> None:
    expected = lora_logits(expanded, factor)

    assert expected.std() > 0.5
    np.testing.assert_allclose(lora_logits(kept, factor), expected, atol=BF16_LOGITS)


def test_greedy_decode_follows_the_arg_max_past_the_window(kept: TorchEngine) -> None:
    cache = kept.new_cache()
    kept.prefill(cache, Tokens(PROMPT[:29]))
    plan = DecodePlan(
        last_token=PROMPT[29], n_rows=1, sampling=SamplingParams(temperature=0.0), seed=0
    )
    decoder = kept.decode(cache, plan)
    out = [decoder.step().tokens[0] for _ in range(30)]
    decoder.close()
    logits = kept.logits(kept.new_cache(), [*PROMPT[:30], *out])[29:-1]

    # One position at a time and all at once round differently: equal up to that.
    chosen = logits[np.arange(30), out]
    assert (logits.max(axis=-1) - chosen).max() < BF16_LOGITS
