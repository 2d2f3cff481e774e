"""A few steps on a tiny model: what is trained, what stays, and that a killed run goes on as if it had not been."""

from __future__ import annotations

import json
import math
import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import nn
from torch.nn import functional
from transformers import Gemma3ForCausalLM

from adapters.format import JSON_NAME, WEIGHTS_NAME, parse_manifest
from pushkin_runtime.tokenizer import TextTokenizer
from training import checkpoint
from training.adapter_export import save_peft
from training.completion_trainer import frozen_head_loss
from training.evaluate_task import completion_scores
from training.export import export
from training.lora_model import (
    LoraSettings,
    adapter_tensors,
    attach_adapter,
    attach_lora,
    load_base,
    target_pattern,
)
from training.optimizers import OptimizerSettings, make_optimizers
from training.presets import PRESETS
from training.task_examples import Pair, TaskExample, rephrase_example, write_examples
from training.task_lora import TaskRun, finish, ordered_rows, train
from training.tokenizer import save_tokenizer

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")

_LORA = LoraSettings(rank=4, dropout=0.0)


@pytest.fixture(scope="module")
def run(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> TaskRun:
    """A tiny INT4 base, 200 rephrase examples, and settings that learn from them quickly."""
    torch.set_num_threads(1)
    torch.manual_seed(1)
    root = tmp_path_factory.mktemp("lora")
    model = Gemma3ForCausalLM(PRESETS["tiny"].config())
    saved = checkpoint.save(
        root / "run", model, make_optimizers(model, OptimizerSettings()), checkpoint.TrainState()
    )
    save_tokenizer(tokenizer, root / "tokenizer")
    export(saved, root / "tokenizer", root / "base")
    (root / "examples").mkdir()
    write_examples(root / "examples" / "train.jsonl", _examples(tokenizer))
    return TaskRun(
        "rephrase",
        root / "base",
        root / "examples",
        root / "out",
        steps=20,
        batch=4,
        learning_rate=1e-2,
    )


def _examples(tokenizer: Tokenizer) -> list[TaskExample]:
    rng, words = (
        random.Random(0),
        ["the", "old", "house", "river", "stood", "by", "and", "she", "said"],
    )
    text_tokenizer = TextTokenizer(tokenizer, 512)
    texts = [" ".join(rng.choices(words, k=rng.randrange(3, 7))) for _ in range(200)]
    made = (rephrase_example(text_tokenizer, Pair("en", "copy", "g", text, text)) for text in texts)
    return [example for example in made if example is not None]


@pytest.fixture(scope="module")
def trained(run: TaskRun) -> tuple[TaskRun, Path, list[float]]:
    """A finished run, its adapter, and the loss of each step."""
    trainer = train(run, _LORA)
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return run, finish(trainer, run, _LORA), losses


def _loss(model: nn.Module, tokenizer: Tokenizer) -> float:
    return completion_scores(model.eval(), _examples(tokenizer)[:40]).per_token


def test_twenty_steps_lower_the_loss(trained: tuple[TaskRun, Path, list[float]]) -> None:
    _, _, losses = trained
    assert len(losses) == 20
    assert sum(losses[-3:]) < sum(losses[:3]) - 3 * 0.2


def test_the_adapter_is_safetensors_alone_in_both_formats(
    trained: tuple[TaskRun, Path, list[float]],
) -> None:
    run, adapter, _ = trained
    assert {path.name for path in adapter.iterdir()} == {JSON_NAME, WEIGHTS_NAME}
    manifest = parse_manifest((adapter / JSON_NAME).read_bytes(), "rephrase")
    assert (manifest.task, manifest.stage, manifest.scale) == ("rephrase", "task", 2.0)
    assert manifest.training["steps"] == 20
    ours = load_file(adapter / WEIGHTS_NAME)
    theirs = load_file(run.out / "peft" / "adapter_model.safetensors")
    assert {tensor.dtype for tensor in ours.values()} == {torch.bfloat16}
    name = "layers.3.mlp.gate_proj"
    assert torch.equal(
        ours[f"{name}.lora_b"], theirs[f"base_model.model.model.{name}.lora_B.weight"]
    )
    report = json.loads((run.out / "run.json").read_text(encoding="utf-8"))
    assert report["intruders"]["matrices"] == 42
    assert set(report["intruders"]["modules"][name]) == {"intruders", "noise", "relative_norm"}


def test_pefts_own_loader_gives_the_same_model(
    trained: tuple[TaskRun, Path, list[float]], tokenizer: Tokenizer
) -> None:
    run, adapter, _ = trained
    ours = attach_adapter(load_base(run.base), adapter)
    theirs = PeftModel.from_pretrained(load_base(run.base), run.out / "peft")
    assert _loss(ours, tokenizer) == pytest.approx(_loss(theirs, tokenizer), abs=1e-6)


def test_a_clone_starts_at_its_parents_loss(
    trained: tuple[TaskRun, Path, list[float]], tokenizer: Tokenizer
) -> None:
    run, adapter, losses = trained
    parent = _loss(attach_adapter(load_base(run.base), adapter), tokenizer)
    for folder in (adapter, run.out / "peft"):
        child = attach_lora(load_base(run.base), _LORA, folder)
        assert _loss(child, tokenizer) == pytest.approx(parent, abs=1e-6)
    assert parent < losses[0] - 0.2
    with pytest.raises(ValueError, match=r"expected \(8, 64\).*|its scale"):
        attach_lora(load_base(run.base), replace(_LORA, rank=8, alpha=8.0), adapter)


def test_a_stopped_run_ends_where_an_uninterrupted_one_does(run: TaskRun, tmp_path: Path) -> None:
    whole = replace(run, steps=4, out=tmp_path / "whole")
    halted = replace(whole, out=tmp_path / "halted")
    expected = adapter_tensors(train(whole, _LORA).model)
    stopped = train(replace(halted, max_minutes=1e-9), _LORA)
    assert stopped.state.global_step == 1
    resumed = train(halted, _LORA)
    assert resumed.state.global_step == 4
    got = adapter_tensors(resumed.model)
    assert all(torch.equal(got[name], expected[name]) for name in expected)
    finished = train(halted, _LORA)
    assert finished.state.global_step == 4
    again = adapter_tensors(finished.model)
    assert all(torch.equal(again[name], expected[name]) for name in expected)


def test_frozen_a_stays_bit_equal_while_b_learns(run: TaskRun, tmp_path: Path) -> None:
    lora = replace(_LORA, freeze_a=True)
    torch.manual_seed(run.seed)
    before = adapter_tensors(attach_lora(load_base(run.base), lora))
    after = adapter_tensors(train(replace(run, steps=2, out=tmp_path), lora).model)
    changed = {name for name in after if not torch.equal(after[name], before[name])}
    assert changed == {name for name in after if name.endswith(".lora_b")}


def test_targets_are_the_language_models_alone() -> None:
    import re

    pattern = re.compile(target_pattern(("q", "down")))
    for name in (
        "model.layers.0.self_attn.q_proj",
        "model.language_model.layers.11.mlp.down_proj",
        "language_model.model.layers.3.self_attn.q_proj",
    ):
        assert pattern.fullmatch(name)
    for name in (
        "model.vision_tower.vision_model.encoder.layers.0.self_attn.q_proj",
        "vision_tower.vision_model.encoder.layers.0.mlp.down_proj",
        "model.layers.0.self_attn.k_proj",
        "lm_head",
    ):
        assert not pattern.fullmatch(name)


def test_rank_stabilising_divides_by_the_root_and_keeps_the_scale() -> None:
    assert LoraSettings().scale == LoraSettings(rank_stabilised=True).scale == 2.0
    assert LoraSettings(rank=64, rank_stabilised=True).effective_alpha == 16.0
    assert LoraSettings(rank=16, alpha=8.0, rank_stabilised=True).scale == 2.0
    with pytest.raises(ValueError, match="effective scale of 16"):
        LoraSettings(rank=64, alpha=128.0, rank_stabilised=True)
    with pytest.raises(ValueError, match="embed"):
        LoraSettings(targets=("q", "embed"))


def test_peft_scales_as_the_settings_say(run: TaskRun, tmp_path: Path) -> None:
    lora = LoraSettings(rank=4, alpha=6.0, rank_stabilised=True, targets=("v",))
    model = attach_lora(load_base(run.base), lora)
    scales = {
        module.scaling["default"] for module in model.modules() if isinstance(module, LoraLayer)
    }
    assert scales == {6.0 / math.sqrt(4)}
    save_peft(model, tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text(encoding="utf-8"))
    assert (config["use_rslora"], config["lora_alpha"]) == (True, 6.0)


def test_the_loss_of_the_frozen_head_is_cross_entropy_with_its_gradient() -> None:
    torch.manual_seed(0)
    states = torch.randn(300, 16, requires_grad=True)
    weight, targets = torch.randn(50, 16), torch.randint(0, 50, (300,))
    expected = functional.cross_entropy(states @ weight.T, targets, reduction="sum")
    (by_states,) = torch.autograd.grad(3.0 * expected, states)
    loss = frozen_head_loss(states, weight, targets, half=False)
    (3.0 * loss).backward()
    assert states.grad is not None
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)
    torch.testing.assert_close(states.grad, by_states, rtol=1e-4, atol=1e-4)


def test_rows_keep_the_curriculum_and_fill_whole_batches(tokenizer: Tokenizer) -> None:
    examples = _examples(tokenizer)
    rows = ordered_rows(examples, batch=8, max_length=40, seed=0)
    again = ordered_rows(examples, batch=8, max_length=40, seed=0)
    assert rows == again
    assert len(rows) % 8 == 0
    fitting = [example for example in examples if example.n_tokens <= 40]
    first = {tuple(row["input_ids"]) for row in rows[:128]}
    assert first <= {(*each.prompt, *each.completion) for each in fitting[:128]}
    assert all(
        max(map(len, batch)) - min(map(len, batch)) < 12
        for batch in ([r["input_ids"] for r in rows[i : i + 8]] for i in range(0, len(rows), 8))
    )
