"""INT4 from floats: mx.quantize's numbers in mlx-lm's layout, and a symmetric form that others hold exactly."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import gguf
import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.convert import mixed_quant_predicate_builder
from mlx_lm.models import gemma3_text
from safetensors.numpy import save_file

from pushkin_runtime.affine import expand, quantize, quantize_symmetric
from pushkin_runtime.engines import torch_linear
from pushkin_runtime.engines.base import EngineOptions
from pushkin_runtime.engines.registry import EngineChoice, create_engine
from pushkin_runtime.errors import InvalidRequest, ModelUnsupported
from pushkin_runtime.held_out import WINDOW, held_out_loss
from pushkin_runtime.model_config import Quantization
from pushkin_runtime.model_store import ModelSpec, open_model
from pushkin_runtime.quantize import Recipe, is_sensitive, quantize_model
from training.fake_quant import quantize_dequantize

TOKENS = list(range(5, 45))  # past the window


def arrays(spec: ModelSpec) -> dict[str, mx.array]:
    """Every stored array by our name."""
    stored: Any = {}
    for path in {file.path for file in spec.tensors.values()}:
        stored |= mx.load(str(path))
    return {name: stored[file.stored_name] for name, file in spec.tensors.items()}


def matrix(spec: ModelSpec, name: str) -> np.ndarray:
    """One matrix of a quantised model in float32."""
    assert spec.config.quantization is not None
    stem, found = name.removesuffix("weight"), arrays(spec)
    own = spec.config.quantization.of(stem.removesuffix("."))
    return np.array(expand(found[name], found[f"{stem}scales"], found[f"{stem}biases"], own))


def stored(spec: ModelSpec, module: str) -> torch_linear.StoredMatrix:
    """One matrix as the torch engine reads it."""
    found = torch_linear._read_quantized(spec, module)
    assert found is not None
    return found


def logits(folder: Path, engine: str) -> np.ndarray:
    """What an engine makes of the model in `folder`."""
    loaded = create_engine(EngineChoice(engine, "test"), EngineOptions(model_dir=folder))
    found = loaded.logits(loaded.new_cache(), TOKENS)
    loaded.close()
    return found


@pytest.mark.parametrize("layout", ["tiny_model", "multimodal_model"])
@pytest.mark.parametrize("group_size", [32, 64])
def test_the_codes_are_those_of_mx_quantize_and_of_training(
    request: pytest.FixtureRequest, tmp_path: Path, layout: str, group_size: int
) -> None:
    spec = open_model(request.getfixturevalue(layout))

    report = quantize_model(spec, tmp_path / "out", Recipe(group_size=group_size))

    made, source = open_model(tmp_path / "out"), arrays(spec)
    found = arrays(made)
    for name, value in source.items():
        narrow = value.astype(mx.bfloat16)
        if value.ndim == 1:
            assert mx.array_equal(found[name], narrow).item()
            continue
        stem = name.removesuffix("weight")
        parts = mx.quantize(narrow, group_size, 4)
        for part, expected in zip(("weight", "scales", "biases"), parts, strict=True):
            assert mx.array_equal(found[stem + part], expected).item(), stem + part
    import torch

    name = "layers.3.mlp.down_proj.weight"
    as_trained = quantize_dequantize(torch.from_numpy(np.array(source[name])), group_size)
    np.testing.assert_array_equal(matrix(made, name), as_trained.numpy())
    assert made.quantization == report.quantization == f"int4 g{group_size}"
    assert report.bits_per_weight == pytest.approx(8 * made.n_bytes / spec.n_parameters)
    assert report.n_bytes == made.n_bytes
    assert 0.05 < report.rounding_error < 0.15


@pytest.mark.parametrize(
    "recipe",
    [
        Recipe(),
        Recipe(bits=6, group_size=32),
        Recipe(mixed_bits=6),
        Recipe(mixed_bits=8, group_size=32),
        Recipe(symmetric=True, group_size=32),
    ],
)
def test_engines_read_every_form_alike_and_it_is_near_the_source(
    tiny_model: Path, tmp_path: Path, recipe: Recipe
) -> None:
    report = quantize_model(open_model(tiny_model), tmp_path / "out", recipe)

    made = open_model(tmp_path / "out")
    for name in ("layers.5.mlp.down_proj.weight", "layers.0.self_attn.q_proj.weight"):
        module = name.removesuffix(".weight")
        read = torch_linear.dequantize(stored(made, module))
        np.testing.assert_allclose(read.numpy(), matrix(made, name), rtol=0, atol=1e-6)
    before = logits(tiny_model, "torch")
    by_torch, by_mlx = (logits(tmp_path / "out", engine) for engine in ("torch", "mlx"))
    norm = np.linalg.norm
    assert norm(by_torch - by_mlx) / norm(by_torch) < 0.08  # MLX computes in bfloat16
    assert 0 < norm(by_torch - before) / norm(before) < (0.15 if recipe.bits == 6 else 0.6)
    assert report.n_sensitive == (4 if recipe.mixed_bits else 0)
    if 6 in (recipe.bits, recipe.mixed_bits):
        with pytest.raises(ModelUnsupported, match="4 and 8 bits; got some of 6"):
            logits(tmp_path / "out", "onnx")
    else:
        np.testing.assert_allclose(logits(tmp_path / "out", "onnx"), by_torch, atol=2e-4)


def test_more_bits_go_where_mlx_lm_puts_them() -> None:
    for n_layers in (26, 34):
        model = gemma3_text.Model(
            gemma3_text.ModelArgs(
                model_type="gemma3_text",
                hidden_size=32,
                num_hidden_layers=n_layers,
                intermediate_size=32,
                num_attention_heads=1,
                num_key_value_heads=1,
                head_dim=32,
                vocab_size=32,
            )
        )
        theirs = mixed_quant_predicate_builder("mixed_4_6", model)
        for path, module in model.named_modules():
            if not hasattr(module, "weight") or not hasattr(module, "to_quantized"):
                continue
            chosen: Any = theirs(path, module)
            ours = is_sensitive(path.removeprefix("model."), n_layers)
            assert ours == (chosen["bits"] == 6), path


def test_a_mixed_model_says_its_exceptions_as_mlx_lm_does(
    multimodal_model: Path, tmp_path: Path
) -> None:
    quantize_model(open_model(multimodal_model), tmp_path / "out", Recipe(mixed_bits=8))

    config = json.loads((tmp_path / "out" / "config.json").read_text())["quantization"]
    expected = {"group_size": 64, "bits": 8, "mode": "affine"}
    assert config["bits"] == 4
    assert config["language_model.model.layers.5.mlp.down_proj"] == expected
    assert "language_model.model.layers.0.mlp.down_proj" not in config
    assert open_model(tmp_path / "out").quantization == "int4 g64, some int8"


def q4_0(codes: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """GGUF's blocks of 32: a float16 scale, then weight j low and j + 16 high in byte j."""
    blocks = codes.reshape(*scales.shape, 2, 16).astype(np.uint8)
    packed = blocks[..., 0, :] | blocks[..., 1, :] << 4
    with np.errstate(over="raise", under="raise"):
        head = scales.astype("<f2")[..., None].view(np.uint8)
    return np.concatenate((head, packed), axis=-1).reshape(codes.shape[0], -1)


def test_the_symmetric_form_is_q4_0_and_xnnpacks_int4_to_the_last_bit() -> None:
    rng = np.random.default_rng(0)
    weights = (rng.standard_normal((64, 256)) * 0.02).astype(np.float32)
    weights[0] = 0.0
    weights[1] *= 1e-4  # scales that float16 holds only as subnormals
    weights[2, :32] = -0.05  # an extreme on the side that has one code more

    packed, scales, biases = quantize_symmetric(mx.array(weights), 32)

    form = Quantization(group_size=32, bits=4)
    ours = np.array(expand(packed, scales, biases, form))
    scale = np.array(scales.astype(mx.float32))
    codes = np.array(packed)[..., None] >> np.arange(0, 32, 4) & 15
    assert (scale > 0).all()
    assert mx.array_equal(biases, -8 * scales).item()
    theirs = gguf.dequantize(q4_0(codes.reshape(64, 256), scale), gguf.GGMLQuantizationType.Q4_0)
    np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(ours[0], 0.0)
    reference = gguf.dequantize(
        gguf.quantize(weights, gguf.GGMLQuantizationType.Q4_0), gguf.GGMLQuantizationType.Q4_0
    )
    # Q4_0's own choice has scales of either sign, which XNNPACK does not take.
    assert np.square(ours - weights).sum() < 1.05 * np.square(reference - weights).sum()


@pytest.mark.parametrize("bits", [4, 6, 8])
def test_codes_rounded_to_a_given_grid_are_packed_as_mlx_packs_its_own(bits: int) -> None:
    mx.random.seed(0)
    weights, form = mx.random.normal((32, 128)), Quantization(group_size=64, bits=bits)
    theirs = mx.quantize(weights, 64, bits)

    ours = quantize(weights, form, mx.float32)

    codes = [expand(parts[0], parts[1], parts[2], form) for parts in (ours, theirs)]
    assert ours[0].shape == theirs[0].shape
    np.testing.assert_allclose(*(np.array(code) for code in codes), rtol=0, atol=1e-5)


def test_blocks_of_rows_make_the_same_bytes_and_progress_reaches_the_end(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = open_model(tiny_model)
    quantize_model(spec, tmp_path / "whole", Recipe())
    monkeypatch.setattr("pushkin_runtime.quantize.BLOCK", 1000)
    seen: list[tuple[int, int]] = []

    quantize_model(spec, tmp_path / "blocks", Recipe(), lambda *done: seen.append(done))

    assert open_model(tmp_path / "blocks").digest == open_model(tmp_path / "whole").digest
    assert seen == sorted(seen)
    assert seen[-1] == (spec.n_parameters, spec.n_parameters)


def test_more_bits_may_be_made_fewer_but_never_again(
    tiny_model: Path, quantized_model: Path, tmp_path: Path
) -> None:
    quantize_model(open_model(tiny_model), tmp_path / "eight", Recipe(bits=8))

    report = quantize_model(open_model(tmp_path / "eight"), tmp_path / "four", Recipe())

    direct = quantize_model(open_model(tiny_model), tmp_path / "direct", Recipe())
    assert report.rounding_error == pytest.approx(direct.rounding_error, rel=0.1)
    with pytest.raises(InvalidRequest, match=r"quantised already \(int4 g64\)"):
        quantize_model(open_model(quantized_model), tmp_path / "again", Recipe())


def test_what_cannot_be_done_is_said_and_leaves_nothing(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = open_model(tiny_model)
    (tmp_path / "there").mkdir()

    with pytest.raises(InvalidRequest, match="exists"):
        quantize_model(spec, tmp_path / "there", Recipe())
    with pytest.raises(InvalidRequest, match="4 bits in groups of 32"):
        quantize_model(spec, tmp_path / "out", Recipe(symmetric=True))
    with pytest.raises(InvalidRequest, match="do not divide into groups of 128"):
        quantize_model(spec, tmp_path / "out", Recipe(group_size=128))

    def broken(n_done: int, n_total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        quantize_model(spec, tmp_path / "out", Recipe(), broken)
    free = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr("shutil.disk_usage", lambda path: free)
    with pytest.raises(InvalidRequest, match=r"GB are needed and 0\.00 GB are free"):
        quantize_model(spec, tmp_path / "out", Recipe())
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


def test_the_manifest_says_what_was_quantised(tiny_model: Path, tmp_path: Path) -> None:
    spec = open_model(tiny_model)
    quantize_model(spec, tmp_path / "out", Recipe())

    content = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert content["quantized"] == {"source_id": spec.id, "source_digest": spec.digest}
    assert content["files"].keys() >= {"config.json", "model.safetensors", "tokenizer.json"}


def test_shards_are_read_too(tiny_model: Path, tmp_path: Path) -> None:
    sharded = tmp_path / "sharded"
    shutil.copytree(tiny_model, sharded, ignore=shutil.ignore_patterns("*.safetensors"))
    tensors = {n: np.array(v.astype(mx.float32)) for n, v in arrays(open_model(tiny_model)).items()}
    for number in range(2):
        part = {f"model.{n}": v for i, (n, v) in enumerate(tensors.items()) if i % 2 == number}
        save_file(part, sharded / f"model-{number + 1}-of-2.safetensors")

    quantize_model(open_model(sharded), tmp_path / "out", Recipe())
    quantize_model(open_model(tiny_model), tmp_path / "one", Recipe())

    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("out", "one")]
    assert weights[0] == weights[1]


def test_the_held_out_loss_is_the_mean_over_every_token(tiny_model: Path) -> None:
    engine = create_engine(EngineChoice("torch", "test"), EngineOptions(model_dir=tiny_model))
    text = "The old house stood by the river. " * 60
    tokens = engine.tokenizer.encode(text)
    assert len(tokens) > WINDOW

    found = held_out_loss(engine, text)

    nats = 0.0
    for start in range(0, len(tokens), WINDOW):
        window = tokens[start : start + WINDOW]
        rows = engine.logits(engine.new_cache(), [engine.tokenizer.bos_id, *window[:-1]])
        shifted = rows.astype(np.float64) - rows.max(axis=1, keepdims=True)
        logprobs = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
        nats -= logprobs[np.arange(len(window)), window].sum()
    engine.close()
    assert found.n_tokens == len(tokens)
    assert found.nats_per_token == pytest.approx(nats / len(tokens), rel=1e-6)
    assert found.bits_per_character == pytest.approx(nats / math.log(2) / len(text), rel=1e-6)
