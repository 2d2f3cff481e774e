"""The true-shape rig at a tiny shape: our engines run it, and every format holds the same numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import mlx.core as mx
import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.torch import load_file

from benchmarks.true_shape import (
    SHAPES,
    Rig,
    build,
    main,
    model_config,
    open_rig,
)
from benchmarks.true_shape_weights import CODE_STD, mlx_tensors, q4_0_bytes, random_matrix
from pushkin_runtime.engines.base import EngineOptions
from pushkin_runtime.engines.registry import EngineChoice, create_engine
from pushkin_runtime.model_config import parse_config
from pushkin_runtime.model_store import expected_shapes, open_model, open_tokenizer

EXPECTED_GGUF = {
    "token_embd.weight": (512, 64),
    "output_norm.weight": (64,),
    "blk.5.attn_q.weight": (128, 64),
    "blk.5.attn_k.weight": (64, 64),
    "blk.5.attn_v.weight": (64, 64),
    "blk.5.attn_output.weight": (64, 128),
    "blk.5.attn_q_norm.weight": (32,),
    "blk.5.attn_k_norm.weight": (32,),
    "blk.5.ffn_gate.weight": (128, 64),
    "blk.5.ffn_up.weight": (128, 64),
    "blk.5.ffn_down.weight": (64, 128),
    "blk.5.attn_norm.weight": (64,),
    "blk.5.post_attention_norm.weight": (64,),
    "blk.5.ffn_norm.weight": (64,),
    "blk.5.post_ffw_norm.weight": (64,),
}


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Rig:
    """The tiny rig, built once by the command."""
    out = tmp_path_factory.mktemp("rigs") / "tiny"
    assert main(["--out", str(out), "--shape", "tiny"]) == 0
    return open_rig(out)


def dequantize(codes: mx.array, scales: mx.array, biases: mx.array) -> NDArray[np.float32]:
    """MLX's own reading of its layout, in float32."""
    scales, biases = scales.astype(mx.float32), biases.astype(mx.float32)
    return np.array(mx.dequantize(codes, scales, biases, group_size=64, bits=4))


def our_weights(folder: Path) -> dict[str, NDArray[np.float32]]:
    """Every weight of a model in our format by our name, norms as (1 + w)."""
    stored: dict[str, mx.array] = {}
    for file in folder.glob("*.safetensors"):
        stored |= mx.load(str(file))
    found = {}
    for name, value in stored.items():
        stem = name.removesuffix(".weight")
        if name.endswith("norm.weight"):
            found[name.removeprefix("model.")] = np.array(1 + value.astype(mx.float32))
        elif name.endswith(".weight"):
            parts = (value, stored[f"{stem}.scales"], stored[f"{stem}.biases"])
            found[name.removeprefix("model.")] = dequantize(*parts)
    return found


def gguf_tensors(path: Path) -> dict[str, NDArray[np.float32]]:
    """Every tensor of a GGUF file in float32, by name, in NumPy's order of axes."""
    found = {}
    for tensor in gguf.GGUFReader(path).tensors:
        shape = tuple(int(n) for n in reversed(tensor.shape))
        found[tensor.name] = gguf.dequantize(tensor.data, tensor.tensor_type).reshape(shape)
    return found


def field(path: Path, name: str) -> Any:
    """One metadata value of a GGUF file."""
    found = gguf.GGUFReader(path).get_field(name)
    assert found is not None, name
    return found.contents()


def test_our_store_accepts_the_model_and_torch_runs_it(rig: Rig) -> None:
    spec = open_model(rig.model)
    assert (spec.quantization, spec.config.rope_factor) == ("int4 g64", 8.0)
    assert spec.n_parameters == rig.n_parameters

    engine = create_engine(EngineChoice("torch", "test"), EngineOptions(model_dir=rig.model))
    tokens = open_tokenizer(spec).encode("The old house stood by the river, and nobody")
    logits = engine.logits(engine.new_cache(), tokens * 3)  # past the window of 16
    engine.close()

    assert len(tokens) * 3 > spec.config.sliding_window
    assert np.isfinite(logits).all()
    assert 0.5 < logits.std() < 5, "neither flat nor one-hot"


def test_the_gguf_file_holds_the_same_numbers(rig: Rig) -> None:
    spec = open_model(rig.model)
    ours = our_weights(rig.model)
    theirs = gguf_tensors(rig.gguf)

    assert len(theirs) == len(ours) == len(expected_shapes(spec.config))
    assert {name: theirs[name].shape for name in EXPECTED_GGUF} == EXPECTED_GGUF
    pairs = {
        "embed_tokens.weight": "token_embd.weight",
        "norm.weight": "output_norm.weight",
        "layers.5.self_attn.o_proj.weight": "blk.5.attn_output.weight",
        "layers.5.mlp.down_proj.weight": "blk.5.ffn_down.weight",
        "layers.5.pre_feedforward_layernorm.weight": "blk.5.ffn_norm.weight",
    }
    for our_name, their_name in pairs.items():
        np.testing.assert_array_equal(ours[our_name], theirs[their_name])


def test_the_gguf_file_says_what_the_config_says(rig: Rig) -> None:
    vocabulary = field(rig.gguf, "tokenizer.ggml.tokens")
    assert field(rig.gguf, "general.architecture") == "gemma3"
    assert field(rig.gguf, "gemma3.attention.sliding_window") == 16
    assert field(rig.gguf, "gemma3.attention.head_count_kv") == 2
    assert field(rig.gguf, "gemma3.rope.scaling.factor") == 8.0
    assert len(vocabulary) == 512
    assert vocabulary[field(rig.gguf, "tokenizer.ggml.bos_token_id")] == "<bos>"


def test_an_adapter_is_the_same_in_three_formats(rig: Rig) -> None:
    paths = rig.adapters["r4-a"]
    peft = load_file(paths.peft / "adapter_model.safetensors")
    mlx = load_file(paths.mlx / "adapters.safetensors")
    theirs = gguf_tensors(paths.gguf)
    a = peft["base_model.model.model.layers.3.self_attn.k_proj.lora_A.weight"].float().numpy()
    b = peft["base_model.model.model.layers.3.self_attn.k_proj.lora_B.weight"].float().numpy()

    assert (a.shape, b.shape, len(peft), len(mlx), len(theirs)) == ((4, 64), (64, 4), 60, 60, 60)
    assert np.count_nonzero(b) > b.size / 2
    np.testing.assert_array_equal(mlx["model.layers.3.self_attn.k_proj.lora_a"].float().T, a)
    np.testing.assert_array_equal(mlx["model.layers.3.self_attn.k_proj.lora_b"].float().T, b)
    np.testing.assert_array_equal(theirs["blk.3.attn_k.weight.lora_a"], a)
    np.testing.assert_array_equal(theirs["blk.3.attn_k.weight.lora_b"], b)

    alpha, rank = 8, 4
    peft_config = json.loads((paths.peft / "adapter_config.json").read_text())
    mlx_config = json.loads((paths.mlx / "adapter_config.json").read_text())
    assert (peft_config["lora_alpha"], peft_config["r"]) == (alpha, rank)
    assert mlx_config["lora_parameters"]["scale"] == alpha / rank
    assert field(paths.gguf, "adapter.lora.alpha") == alpha
    assert (field(paths.gguf, "general.type"), field(paths.gguf, "adapter.type")) == (
        "adapter",
        "lora",
    )


@pytest.mark.slow
def test_mlx_lm_loads_the_model_with_its_adapter_and_the_adapter_acts(rig: Rig) -> None:
    from mlx_lm.utils import load_adapters, load_model

    tokens = mx.array([[2, 300, 301, 302]])
    model, _ = load_model(rig.model)
    bare = model(tokens)[0, -1].astype(mx.float32)
    adapted = load_adapters(model, str(rig.adapters["r4-a"].mlx))
    change = mx.abs(adapted(tokens)[0, -1].astype(mx.float32) - bare).max().item()

    assert 0.05 < change < 10


def test_weights_have_the_size_asked_for_no_mean_and_no_unpaired_code() -> None:
    matrix = random_matrix(np.random.default_rng(0), 512, 1024, std=0.02)
    codes, scales, biases = mlx_tensors("w.weight", matrix).values()
    weights = dequantize(
        mx.array(codes.numpy()), mx.array(scales.float().numpy()), mx.array(biases.float().numpy())
    )
    nibbles = np.stack((matrix.codes & 15, matrix.codes >> 4))

    assert set(np.unique(nibbles)) == set(range(1, 16))
    assert nibbles.astype(float).std() == pytest.approx(CODE_STD, rel=0.01)
    assert abs(weights.mean()) < 1e-4
    assert 0.5 < weights.std() / 0.02 < 2
    theirs = gguf.dequantize(q4_0_bytes(matrix), gguf.GGMLQuantizationType.Q4_0)
    np.testing.assert_array_equal(weights, theirs)


def test_the_4b_shape_is_gemma_3_4b() -> None:
    config = parse_config(model_config("4b"), "4b")
    n_parameters = sum(int(np.prod(shape)) for shape in expected_shapes(config).values())

    assert n_parameters == 3_880_099_328  # the text part of gemma-3-4b, with 262,144 embeddings
    assert sum(config.is_global(layer) for layer in range(config.n_layers)) == 5
    assert set(SHAPES) == {"4b", "tiny"}


def test_a_folder_in_use_is_left_alone_and_an_unfinished_rig_is_refused(
    rig: Rig, tmp_path: Path
) -> None:
    with pytest.raises(FileExistsError, match="not empty"):
        build(rig.model.parent, "tiny")
    with pytest.raises(FileNotFoundError, match=r"rig\.json is missing"):
        open_rig(tmp_path)
