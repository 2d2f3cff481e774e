"""INT4 in torch equals mx.quantize, and the exported folder loads alike in mlx-lm and transformers."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from transformers import Gemma3ForCausalLM

from training import checkpoint
from training.export import (
    export,
    export_config,
    load_checkpoint,
    load_exported,
    spread_in_cells,
)
from training.fake_quant import quantize_dequantize, quantized_weights
from training.optimizers import OptimizerSettings, make_optimizers
from training.presets import PRESETS
from training.tokenizer import save_tokenizer

# Wide enough that √hidden is no number of bfloat16, into which serving rounds it.
WIDER = replace(PRESETS["tiny"], hidden_size=192)


@pytest.fixture(scope="module")
def folders(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A checkpoint of a tiny model with norms moved off zero, and its export."""
    torch.set_num_threads(1)
    torch.manual_seed(1)
    root = tmp_path_factory.mktemp("export")
    model = Gemma3ForCausalLM(WIDER.config())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    saved = checkpoint.save(
        root / "run", model, make_optimizers(model, OptimizerSettings()), checkpoint.TrainState()
    )
    save_tokenizer(tokenizer, root / "tokenizer")
    export(saved, root / "tokenizer", root / "model")
    return saved, root / "model"


@pytest.mark.parametrize("kind", ["normal", "constant", "zero", "one_sided", "outlier"])
def test_fake_quantisation_equals_mlx(kind: str) -> None:
    generator = torch.Generator().manual_seed(3)
    weight = torch.randn(64, 256, generator=generator) * 0.05
    if kind == "constant":
        weight = torch.full((4, 64), 0.3)
    elif kind == "zero":
        weight = torch.zeros(4, 64)
    elif kind == "one_sided":
        weight = weight.abs() + 1.0
    elif kind == "outlier":
        weight[:, 0] = 5.0
    value = mx.array(weight.numpy()).astype(mx.bfloat16)
    codes, scales, biases = mx.quantize(value, group_size=64, bits=4)
    theirs = mx.dequantize(
        codes, scales.astype(mx.float32), biases.astype(mx.float32), group_size=64, bits=4
    )
    np.testing.assert_array_equal(quantize_dequantize(weight).numpy(), np.array(theirs))


def test_straight_through_gives_the_float_weights_back() -> None:
    model = Gemma3ForCausalLM(PRESETS["tiny"].config())
    before = [parameter.detach().clone() for parameter in model.parameters()]
    with quantized_weights(model):
        inside = model.model.embed_tokens.weight.detach().clone()
    assert not torch.equal(inside, before[0])
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_mlx_lm_and_transformers_agree_past_the_window(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLX_DISABLE_COMPILE", "1")
    from mlx_lm.utils import load_model

    model, config = load_model(folders[1])
    model.set_dtype(mx.float32)
    assert config["model_type"] == "gemma3_text"
    tokens = torch.randint(0, 512, (1, 40), generator=torch.Generator().manual_seed(0))
    theirs = np.array(model(mx.array(tokens.numpy())).astype(mx.float32))
    with torch.inference_mode():
        ours = load_exported(folders[1])(tokens).logits.numpy()
    assert tokens.shape[1] > WIDER.sliding_window
    assert np.abs(ours - theirs).max() <= 1e-5 * np.abs(ours).max()


def test_the_simulated_int4_is_what_is_shipped(folders: tuple[Path, Path]) -> None:
    saved, exported = folders
    tokens = torch.arange(4, 36)[None]
    with torch.inference_mode():
        whole = load_checkpoint(saved)(tokens).logits
        shipped = load_exported(exported)(tokens).logits
        model = load_checkpoint(saved)
        with quantized_weights(model):
            simulated = model(tokens).logits
    assert torch.nn.functional.cosine_similarity(whole, shipped, dim=-1).mean() > 0.8
    # The norms are stored in bfloat16, which the simulation leaves out.
    torch.testing.assert_close(simulated, shipped, rtol=0.02, atol=0.05)


def test_config_carries_both_generations_of_keys(folders: tuple[Path, Path]) -> None:
    config = json.loads((folders[1] / "config.json").read_text())
    assert config["quantization"] == {"group_size": 64, "bits": 4, "mode": "affine"}
    assert "quantization_config" not in config
    assert config["rope_theta"] == config["rope_parameters"]["full_attention"]["rope_theta"] == 1e6
    assert config["rope_local_base_freq"] == 1e4
    assert config["sliding_window_pattern"] == 6
    assert config["architectures"] == ["Gemma3ForCausalLM"]


def test_scaled_rope_is_refused_rather_than_dropped() -> None:
    config = PRESETS["tiny"].config()
    assert config.rope_parameters is not None
    config.rope_parameters["full_attention"] |= {"rope_type": "linear", "factor": 8.0}
    with pytest.raises(ValueError, match="RoPE scaling on \\['full_attention'\\]"):
        export_config(config)


def test_manifest_names_every_file_with_its_digest(folders: tuple[Path, Path]) -> None:
    manifest = json.loads((folders[1] / "manifest.json").read_text())
    names = {path.name for path in folders[1].iterdir()} - {"manifest.json"}
    assert set(manifest["files"]) == names
    for name, entry in manifest["files"].items():
        data = (folders[1] / name).read_bytes()
        assert (entry["n_bytes"], entry["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())


def test_a_small_step_from_spread_weights_shows_through_rounding() -> None:
    """One of a twentieth of a cell takes about one weight in twenty over an edge; from the middles none."""
    generator = torch.Generator().manual_seed(0)
    middles = torch.randint(-7, 8, (64, 256), generator=generator).float() * 0.01
    middles[:, ::64], middles[:, 1::64] = -0.07, 0.08
    spread = spread_in_cells(middles, torch.full((64, 4), 0.01), generator)
    assert (spread - middles).abs().max() <= 0.005
    inner = (middles > -0.065) & (middles < 0.075)
    assert torch.equal(spread[~inner], middles[~inner])
    shares = []
    for weight in (middles, spread):
        moved = weight + 0.0005 * inner
        changed = (quantize_dequantize(moved) - quantize_dequantize(weight)).abs() > 0.005
        shares.append(float(changed[inner].float().mean()))
    assert shares[0] == 0.0
    assert shares[1] == pytest.approx(0.05, abs=0.01)
