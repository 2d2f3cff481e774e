"""Train a task adapter: `python -m training.task_lora --task rephrase --base DIR --examples DIR --out DIR`.

Supervised fine-tuning by TRL on the frozen base. An INT4 base is dequantised to the very weights it
serves with, so that the adapter also wins back what rounding lost. The prompt is masked. A run in
`--out` is continued, after a kill too. `accelerate launch -m training.task_lora ...` is meant to work as it is.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import (
    AutoTokenizer,
    PrinterCallback,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer_utils import get_last_checkpoint
from trl.trainer.sft_config import SFTConfig

from training.adapter_export import Made, intruders_of, save_adapter
from training.checkpoint import write_atomic
from training.completion_trainer import CompletionTrainer
from training.lora_model import LoraSettings, attach_lora, load_base, load_weights
from training.progress import Metrics, Reporter, plot_loss, reporting
from training.stopping import stop_signals
from training.task_examples import TASKS, TaskExample, read_examples

WARMUP_SHARE = 0.03
_LAST_LOSSES = 50
_BUCKET_BATCHES = 16  # batches are made of like lengths within so many


@dataclass(frozen=True)
class TaskRun:
    """One call of the trainer. `batch` sequences a process and micro-step; steps are updates."""

    task: str
    base: Path
    examples: Path
    out: Path
    parent: Path | None = None
    steps: int = 1000
    batch: int = 32
    accumulate: int = 1
    max_length: int = 1024
    learning_rate: float = 1e-4
    weight_decay: float = 0.01
    seed: int = 0
    precision: str = "no"  # or bf16
    gradient_checkpointing: bool = False
    save_every: int = 200
    max_minutes: float = 0.0


def ordered_rows(
    examples: Sequence[TaskExample], batch: int, max_length: int, seed: int
) -> list[dict[str, list[int]]]:
    """Training rows, the order of `examples` kept but for buckets of like lengths, so little is padding.

    Too long examples are left out, and so is what does not fill the last batch.
    """
    rng = random.Random(seed)
    fitting = [example for example in examples if example.n_tokens <= max_length]
    n_whole = len(fitting) // batch * batch
    rows: list[dict[str, list[int]]] = []
    for start in range(0, n_whole, batch * _BUCKET_BATCHES):
        block = sorted(
            fitting[start : min(n_whole, start + batch * _BUCKET_BATCHES)],
            key=lambda example: example.n_tokens,
        )
        batches = [block[index : index + batch] for index in range(0, len(block), batch)]
        rng.shuffle(batches)
        rows += [example.training_row() for own in batches for example in own]
    return rows


class _Watch(TrainerCallback):
    """Passes each step's figures on, and ends the run on a signal or when its time is over."""

    def __init__(self, run: TaskRun, report: Reporter, received: list[int]) -> None:
        self._run, self._report, self._received = run, report, received
        self._began = self._last = time.monotonic()
        self._n_tokens = 0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._n_tokens = int(state.num_input_tokens_seen)
        self._last = time.monotonic()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        overdue = 0 < self._run.max_minutes * 60 < time.monotonic() - self._began
        if self._received or overdue:
            control.should_training_stop = control.should_save = True

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if not state.is_world_process_zero or not logs or "loss" not in logs:
            return
        now, n_tokens = time.monotonic(), int(logs["num_input_tokens_seen"])
        took, new = max(1e-9, now - self._last), n_tokens - self._n_tokens
        self._last, self._n_tokens = now, n_tokens
        factor = float(logs["learning_rate"]) / self._run.learning_rate
        grad_norm = float(logs.get("grad_norm", 0.0))
        metrics = Metrics(
            state.global_step, n_tokens, float(logs["loss"]), factor, grad_norm, new / took, took
        )
        self._report(metrics)


def trainer_settings(run: TaskRun) -> SFTConfig:
    """TRL's configuration: AdamW (0.9, 0.95), cosine with 3 % of warm-up, clipping at 1."""
    return SFTConfig(
        output_dir=str(run.out / "checkpoints"),
        max_steps=run.steps,
        per_device_train_batch_size=run.batch,
        gradient_accumulation_steps=run.accumulate,
        learning_rate=run.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=max(1, round(WARMUP_SHARE * run.steps)),
        max_grad_norm=1.0,
        optim="adamw_torch",
        adam_beta1=0.9,
        adam_beta2=0.95,
        weight_decay=run.weight_decay,
        bf16=run.precision == "bf16",
        use_cpu=not torch.cuda.is_available(),
        dataloader_pin_memory=torch.cuda.is_available(),
        activation_checkpointing=run.gradient_checkpointing,
        activation_checkpointing_kwargs={"use_reentrant": False},
        train_sampling_strategy="sequential",
        max_length=run.max_length,
        dataset_kwargs={"skip_prepare_dataset": True},  # rows are cut and labelled already
        save_steps=run.save_every,
        save_total_limit=2,
        logging_steps=1,
        include_num_input_tokens_seen="non_padding",
        report_to="none",
        disable_tqdm=True,
        seed=run.seed,
        data_seed=run.seed,
        ddp_find_unused_parameters=False,
    )


def make_trainer(run: TaskRun, lora: LoraSettings) -> CompletionTrainer:
    """The model with its adapter, the rows in order and TRL's trainer around them."""
    torch.manual_seed(run.seed)
    model = attach_lora(load_base(run.base), lora, run.parent)
    examples = list(read_examples(run.examples, "train"))
    wrong = {example.task for example in examples} - {run.task}
    if wrong:
        raise ValueError(f"{run.examples} holds examples for {', '.join(wrong)}, not {run.task}")
    rows = ordered_rows(examples, run.batch, run.max_length, run.seed)
    trainer = CompletionTrainer(
        model=model,
        args=trainer_settings(run),
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(run.base),
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def train(run: TaskRun, lora: LoraSettings) -> CompletionTrainer:
    """Train, or go on training, to `run.steps`, the time budget or a signal; a checkpoint is left."""
    trainer = make_trainer(run, lora)
    checkpoints = run.out / "checkpoints"
    last = get_last_checkpoint(str(checkpoints)) if checkpoints.is_dir() else None
    done = int(last.rpartition("-")[2]) if last else 0
    if last and done >= run.steps:  # the trainer would take one more step
        model: Any = trainer.model
        load_weights(model, lora, Path(last))
        trainer.state = TrainerState.load_from_json(str(Path(last) / "trainer_state.json"))
        return trainer
    with stop_signals() as received, reporting(run.out, run.steps, done) as report:
        trainer.add_callback(_Watch(run, report, received))
        trainer.train(resume_from_checkpoint=last)
    if trainer.accelerator.is_main_process:
        plot_loss(run.out)
    return trainer


def finish(trainer: CompletionTrainer, run: TaskRun, lora: LoraSettings) -> Path:
    """Write the adapter in both formats and `run.json` with its settings and intruders; our folder's path."""
    model: Any = trainer.accelerator.unwrap_model(trainer.model)
    intruders = intruders_of(model, run.base, lora.scale)
    state = trainer.state
    losses = [entry["loss"] for entry in state.log_history if "loss" in entry][-_LAST_LOSSES:]
    facts = {
        "method": "LoRA-FA" if lora.freeze_a else "LoRA",
        "steps": state.global_step,
        "planned_steps": run.steps,
        "sequences_per_step": run.batch * run.accumulate * trainer.accelerator.num_processes,
        "tokens": state.num_input_tokens_seen,
        "learning_rate": run.learning_rate,
        "seed": run.seed,
        "precision": run.precision,
        "last_loss_nats": round(sum(losses) / max(1, len(losses)), 4),
        "intruders": intruders["intruders"],
        "intruders_noise_control": intruders["noise"],
    }
    content = {
        "run": {key: str(value) for key, value in asdict(run).items()},
        "lora": {**asdict(lora), "scale": lora.scale},
        "facts": facts,
        "intruders": intruders,
    }
    write_atomic(run.out / "run.json", json.dumps(content, indent=2) + "\n")
    made = Made(run.task, run.task, run.base, lora.scale, facts, run.parent)
    return save_adapter(model, made, run.out)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="training.task_lora", description=__doc__)
    run, lora = TaskRun("", Path(), Path(), Path()), LoraSettings()
    parser.add_argument("--task", choices=TASKS, required=True)
    parser.add_argument("--base", type=Path, required=True, help="model folder, INT4 or float")
    parser.add_argument("--examples", type=Path, required=True, help="made by training.task_data")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--parent", type=Path, help="adapter folder whose weights are the start")
    for name in ("steps", "batch", "accumulate", "max_length", "seed", "save_every"):
        parser.add_argument(_flag(name), type=int, default=getattr(run, name))
    for name in ("learning_rate", "weight_decay", "max_minutes"):
        parser.add_argument(_flag(name), type=float, default=getattr(run, name))
    parser.add_argument("--precision", choices=("no", "bf16"), default=run.precision)
    parser.add_argument("--gradient-checkpointing", action="store_true")
    parser.add_argument("--rank", type=int, default=lora.rank)
    parser.add_argument("--alpha", type=float, help="default: an effective scale of 2")
    parser.add_argument("--rank-stabilised", action="store_true", help="scale alpha / sqrt(rank)")
    parser.add_argument("--freeze-a", action="store_true", help="LoRA-FA: train B only")
    parser.add_argument("--dropout", type=float, default=lora.dropout)
    parser.add_argument("--targets", default=",".join(lora.targets), help="e.g. k,v,o,gate,up")
    parser.add_argument("--threads", type=int, default=0, help="torch threads, 0 keeps the default")
    return parser


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def main(argv: Sequence[str] | None = None) -> None:
    """Command line; see the module's docstring."""
    arguments = vars(_parser().parse_args(argv))
    threads = arguments.pop("threads")
    if threads:
        torch.set_num_threads(threads)
    targets = tuple(arguments.pop("targets").split(","))
    names = ("rank", "alpha", "rank_stabilised", "freeze_a", "dropout")
    lora = LoraSettings(targets=targets, **{name: arguments.pop(name) for name in names})
    run = TaskRun(**arguments)
    run.out.mkdir(parents=True, exist_ok=True)
    trainer = train(run, lora)
    if trainer.accelerator.is_main_process:
        print(finish(trainer, run, lora))


if __name__ == "__main__":
    main()
