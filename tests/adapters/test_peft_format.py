"""PEFT's checkpoints come in and go out exactly, with the factor PEFT itself uses; the rest is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.numpy import load_file, save_file
from transformers import Gemma3ForCausalLM, Gemma3TextConfig

from adapters.draft import Draft, Provenance
from adapters.errors import AdapterCorrupt, AdapterNotFound, AdapterUnsupported
from adapters.format import BaseModel
from adapters.install import write
from adapters.peft_format import export_peft, import_peft
from adapters.registry import read_weights

# peft 0.21 asks transformers 5.23 by the older name
pytestmark = pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"
)

BRIEF = ["k_proj", "v_proj", "o_proj", "gate_proj", "up_proj"]
ALL = ["q_proj", *BRIEF, "down_proj"]
CONFIG = Gemma3TextConfig(
    vocab_size=64,
    hidden_size=48,
    intermediate_size=80,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=16,
    sliding_window=16,
)


@pytest.fixture
def model() -> Gemma3ForCausalLM:
    torch.manual_seed(0)
    return Gemma3ForCausalLM(CONFIG).eval()


def trained(model: Gemma3ForCausalLM, **settings: Any) -> PeftModel:
    """A LoRA whose B is random, as after training."""
    lora = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **settings))
    with torch.no_grad():
        for name, parameter in lora.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
    return lora


@pytest.fixture
def checkpoint(tmp_path: Path, model: Gemma3ForCausalLM) -> Path:
    lora = trained(model, r=4, lora_alpha=8, target_modules=["q_proj", "up_proj"])
    lora.save_pretrained(tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


def edit_config(folder: Path, **changes: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("rslora", [False, True], ids=["plain", "rslora"])
@pytest.mark.parametrize("targets", [BRIEF, ALL], ids=["brief", "all"])
def test_the_update_of_every_module_is_pefts(
    model: Gemma3ForCausalLM, base: BaseModel, tmp_path: Path, rslora: bool, targets: list[str]
) -> None:
    lora = trained(model, r=64, lora_alpha=128, use_rslora=rslora, target_modules=targets)
    lora.save_pretrained(tmp_path / "checkpoint")

    draft = import_peft(
        tmp_path / "checkpoint",
        name="brief",
        base=base,
        provenance=Provenance(task="continue", stage="task", languages=("en", "ru")),
    )
    weights = read_weights(write(draft, tmp_path / "adapters"))

    assert weights.scale == (16.0 if rslora else 2.0)
    assert len(weights.modules) == 3 * len(targets)
    for module, (a, b) in weights.modules.items():
        layer = lora.base_model.model.model.get_submodule(module)
        expected = layer.get_delta_weight("default").detach().numpy()
        assert np.abs(weights.scale * (b @ a) - expected).max() <= 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_there_and_back_again_is_the_same_file(
    base: BaseModel, make_draft: Callable[..., Draft], tmp_path: Path, dtype: str
) -> None:
    ours = write(make_draft(dtype=dtype, rslora=True, alpha=6.5), tmp_path / "adapters")

    export_peft(ours, read_weights(ours), base, tmp_path / "peft")
    again = write(import_peft(tmp_path / "peft", name="quiet", base=base), tmp_path / "again")

    assert again.manifest == ours.manifest


@pytest.mark.parametrize("partial", [False, True], ids=["every layer", "some modules"])
def test_peft_loads_what_is_exported(
    model: Gemma3ForCausalLM,
    base: BaseModel,
    make_draft: Callable[..., Draft],
    make_modules: Callable[..., Any],
    tmp_path: Path,
    partial: bool,
) -> None:
    modules = make_modules(4, targets=["self_attn.q_proj", "mlp.down_proj"])
    if partial:
        del modules["layers.1.self_attn.q_proj"]
    ours = write(make_draft(modules=modules), tmp_path / "adapters")
    export_peft(ours, read_weights(ours), base, tmp_path / "peft")

    lora = PeftModel.from_pretrained(model, tmp_path / "peft")

    adapted = {name for name, _ in lora.named_modules() if name.endswith("lora_A")}
    assert len(adapted) == len(modules)
    for module, (a, b) in modules.items():
        layer = lora.base_model.model.model.get_submodule(module)
        delta = layer.get_delta_weight("default").detach().numpy()
        assert np.allclose(delta, 2.0 * (b @ a), atol=1e-4)


@pytest.mark.parametrize(
    "layout",
    [
        "base_model.model.model.",
        "base_model.model.language_model.model.",
        "base_model.model.model.language_model.",
    ],
)
def test_the_layouts_of_the_multimodal_class_are_read(
    base: BaseModel, make_draft: Callable[..., Draft], tmp_path: Path, layout: str
) -> None:
    ours = write(make_draft(dtype="bfloat16"), tmp_path / "adapters")
    export_peft(ours, read_weights(ours), base, tmp_path / "peft")
    path = tmp_path / "peft" / "adapter_model.safetensors"
    tensors = load_file(path)
    save_file({n.replace("base_model.model.model.", layout): t for n, t in tensors.items()}, path)

    again = write(import_peft(tmp_path / "peft", name="quiet", base=base), tmp_path / "again")

    assert again.manifest.sha256 == ours.manifest.sha256


def test_lora_of_a_vision_tower_is_refused_or_left_out(checkpoint: Path, base: BaseModel) -> None:
    path = checkpoint / "adapter_model.safetensors"
    vision = "base_model.model.model.vision_tower.vision_model.encoder.layers.0.self_attn.q_proj"
    extra = {f"{vision}.lora_{part}.weight": np.ones((4, 4), np.float32) for part in "AB"}
    save_file(load_file(path) | extra, path)

    with pytest.raises(AdapterUnsupported, match="2 tensors are of the vision tower"):
        import_peft(checkpoint, name="a", base=base)
    assert len(import_peft(checkpoint, name="a", base=base, drop_vision=True).modules) == 6


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"use_dora": True}, "use_dora"),
        ({"bias": "lora_only"}, "bias"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"rank_pattern": {"q_proj": 8}}, "rank_pattern"),
        ({"alpha_pattern": {"q_proj": 9}}, "alpha_pattern"),
        ({"trainable_token_indices": [1, 2]}, "trainable_token_indices"),
        ({"layer_replication": [[0, 2]]}, "layer_replication"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out"),
        ({"init_lora_weights": "pissa_niter_4"}, "changes the base too"),
        ({"kasa_config": {"beta": 1}}, "kasa_config"),
        ({"made_tomorrow": 1}, "made_tomorrow"),
        ({"peft_type": "IA3"}, "not of a LoRA"),
        ({"r": 4096}, "at most 128"),
        ({"lora_alpha": 10**400}, "at most"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_is_more_than_lora_is_refused_by_name(
    checkpoint: Path, base: BaseModel, changes: dict[str, Any], said: str
) -> None:
    edit_config(checkpoint, **changes)

    with pytest.raises(AdapterUnsupported, match=said):
        import_peft(checkpoint, name="a", base=base)


def test_patterns_that_say_the_same_for_all_are_taken(checkpoint: Path, base: BaseModel) -> None:
    edit_config(checkpoint, rank_pattern={"q_proj": 4}, alpha_pattern={"up_proj": 8})

    assert import_peft(checkpoint, name="a", base=base).rank == 4


def test_a_pickle_is_never_opened(checkpoint: Path, base: BaseModel) -> None:
    weights = checkpoint / "adapter_model.safetensors"
    weights.unlink()
    torch.save({}, checkpoint / "adapter_model.bin")
    with pytest.raises(AdapterUnsupported, match=r"adapter_model\.bin is there, a pickle"):
        import_peft(checkpoint, name="a", base=base)

    (checkpoint / "adapter_model.bin").rename(weights)
    with pytest.raises(AdapterUnsupported, match="looks like a zip archive"):
        import_peft(checkpoint, name="a", base=base)


def test_a_folder_of_hugging_faces_cache_is_read(
    checkpoint: Path, base: BaseModel, tmp_path: Path
) -> None:
    """There every file is a link to a blob."""
    (tmp_path / "snapshot").mkdir()
    for path in checkpoint.iterdir():
        (tmp_path / "snapshot" / path.name).symlink_to(path)

    assert import_peft(tmp_path / "snapshot", name="a", base=base).rank == 4


def test_tensors_without_a_place_are_refused(checkpoint: Path, base: BaseModel) -> None:
    path = checkpoint / "adapter_model.safetensors"
    tensors = load_file(path)
    tensors["base_model.model.model.embed_tokens.lora_embedding_A"] = np.ones((4, 4), np.float32)
    tensors["base_model.model.lm_head.lora_A.weight"] = np.ones((4, 4), np.float32)
    del tensors["base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight"]
    save_file(tensors, path)

    with pytest.raises(AdapterUnsupported) as caught:
        import_peft(checkpoint, name="a", base=base)

    for part in ("embed_tokens", "lm_head", "q_proj has only one of its two matrices"):
        assert part in str(caught.value)


def test_a_folder_that_is_no_checkpoint_is_named(tmp_path: Path, base: BaseModel) -> None:
    with pytest.raises(AdapterNotFound, match=r"adapter_config\.json is missing"):
        import_peft(tmp_path, name="a", base=base)
    (tmp_path / "adapter_config.json").write_text("[1")
    with pytest.raises(AdapterCorrupt, match="not valid JSON"):
        import_peft(tmp_path, name="a", base=base)


def test_mixed_dtypes_become_float32_which_holds_them(checkpoint: Path, base: BaseModel) -> None:
    path = checkpoint / "adapter_model.safetensors"
    tensors = load_file(path)
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
    tensors[name] = tensors[name].astype(ml_dtypes.bfloat16)
    save_file(tensors, path)

    weights = read_weights(
        write(import_peft(checkpoint, name="a", base=base), checkpoint / "adapters")
    )

    a, b = weights.modules["layers.0.self_attn.q_proj"]
    assert a.dtype == b.dtype == np.float32
    assert np.array_equal(a, tensors[name].astype(np.float32))
