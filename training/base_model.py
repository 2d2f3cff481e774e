"""Train the embedded base model from scratch: `python -m training.base_model --out DIR ...`.

Gemma 3's architecture from transformers, packed rows, Muon + AdamW, warm-up–stable–decay. The
stable phase runs to `--steps`; run again with `--decay-steps` to finish from its last checkpoint
(and with `--end-in-steps` to end the decay sooner or later than planned). Where time is what is
given, `--max-minutes M --decay-minutes D` decays for the last D of M minutes, by the speed so far.
A run in a new `--out` may `--start` from the weights of another; `--unlikelihood` is the last such one,
which unlearns the loops of greedy decoding (`training.unlikelihood`).
Runs on one CPU or GPU, and unchanged under `accelerate launch` on several.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from transformers import Gemma3ForCausalLM

from training import checkpoint
from training.checkpoint import TrainState
from training.fake_quant import quantized_weights
from training.loss import RowLoss
from training.optimizers import Optimizers, OptimizerSettings, Schedule, make_optimizers
from training.presets import PRESETS, new_model
from training.progress import Metrics, plot_loss, reporting
from training.shards import RowOrder, load_order
from training.stopping import stop_signals
from training.tokenizer import TOKENIZER_FILES
from training.unlikelihood import OPENING_TOKENS, OwnWriting, repeated_tokens

REPLAN_EVERY = 24  # steps of a decay by the clock; rounds of continuations fit in it


@dataclass(frozen=True)
class RunSettings:
    """One call of the trainer. `rows_per_step` counts shard rows over all processes."""

    out: Path
    shards: Path
    preset: str = "mini-cpu"
    steps: int = 0  # stop here at the latest; 0 means at the end of the decay
    decay_steps: int = 0
    decay_minutes: float = 0.0
    end_in_steps: int = 0
    warmup_steps: int = 60
    rows_per_step: int = 8
    microbatch_rows: int = 4
    seq_len: int = 512
    seed: int = 0
    precision: str = "no"  # accelerate's names: no or bf16
    compiled: bool = False
    quantized: bool = False
    quantized_decay: bool = False
    start: Path | None = None
    unlikelihood: float = 0.0  # weight of that loss beside a weight of 1 for the corpus
    continuations: int = 16  # of the model's own a step, over all processes
    continuation_length: int = 256  # tokens, the opening among them
    continuation_steps: int = 1  # that one decoding serves
    max_minutes: float = 0.0
    save_every: int = 200
    keep: int = 2

    def __post_init__(self) -> None:
        if self.decay_minutes and not self.max_minutes:
            raise ValueError("--decay-minutes are the last ones of --max-minutes: give both")
        if self.continuation_steps < 1:
            raise ValueError(f"continuation_steps {self.continuation_steps}: at least 1")


@dataclass(frozen=True)
class Trainer:
    """What a run holds while it lasts; made by `prepare`, used by one thread."""

    settings: RunSettings
    accelerator: Accelerator
    model: Gemma3ForCausalLM
    loss: Any  # RowLoss, wrapped by accelerate
    optimizers: Optimizers
    order: RowOrder
    writing: OwnWriting


def prepare(settings: RunSettings, rates: OptimizerSettings) -> tuple[Trainer, TrainState]:
    """Build or restore a run. A run in `settings.out` is continued, with its own step count."""
    accelerator = Accelerator(mixed_precision=settings.precision)
    shared = ("rows_per_step", "continuations") if settings.unlikelihood else ("rows_per_step",)
    for name in shared:
        if getattr(settings, name) % accelerator.num_processes:
            raise ValueError(
                f"{name} {getattr(settings, name)} cannot be shared by "
                f"{accelerator.num_processes} processes: choose a multiple"
            )
    torch.manual_seed(settings.seed)
    model = new_model(PRESETS[settings.preset].config())
    model.config._attn_implementation = "sdpa"
    model.to(accelerator.device)
    optimizers = make_optimizers(model, rates)
    state = TrainState()
    found = checkpoint.latest(settings.out)
    if found is not None:
        state = checkpoint.load(found, model, optimizers)
    elif settings.start is not None:
        load_start(settings.start, model, settings.seed)
    loss = accelerator.prepare(RowLoss(model, settings.compiled))
    order = load_order(settings.shards, settings.seed)
    row_length = order.row_length
    if row_length % settings.seq_len or settings.microbatch_rows < 1:
        raise ValueError(
            f"seq_len {settings.seq_len} does not divide the shards' rows of {row_length} tokens, "
            f"or microbatch_rows {settings.microbatch_rows} is below 1"
        )
    if settings.continuation_length <= 2 * OPENING_TOKENS[1]:
        raise ValueError(
            f"continuation_length {settings.continuation_length} leaves too little after an opening "
            f"of up to {OPENING_TOKENS[1]} tokens: give more than {2 * OPENING_TOKENS[1]}"
        )
    if settings.decay_steps and state.decay_start is None:
        state = replace(state, decay_start=state.step, decay_steps=settings.decay_steps)
    if settings.end_in_steps:
        state = replan_decay(state, settings.end_in_steps)
    writing = OwnWriting(
        order,
        settings.continuations // accelerator.num_processes,
        settings.continuation_length,
        settings.continuation_steps,
        accelerator.process_index,
        accelerator.num_processes,
    )
    return Trainer(settings, accelerator, model, loss, optimizers, order, writing), state


def load_start(path: Path, model: Gemma3ForCausalLM, seed: int) -> None:
    """Begin from the weights of a checkpoint, or from some that INT4 could have rounded to an export's."""
    config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    if "quantization" not in config:
        return checkpoint.load_weights(path, model)
    from training.export import dequantized_weights  # needs MLX, which a GPU's machine may lack

    return checkpoint.load_weights(path, model, dequantized_weights(path, spread_seed=seed))


def replan_decay(state: TrainState, steps_left: int) -> TrainState:
    """End a decay that has begun in `steps_left` steps, from the rate that it has reached.

    For a machine that turned out faster or slower than planned. Raises ValueError in the stable phase.
    """
    if state.decay_start is None:
        raise ValueError("there is no decay to end yet: start it with --decay-steps")
    done = state.step - state.decay_start
    left = max(1, state.decay_steps - done) / state.decay_steps
    decay_steps = round(steps_left / left)
    return replace(
        state, decay_start=state.step + steps_left - decay_steps, decay_steps=decay_steps
    )


@dataclass(frozen=True)
class StepFigures:
    """Of one update, over all processes: mean loss (nats a token), gradient norm, `Metrics.repeated`."""

    loss: Tensor
    grad_norm: Tensor
    repeated: Tensor | None


def train_step(
    trainer: Trainer, state: TrainState, factor: float
) -> tuple[TrainState, StepFigures]:
    """One optimiser update; the new state and what it measured."""
    settings, accelerator = trainer.settings, trainer.accelerator
    n_own = settings.rows_per_step // accelerator.num_processes
    first = state.position + n_own * accelerator.process_index
    rows = torch.from_numpy(trainer.order.batch(first, n_own).astype("int64"))
    rows = rows.to(accelerator.device)
    inputs = rows[:, :-1].reshape(-1, settings.seq_len)
    targets = rows[:, 1:].reshape(-1, settings.seq_len)
    n_sequences = settings.microbatch_rows * (rows.shape[1] - 1) // settings.seq_len
    n_targets = targets.numel()
    total = torch.zeros((), device=accelerator.device)
    repeated = None
    trainer.loss.train()
    is_decay = state.decay_start is not None
    quantized = settings.quantized or (settings.quantized_decay and is_decay)
    with quantized_weights(trainer.model, quantized):
        for start in range(0, len(inputs), n_sequences):
            part = slice(start, start + n_sequences)
            loss = trainer.loss(inputs[part], targets[part]) / n_targets
            accelerator.backward(loss)
            total += loss.detach()
        if settings.unlikelihood:
            repeated = accelerator.reduce(_unlearn_repeats(trainer, state.step), "mean")
    norm = accelerator.clip_grad_norm_(
        trainer.model.parameters(), trainer.optimizers.settings.grad_clip
    )
    trainer.optimizers.step(factor)
    moved = replace(
        state,
        step=state.step + 1,
        position=state.position + settings.rows_per_step,
        tokens=state.tokens + n_targets * accelerator.num_processes,
    )
    return moved, StepFigures(accelerator.reduce(total, "mean"), norm, repeated)


def _unlearn_repeats(trainer: Trainer, step: int) -> Tensor:
    """Add the gradients of what the model repeats in continuations of its own; the share of it."""
    settings, accelerator = trainer.settings, trainer.accelerator
    with accelerator.autocast():
        tokens, n_opening = trainer.writing.of_step(trainer.model, step)
    eos: Any = trainer.model.config.eos_token_id
    unlikely = repeated_tokens(tokens, n_opening, eos)
    n_written = tokens[:, n_opening:].numel()
    n_sequences = settings.microbatch_rows * trainer.order.row_length // tokens.shape[1]
    for start in range(0, len(tokens), max(1, n_sequences)):
        part = slice(start, start + max(1, n_sequences))
        loss = trainer.loss(tokens[part, :-1], tokens[part, 1:], unlikely[part, 1:])
        accelerator.backward(loss * (settings.unlikelihood / n_written))
    return unlikely.sum() / n_written


def run(trainer: Trainer, state: TrainState) -> TrainState:
    """Train to the end of the phase, the time budget or a signal; saved when it returns.

    A call for the stable phase changes nothing once the decay has begun.
    """
    settings = trainer.settings
    decays = settings.decay_steps or settings.decay_minutes or settings.end_in_steps
    if state.decay_start is not None and not decays:
        return state
    if state.decay_start is None and not settings.steps and not settings.max_minutes:
        raise ValueError("the stable phase has no end of its own: give --steps or --max-minutes")
    recent: deque[float] = deque(maxlen=REPLAN_EVERY)
    began, last_step = time.monotonic(), _last_step(settings, state)
    with stop_signals() as received, reporting(settings.out, last_step, state.step) as report:
        while last_step is None or state.step < last_step:
            schedule = Schedule(settings.warmup_steps, state.decay_start, state.decay_steps)
            state, metrics = _timed_step(trainer, state, schedule.factor(state.step))
            recent.append(metrics.seconds)
            if trainer.accelerator.is_main_process:
                report(metrics)
            if state.step % settings.save_every == 0:
                _save(trainer, state)
            left_s = settings.max_minutes * 60 - (time.monotonic() - began)
            overdue = settings.max_minutes > 0 and left_s < 0
            if _any_process(trainer.accelerator, bool(received) or overdue):
                break
            if settings.decay_minutes:
                state = _planned_by_clock(trainer, state, left_s, recent)
                last_step = _last_step(settings, state)
    _save(trainer, state)
    return state


def _last_step(settings: RunSettings, state: TrainState) -> int | None:
    """Where this call ends at the latest; None where time alone says so."""
    if state.decay_start is None:
        return settings.steps or None
    decay_end = state.decay_start + state.decay_steps
    return min(decay_end, settings.steps or decay_end)


def _planned_by_clock(
    trainer: Trainer, state: TrainState, left_s: float, recent: Sequence[float]
) -> TrainState:
    """Begin the decay when its minutes are all that is left, and keep its end where the time ends."""
    settings, accelerator = trainer.settings, trainer.accelerator
    if state.decay_start is None:
        if not _any_process(accelerator, left_s <= settings.decay_minutes * 60):
            return state
        _save(trainer, state)  # the last of the stable phase: a longer run goes on from it
    elif state.step % REPLAN_EVERY:
        return state
    left = torch.tensor(left_s / fmean(recent), device=accelerator.device)
    mean: Tensor = accelerator.reduce(left, "mean")
    # A slow first step (compiling, decoding) is no speed to plan by: then another plan must follow.
    fewest = 1 if len(recent) == REPLAN_EVERY else REPLAN_EVERY + 1
    steps_left = max(fewest, round(float(mean)))
    if state.decay_start is None:
        return replace(state, decay_start=state.step, decay_steps=steps_left)
    return replan_decay(state, steps_left)


def _timed_step(trainer: Trainer, state: TrainState, factor: float) -> tuple[TrainState, Metrics]:
    started = time.monotonic()
    moved, figures = train_step(trainer, state, factor)
    nats, grad_norm = float(figures.loss), float(figures.grad_norm)  # waits for the device
    repeated = None if figures.repeated is None else float(figures.repeated)
    took = time.monotonic() - started
    moved = replace(moved, seconds=state.seconds + took)
    speed = (moved.tokens - state.tokens) / took
    return moved, Metrics(moved.step, moved.tokens, nats, factor, grad_norm, speed, took, repeated)


def _any_process(accelerator: Accelerator, flag: bool) -> bool:
    """Whether any process says so: all must leave the loop at the same step."""
    if accelerator.num_processes == 1:
        return flag
    votes: Tensor = accelerator.reduce(torch.tensor(float(flag), device=accelerator.device))
    return bool(votes > 0)


def _save(trainer: Trainer, state: TrainState) -> None:
    if trainer.accelerator.is_main_process:
        checkpoint.save(
            trainer.settings.out, trainer.model, trainer.optimizers, state, trainer.settings.keep
        )
        plot_loss(trainer.settings.out)
    trainer.accelerator.wait_for_everyone()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="training.base_model", description=__doc__)
    defaults = RunSettings(out=Path(), shards=Path())
    parser.add_argument("--out", type=Path, required=True, help="checkpoints, metrics, loss plot")
    parser.add_argument("--shards", type=Path, required=True, help="made by training.shards")
    parser.add_argument("--tokenizer", type=Path, help="copied beside the checkpoints")
    parser.add_argument("--preset", choices=sorted(PRESETS), default=defaults.preset)
    for name in ("steps", "decay_steps", "end_in_steps", "warmup_steps", "rows_per_step"):
        parser.add_argument(_flag(name), type=int, default=getattr(defaults, name))
    for name in ("microbatch_rows", "seq_len", "seed", "save_every", "keep"):
        parser.add_argument(_flag(name), type=int, default=getattr(defaults, name))
    for name in ("continuations", "continuation_length", "continuation_steps"):
        parser.add_argument(_flag(name), type=int, default=getattr(defaults, name))
    parser.add_argument("--precision", choices=("no", "bf16"), default=defaults.precision)
    parser.add_argument("--compiled", action="store_true", help="torch.compile: faster, slow start")
    parser.add_argument("--quantized", action="store_true", help="train through INT4 rounding")
    parser.add_argument("--quantized-decay", action="store_true", help="the same in the decay only")
    parser.add_argument("--start", type=Path, help="weights of a new run: checkpoint or export")
    parser.add_argument(
        "--unlikelihood", type=float, default=0.0, help="weight of its loss; 0 is none, 1 as much"
    )
    parser.add_argument("--max-minutes", type=float, default=0.0, help="stop and save after this")
    parser.add_argument(
        "--decay-minutes",
        type=float,
        default=0.0,
        help="decay for the last so many of --max-minutes",
    )
    rates = OptimizerSettings()
    parser.add_argument("--muon-lr", type=float, default=rates.muon_lr)
    parser.add_argument("--adam-lr", type=float, default=rates.adam_lr)
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
    tokenizer = arguments.pop("tokenizer")
    rates = OptimizerSettings(muon_lr=arguments.pop("muon_lr"), adam_lr=arguments.pop("adam_lr"))
    settings = RunSettings(**arguments)
    settings.out.mkdir(parents=True, exist_ok=True)
    if tokenizer is not None:
        for name in TOKENIZER_FILES:
            shutil.copyfile(tokenizer / name, settings.out / name)
    trainer, state = prepare(settings, rates)
    state = run(trainer, state)
    print({key: value for key, value in asdict(state).items() if value is not None})


if __name__ == "__main__":
    main()
