"""mlx-lm's checkpoints come in and go out exactly, and mlx-lm itself loads what goes out."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx_lm.models.gemma3_text import Model, ModelArgs
from mlx_lm.tuner.utils import linear_to_lora_layers, load_adapters

from adapters.draft import Draft
from adapters.errors import AdapterCorrupt, AdapterNotFound, AdapterUnsupported
from adapters.format import BaseModel
from adapters.install import write
from adapters.mlx_lm_format import export_mlx_lm, import_mlx_lm
from adapters.registry import read_weights

MakeDraft = Callable[..., Draft]


@pytest.fixture
def model() -> nn.Module:
    mx.random.seed(0)
    arguments = ModelArgs(
        model_type="gemma3_text",
        hidden_size=48,
        num_hidden_layers=3,
        intermediate_size=80,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        vocab_size=64,
        sliding_window=16,
        sliding_window_pattern=3,
    )
    return Model(arguments)


@pytest.fixture
def exported(base: BaseModel, make_draft: MakeDraft, tmp_path: Path) -> Path:
    ours = write(make_draft(), tmp_path / "adapters")
    export_mlx_lm(ours, read_weights(ours), base, tmp_path / "mlx")
    return tmp_path / "mlx"


def edit_config(folder: Path, **changes: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_there_and_back_again_is_the_same_file(
    base: BaseModel, make_draft: MakeDraft, tmp_path: Path, dtype: str
) -> None:
    ours = write(make_draft(dtype=dtype, rslora=True, alpha=6.5), tmp_path / "adapters")

    export_mlx_lm(ours, read_weights(ours), base, tmp_path / "mlx")
    again = write(import_mlx_lm(tmp_path / "mlx", name="quiet", base=base), tmp_path / "again")

    assert again.manifest == ours.manifest


@pytest.mark.parametrize("partial", [False, True], ids=["every layer", "the last layers"])
def test_mlx_lm_loads_what_is_exported(
    model: nn.Module,
    base: BaseModel,
    make_draft: MakeDraft,
    make_modules: Callable[..., Any],
    tmp_path: Path,
    partial: bool,
) -> None:
    modules = make_modules(4, targets=["self_attn.q_proj", "mlp.down_proj"])
    if partial:
        modules = {name: pair for name, pair in modules.items() if name[7] != "0"}
        del modules["layers.2.self_attn.q_proj"]
    ours = write(make_draft(modules=modules, rslora=True), tmp_path / "adapters")
    export_mlx_lm(ours, read_weights(ours), base, tmp_path / "mlx")
    before = {
        name: np.array(value)
        for name, value in dict(nn.utils.tree_flatten(model.parameters())).items()
    }

    load_adapters(model, str(tmp_path / "mlx"))

    fused = {name: layer.fuse() for name, layer in model.named_modules() if hasattr(layer, "fuse")}
    assert fused.keys() >= {f"model.{module}" for module in modules}
    for module, (a, b) in modules.items():
        change = np.array(fused[f"model.{module}"].weight) - before[f"model.{module}.weight"]
        assert np.allclose(change, 4.0 * (b @ a), atol=1e-4)


def test_what_mlx_lm_saved_is_imported_with_its_scale(
    model: nn.Module, base: BaseModel, tmp_path: Path
) -> None:
    """`scale` is the factor itself; older versions wrote an `alpha` beside it that they did not use."""
    parameters = {"rank": 10, "scale": 20.0, "dropout": 0.0, "alpha": 16.0}
    linear_to_lora_layers(model, 2, parameters | {"keys": ["self_attn.v_proj"]})
    for name, layer in model.named_modules():
        if name.endswith("v_proj") and hasattr(layer, "lora_b"):
            layer.lora_b = mx.random.normal(layer.lora_b.shape)
    adapters = {
        name: value
        for name, value in nn.utils.tree_flatten(model.parameters())
        if name.endswith(("lora_a", "lora_b"))
    }
    mx.save_safetensors(str(tmp_path / "adapters.safetensors"), adapters)
    (tmp_path / "adapter_config.json").write_text(
        json.dumps({"fine_tune_type": "lora", "num_layers": 2, "lora_parameters": parameters})
    )

    draft = import_mlx_lm(tmp_path, name="a", base=base)
    weights = read_weights(write(draft, tmp_path / "installed"))

    assert (weights.scale, draft.alpha, draft.rslora) == (20.0, 200.0, False)
    assert weights.modules.keys() == {f"layers.{i}.self_attn.v_proj" for i in (1, 2)}
    for module, (a, b) in weights.modules.items():
        assert np.array_equal(a.T, np.array(adapters[f"model.{module}.lora_a"]))
        assert np.array_equal(b.T, np.array(adapters[f"model.{module}.lora_b"]))


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"fine_tune_type": "dora"}, AdapterUnsupported, "only lora"),
        ({"fine_tune_type": "full"}, AdapterUnsupported, "only lora"),
        ({"lora_parameters": None}, AdapterUnsupported, "not mlx-lm's"),
        ({"lora_parameters": {"rank": 4}}, AdapterCorrupt, "scale None"),
        ({"lora_parameters": {"rank": 4096, "scale": 1}}, AdapterUnsupported, "at most 128"),
        ({"lora_parameters": {"rank": 4, "scale": 10**400}}, AdapterUnsupported, "at most"),
    ],
    ids=["dora", "full", "none", "scale", "rank", "huge"],
)
def test_what_is_not_lora_is_refused(
    exported: Path, base: BaseModel, changes: dict[str, Any], error: type[Exception], said: str
) -> None:
    edit_config(exported, **changes)

    with pytest.raises(error, match=said):
        import_mlx_lm(exported, name="a", base=base)


def test_a_folder_that_is_no_checkpoint_is_named(tmp_path: Path, base: BaseModel) -> None:
    with pytest.raises(AdapterNotFound, match=r"adapter_config\.json is missing"):
        import_mlx_lm(tmp_path, name="a", base=base)
    (tmp_path / "adapter_config.json").write_text("{" * 100_000)
    with pytest.raises(AdapterCorrupt, match="not valid JSON"):
        import_mlx_lm(tmp_path, name="a", base=base)
