"""A damaged or foreign model folder is refused with every mismatch, before anything is loaded."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from pushkin_runtime.errors import ModelCorrupt, ModelNotFound, ModelUnsupported
from pushkin_runtime.model_config import parse_config
from pushkin_runtime.model_store import open_model, open_tokenizer


@pytest.fixture
def copy(tiny_model: Path, tmp_path: Path) -> Path:
    """The tiny checkpoint, to be damaged."""
    return Path(shutil.copytree(tiny_model, tmp_path / "model"))


def edit_config(path: Path, **changes: Any) -> None:
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | changes))


def edit_tensors(path: Path, edit: Callable[[dict[str, np.ndarray]], None]) -> None:
    tensors = load_file(path / "model.safetensors")
    edit(tensors)
    save_file(tensors, path / "model.safetensors")


def test_the_three_layouts_describe_one_architecture(
    tiny_model: Path, quantized_model: Path, multimodal_model: Path
) -> None:
    specs = [open_model(p) for p in (tiny_model, quantized_model, multimodal_model)]

    assert len({spec.n_parameters for spec in specs}) == 1
    assert [spec.quantization for spec in specs] == ["none", "int4 g64", "none"]
    assert specs[0].tensors.keys() == specs[2].tensors.keys()
    assert len({spec.digest for spec in specs}) == 3


def test_published_4b_config_is_read_with_its_defaults() -> None:
    """The 4B's config.json relies on transformers' defaults for heads, head size and vocabulary."""
    config = parse_config(
        {
            "model_type": "gemma3",
            "text_config": {
                "hidden_size": 2560,
                "intermediate_size": 10240,
                "model_type": "gemma3_text",
                "num_hidden_layers": 34,
                "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
                "sliding_window": 1024,
            },
        },
        "gemma-3-4b-pt",
    )

    assert (config.n_heads, config.n_kv_heads, config.head_dim) == (8, 4, 256)
    assert (config.vocab_size, config.sliding_window, config.rope_factor) == (262_208, 1024, 8.0)
    assert [i for i in range(34) if config.is_global(i)] == [5, 11, 17, 23, 29]


def test_every_wrong_tensor_is_listed_at_once(copy: Path) -> None:
    def damage(tensors: dict[str, np.ndarray]) -> None:
        del tensors["model.norm.weight"]
        tensors["model.layers.3.mlp.up_proj.weight"] = np.zeros((5, 5), np.float32)
        tensors["model.layers.9.extra.weight"] = np.zeros(3, np.float32)
        tensors["model.layers.0.self_attn.q_norm.weight"] = np.zeros(32, np.int32)

    edit_tensors(copy, damage)

    with pytest.raises(ModelCorrupt) as caught:
        open_model(copy)
    message = str(caught.value)
    assert "4 mismatch" in message
    for part in (
        "norm.weight is missing",
        "layers.3.mlp.up_proj.weight has shape (5, 5), expected (128, 64)",
        "layers.9.extra.weight is not part of this model",
        "layers.0.self_attn.q_norm.weight has dtype I32",
    ):
        assert part in message


def test_truncated_weights_are_refused(copy: Path) -> None:
    file = copy / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])

    with pytest.raises(ModelCorrupt, match="truncated or damaged"):
        open_model(copy)


def test_a_header_that_lies_is_refused(copy: Path) -> None:
    file = copy / "model.safetensors"
    file.write_bytes((2**60).to_bytes(8, "little") + file.read_bytes()[8:])

    with pytest.raises(ModelCorrupt, match="not a readable safetensors"):
        open_model(copy)


def test_a_pickle_with_the_right_name_is_never_unpickled(copy: Path) -> None:
    import pickle

    (copy / "model.safetensors").write_bytes(pickle.dumps({"a": print}))

    with pytest.raises(ModelCorrupt, match="not a readable safetensors"):
        open_model(copy)


def test_manifest_reports_every_changed_file(
    copy: Path, manifest_writer: Callable[[Path], None]
) -> None:
    manifest_writer(copy)
    open_model(copy)
    weights = bytearray((copy / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (copy / "model.safetensors").write_bytes(weights)
    (copy / "tokenizer_config.json").unlink()
    with (copy / "config.json").open("a") as file:
        file.write(" ")

    with pytest.raises(ModelCorrupt) as caught:
        open_model(copy)
    message = str(caught.value)
    assert "model.safetensors has another SHA-256" in message
    assert "tokenizer_config.json is missing" in message
    assert "config.json has" in message


def test_a_file_the_manifest_does_not_vouch_for_is_refused(
    copy: Path, manifest_writer: Callable[[Path], None]
) -> None:
    manifest_writer(copy)
    shutil.copy(copy / "model.safetensors", copy / "more.safetensors")

    with pytest.raises(ModelCorrupt, match=r"more\.safetensors is not in the manifest"):
        open_model(copy)


def test_manifest_cannot_name_files_elsewhere(copy: Path) -> None:
    (copy / "manifest.json").write_text(json.dumps({"files": {"../x": {"sha256": ""}}}))

    with pytest.raises(ModelCorrupt, match="must not contain folders"):
        open_model(copy)


def test_missing_files_are_named(copy: Path, tmp_path: Path) -> None:
    (copy / "tokenizer.json").unlink()
    (copy / "config.json").unlink()

    with pytest.raises(ModelNotFound, match=r"config\.json, tokenizer\.json"):
        open_model(copy)
    with pytest.raises(ModelNotFound, match="No model folder"):
        open_model(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"model_type": "llama"}, "model_type is 'llama'"),
        ({"num_attention_heads": 3}, "not a multiple"),
        ({"hidden_size": "64"}, "hidden_size is '64'"),
        ({"final_logit_softcapping": 30.0}, "final_logit_softcapping is 30.0"),
        ({"quantization": {"group_size": 48, "bits": 3}}, "3 bits in groups of 48"),
        ({"layer_types": ["full_attention"] * 6}, "layer_types"),
        ({"rope_scaling": {"rope_type": "linear", "factor": 4.0}}, "rope_scaling has 4.0"),
    ],
)
def test_configs_we_cannot_run_are_refused(
    copy: Path, changes: dict[str, Any], expected: str
) -> None:
    edit_config(copy, **changes)

    with pytest.raises(ModelUnsupported, match=expected):
        open_model(copy)


def test_broken_config_and_tokenizer_are_refused(copy: Path) -> None:
    (copy / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelCorrupt, match="not a readable tokenizer"):
        open_tokenizer(open_model(copy))

    (copy / "config.json").write_text("{")
    with pytest.raises(ModelCorrupt, match="not valid JSON"):
        open_model(copy)
