"""A merged model is base + Σ factor · B·A as far as its weights can say it, and says how far that is."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from adapters.composition import LoraWeights, compose
from pushkin_runtime.affine import quantize
from pushkin_runtime.engines.base import EngineOptions
from pushkin_runtime.engines.registry import EngineChoice, create_engine
from pushkin_runtime.errors import InvalidRequest
from pushkin_runtime.merge import WeightedAdapter, merge
from pushkin_runtime.model_config import Quantization
from pushkin_runtime.model_store import ModelSpec, base_model, open_model


def adapter(
    spec: ModelSpec, *, name: str = "a", size: float = 0.05, seed: int = 0
) -> WeightedAdapter:
    """A LoRA of every second adaptable matrix."""
    rng = np.random.default_rng(seed)
    modules = {
        module: (
            rng.standard_normal((4, inner)).astype(np.float32),
            (size * rng.standard_normal((out, 4))).astype(np.float32),
        )
        for module, (out, inner) in list(base_model(spec).modules.items())[seed % 2 :: 2]
    }
    return WeightedAdapter(name, LoraWeights("0" * 64, 2.0, modules))


def dense(spec: ModelSpec) -> dict[str, np.ndarray]:
    """Every weight of a model in float32."""
    stored: Any = {}
    for path in {file.path for file in spec.tensors.values()}:
        stored |= mx.load(str(path))
    named = {name: stored[file.stored_name] for name, file in spec.tensors.items()}
    result = {}
    for name, value in named.items():
        stem = name.removesuffix("weight")
        if name.endswith(".weight") and f"{stem}scales" in named:
            assert spec.config.quantization is not None
            scales, biases = (named[stem + p].astype(mx.float32) for p in ("scales", "biases"))
            value = mx.dequantize(
                *(value, scales, biases),
                group_size=spec.config.quantization.group_size,
                bits=spec.config.quantization.bits,
            )
        if name.endswith(".weight"):
            result[name] = np.array(value.astype(mx.float32))
    return result


def merged_exactly(spec: ModelSpec, *adapters: WeightedAdapter) -> dict[str, np.ndarray]:
    """The oracle."""
    weights = dense(spec)
    for one in adapters:
        for module, (a, b) in one.weights.modules.items():
            weights[f"{module}.weight"] += one.weights.scale * one.scale * (b @ a)
    return weights


@pytest.mark.parametrize("layout", ["tiny_model", "multimodal_model"])
def test_in_floats_the_sum_is_exact(
    request: pytest.FixtureRequest, tmp_path: Path, layout: str
) -> None:
    spec = open_model(request.getfixturevalue(layout))
    adapters = [
        adapter(spec),
        WeightedAdapter("b", adapter(spec, seed=1).weights, scale=-0.5),
        WeightedAdapter("off", adapter(spec, size=9).weights, scale=0.0),
    ]

    report = merge(spec, adapters, tmp_path / "merged")
    merged = open_model(tmp_path / "merged")

    expected = merged_exactly(spec, *adapters)
    assert dense(merged).keys() == expected.keys()
    for name, value in dense(merged).items():
        np.testing.assert_allclose(value, expected[name], rtol=0, atol=1e-6)
    assert merged.digest != spec.digest
    assert merged.config == spec.config
    assert (report.n_modules, report.n_bits) == (42, 16)
    assert report.rounding_error == 0


def test_a_quantised_base_stays_quantised_and_untouched_matrices_keep_their_bytes(
    quantized_model: Path, tmp_path: Path
) -> None:
    spec = open_model(quantized_model)
    one = adapter(spec)

    report = merge(spec, [one], tmp_path / "merged")
    merged = open_model(tmp_path / "merged")
    stored, exact, before = dense(merged), merged_exactly(spec, one), dense(spec)

    assert merged.config == spec.config
    adapted = {f"{module}.weight" for module in one.weights.modules}
    for name, value in stored.items():
        if name not in adapted:
            assert np.array_equal(value, before[name])

    def norm(of: Callable[[str], np.ndarray]) -> float:
        return float(np.sqrt(sum((of(name) ** 2).sum() for name in adapted)))

    error = norm(lambda n: stored[n] - exact[n])
    assert report.rounding_error == pytest.approx(error / norm(lambda n: exact[n]), rel=1e-3)
    assert report.lost_update == pytest.approx(
        error / norm(lambda n: exact[n] - before[n]), rel=1e-3
    )
    assert 0 < report.rounding_error < 0.15
    assert report.lost_update < 0.5


@pytest.mark.parametrize(
    ("model", "bits", "kind"),
    [
        ("quantized_model", 8, "int8 g64"),
        ("quantized_model", 16, "none"),
        ("tiny_model", 4, "int4 g64"),
        ("tiny_model", 8, "int8 g64"),
    ],
)
def test_other_bits_make_a_model_of_that_kind(
    request: pytest.FixtureRequest, tmp_path: Path, model: str, bits: int, kind: str
) -> None:
    spec = open_model(request.getfixturevalue(model))
    one = adapter(spec)

    report = merge(spec, [one], tmp_path / "merged", bits=bits)
    merged = open_model(tmp_path / "merged")

    assert merged.quantization == kind
    assert report.rounding_error < {4: 0.15, 8: 0.01, 16: 1e-6}[bits]
    exact = merged_exactly(spec, one)
    for name, value in dense(merged).items():
        error = np.linalg.norm(value - exact[name]) / np.linalg.norm(exact[name])
        assert error < {4: 0.15, 8: 0.01, 16: 1e-6}[bits], name


def test_merged_and_unmerged_give_the_same_logits(tiny_model: Path, tmp_path: Path) -> None:
    one = adapter(open_model(tiny_model), size=0.02)
    merge(open_model(tiny_model), [WeightedAdapter("a", one.weights, 0.5)], tmp_path / "merged")
    tokens = list(range(5, 45))  # past the window

    logits = []
    for folder, loras in ((tmp_path / "merged", []), (tiny_model, [one.weights])):
        engine = create_engine(EngineChoice("torch", "test"), EngineOptions(model_dir=folder))
        lora = None
        if loras:
            loaded = engine.load_lora(compose(loras, np.dtype(engine.lora_dtype)))
            lora = engine.rescale(loaded, [0.5 * one.weights.scale])
        logits.append(engine.logits(engine.new_cache(lora), tokens))
        engine.close()

    np.testing.assert_allclose(logits[0], logits[1], rtol=0, atol=1e-3)
    assert np.abs(logits[0]).max() > 1


def test_rounding_again_without_a_change_changes_nothing() -> None:
    """mx.quantize alone would move 15 % of the codes of weights that are on a grid already."""
    mx.random.seed(0)
    quantization = Quantization(group_size=64, bits=4)
    weights = mx.random.normal((64, 256)) * 0.02
    first = quantize(weights, quantization, mx.bfloat16)
    on_grid = mx.dequantize(
        first[0], first[1].astype(mx.float32), first[2].astype(mx.float32), group_size=64, bits=4
    )

    again = quantize(on_grid, quantization, mx.bfloat16, (first[1], first[2]))

    assert all(mx.array_equal(a, b).item() for a, b in zip(first, again, strict=True))


@pytest.mark.parametrize("bits", [4, 8])
def test_codes_are_packed_as_mlx_packs_them_and_fit_no_worse(bits: int) -> None:
    mx.random.seed(0)
    weights = mx.random.normal((32, 128))
    weights[0] = 0.0
    ours = quantize(weights, Quantization(group_size=64, bits=bits), mx.float32)
    theirs = mx.quantize(weights, 64, bits)

    def error(parts: Any) -> float:
        return float(mx.square(mx.dequantize(*parts, group_size=64, bits=bits) - weights).sum())

    assert ours[0].shape == theirs[0].shape
    assert error(ours) <= error(theirs) * (1 + 1e-6)


def test_blocks_of_rows_make_the_same_bytes_as_whole_matrices(
    quantized_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = open_model(quantized_model)
    merge(spec, [adapter(spec)], tmp_path / "whole", bits=8)

    monkeypatch.setattr("pushkin_runtime.merge.BLOCK", 1000)
    merge(spec, [adapter(spec)], tmp_path / "blocks", bits=8)

    assert open_model(tmp_path / "blocks").digest == open_model(tmp_path / "whole").digest


def test_what_cannot_be_merged_writes_nothing(tiny_model: Path, tmp_path: Path) -> None:
    spec = open_model(tiny_model)
    one = adapter(spec)
    foreign = LoraWeights("0", 1.0, {"layers.99.mlp.up_proj": one.weights.modules.popitem()[1]})

    with pytest.raises(InvalidRequest, match="every scale is 0"):
        merge(spec, [WeightedAdapter("a", one.weights, 0.0)], tmp_path / "merged")
    with pytest.raises(InvalidRequest, match=r"no layers\.99\.mlp\.up_proj\.weight"):
        merge(spec, [WeightedAdapter("a", foreign)], tmp_path / "merged")
    (tmp_path / "there").mkdir()
    with pytest.raises(InvalidRequest, match="exists"):
        merge(spec, [one], tmp_path / "there")
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


def test_the_manifest_says_what_was_merged(tiny_model: Path, tmp_path: Path) -> None:
    spec = open_model(tiny_model)

    merge(spec, [adapter(spec, name="quiet")], tmp_path / "merged")

    content = json.loads((tmp_path / "merged" / "manifest.json").read_text())
    assert content["merged"]["base_digest"] == spec.digest
    assert content["merged"]["adapters"] == [{"name": "quiet", "sha256": "0" * 64, "scale": 1.0}]
    assert content["files"].keys() >= {"config.json", "model.safetensors", "tokenizer.json"}
