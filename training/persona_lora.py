"""Stage 1, persona: `python -m training.persona_lora --base DIR --encoder DIR --texts FILE --out DIR`.

Trains the plug (attention, projector, instruction, null persona) and a persona LoRA together on the frozen
base, an INT4 one as the weights it serves with. The prompt is `pushkin_runtime.prompt`'s: `[persona rows; control
codes (<bos> is the first); text]`; the loss is on the text. A run in `--out` is continued, after a kill too. One
CPU or GPU, and meant to work under `accelerate launch`.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn import functional

from adapters.checked_folder import About, write_folder
from adapters.draft import Provenance
from adapters.install import write
from adapters.peft_format import import_peft
from indexer.persona_vector import KIND
from indexer.style_encoder import load_style_encoder
from pushkin_runtime.model_store import base_model, open_model
from training.adapter_export import save_peft
from training.checkpoint import write_atomic
from training.completion_trainer import frozen_head_loss
from training.lora_model import LoraSettings, attach_lora, load_base
from training.persona_data import load
from training.persona_examples import Lesson, Rows, Sampler, authors_of
from training.persona_plug import PlugShape, TrainablePlug
from training.persona_start import Lessons, warm_start
from training.progress import Metrics, plot_loss, reporting
from training.stopping import stop_signals
from training.tokenizer import load_tokenizer
from training.trained_state import restore, save

N_BEFORE = 0  # ids before the persona; 1 would put it after <bos>, see the card's ablation
LICENCE = "as the repository; trained on public-domain prose"
CHECKPOINT = "checkpoint.pt"


@dataclass(frozen=True)
class PersonaRun:
    """One call of the trainer. windows: tokens of a passage, taking turns; learning rates at their highest."""

    base: Path
    encoder: Path
    texts: Path
    out: Path
    steps: int = 800
    tokens_per_step: int = 1024
    contrast: float = 2.0
    windows: tuple[int, ...] = (64, 64, 256)
    n_soft: int = 4
    n_projector: int = 512
    learning_rate: float = 2e-3
    plug_rate: float = 2e-3
    weight_decay: float = 0.01
    null_share: float = 0.1
    single_share: float = 0.3
    ridge: float = 1.0  # of the warm start; 0 for a random one
    lesson_steps: int = 250  # first, on rows of the passage's own work
    n_before: int = N_BEFORE
    seed: int = 0
    precision: str = "no"  # or bf16
    save_every: int = 100
    max_minutes: float = 0.0


class PersonaModel(nn.Module):
    """A base with LoRA and a plug before it; its forward is the loss, so that accelerate can wrap it."""

    def __init__(self, model: nn.Module, plug: TrainablePlug, n_before: int = N_BEFORE) -> None:
        super().__init__()
        self.model = model
        self.plug = plug
        self.n_before = n_before

    def forward(self, rows: Rows, half: bool = False, contrast: float = 0.0) -> Tensor:
        """What is minimised, and the summed NLL of the passages (nats, without gradient), (2,).

        Minimised is the NLL plus `contrast` times the loss of telling authors apart: -log of the right persona's
        share, p(text | right) / (p(text | right) + p(text | other)), the other being the persona of the batch's
        next passage of the same language. Its optimum is NLL's, the true conditional model, but what both sides
        share cancels, and most of the noise with it.
        """
        persona, _ = self.plug(rows.history)
        right = self.losses(persona, rows, half)
        nll = right.sum()
        if not contrast:
            return torch.stack([nll, nll.detach()])
        other = rows.others()
        is_other = other != torch.arange(len(other), device=other.device)
        wrong = self.losses(persona[other], rows, half)
        confused = functional.softplus(right - wrong)[is_other].sum()
        return torch.stack([nll + contrast * confused, nll.detach()])

    def states(self, persona: Tensor | None, rows: Rows) -> Tensor:
        """Final hidden states (b, w, D) that predict the passages; persona (b, r, D), None for no rows."""
        base: Any = self.model
        base = base.get_base_model() if hasattr(base, "get_base_model") else base
        embedded = base.get_input_embeddings()(rows.ids)  # (b, s, D), scaled by √D inside
        n_rows = 0
        if persona is not None:
            n_rows = persona.shape[1]
            first, rest = embedded[:, : self.n_before], embedded[:, self.n_before :]
            embedded = torch.cat([first, persona.to(embedded.dtype), rest], 1)
        states: Tensor = base.model(inputs_embeds=embedded, use_cache=False).last_hidden_state
        return states[:, rows.n_prefix + n_rows - 1 : -1]

    def losses(self, persona: Tensor | None, rows: Rows, half: bool = False) -> Tensor:
        """NLL (nats) of each passage behind given rows, summed over its tokens, (b,)."""
        states = self.states(persona, rows)
        base: Any = self.model
        head = base.get_output_embeddings().weight
        targets = rows.ids[:, rows.n_prefix :]
        return torch.stack(
            [
                frozen_head_loss(own, head, wanted, half)
                for own, wanted in zip(states, targets, strict=True)
            ]
        )


def row_norm(base: nn.Module) -> float:
    """Mean length of the model's input rows over its vocabulary, as they enter the first layer."""
    embedding: Any = base.get_input_embeddings()  # type: ignore[operator]
    with torch.no_grad():
        return float(embedding(torch.arange(embedding.num_embeddings)).norm(dim=-1).mean())


def make_model(run: PersonaRun, lora: LoraSettings, n_embedding: int) -> PersonaModel:
    """Base, LoRA and plug, freshly initialised from the seed."""
    torch.manual_seed(run.seed)
    base = load_base(run.base)
    config: Any = base.config
    hidden_size = config.get_text_config().hidden_size
    shape = PlugShape(n_embedding, hidden_size, run.n_soft, run.n_projector)
    plug = TrainablePlug(shape, row_norm(base))
    return PersonaModel(attach_lora(base, lora), plug, run.n_before)


def _optimizer(model: PersonaModel, run: PersonaRun) -> torch.optim.AdamW:
    lora = [p for p in model.model.parameters() if p.requires_grad]
    groups = [
        {"params": lora, "lr": run.learning_rate, "highest": run.learning_rate},
        {"params": list(model.plug.parameters()), "lr": run.plug_rate, "highest": run.plug_rate},
    ]
    return torch.optim.AdamW(groups, betas=(0.9, 0.95), weight_decay=run.weight_decay)


def train(
    run: PersonaRun, model: PersonaModel, sampler: Sampler, lessons: Lesson | None = None
) -> dict[str, Any]:
    """Train, or go on training, to `run.steps`, the time budget or a signal; {"step", "tokens", "seconds"}."""
    accelerator = Accelerator(mixed_precision=run.precision)
    optimizer = _optimizer(model, run)
    done: dict[str, Any] = {"step": 0, "tokens": 0, "seconds": 0.0}
    if (run.out / CHECKPOINT).is_file():
        done = restore(run.out / CHECKPOINT, model, optimizer)
    wrapped = accelerator.prepare(model.train())
    optimizer = accelerator.prepare(optimizer)
    with stop_signals() as received, reporting(run.out, run.steps, done["step"]) as report:
        while done["step"] < run.steps:
            overdue = 0 < run.max_minutes * 60 < done["seconds"]
            if received or overdue:
                break
            is_lesson = lessons is not None and done["step"] < run.lesson_steps
            rows = _draw(run, sampler, done["step"], accelerator, lessons if is_lesson else None)
            done, metrics = _step(run, (wrapped, optimizer, accelerator), rows, done)
            if accelerator.is_main_process:
                report(metrics)
                if done["step"] % run.save_every == 0:
                    save(run.out / CHECKPOINT, model, optimizer, done)
    if accelerator.is_main_process:
        save(run.out / CHECKPOINT, model, optimizer, done)
        plot_loss(run.out)
    return done


def _draw(
    run: PersonaRun, sampler: Sampler, step: int, accelerator: Accelerator, lessons: Lesson | None
) -> Rows:
    window = run.windows[step % len(run.windows)]
    n_rows = max(2, run.tokens_per_step // window)
    rows = sampler.draw(step, n_rows, window, accelerator.process_index, lessons)
    return _moved(rows, accelerator.device)


def _step(
    run: PersonaRun, parts: tuple[Any, Any, Accelerator], rows: Rows, done: dict[str, Any]
) -> tuple[dict[str, Any], Metrics]:
    model, optimizer, accelerator = parts
    began, step = time.monotonic(), done["step"]
    progress = step / run.steps
    if run.max_minutes:
        progress = max(progress, done["seconds"] / (run.max_minutes * 60))
    factor = min((step + 1) / 30, max(0.02, 1 - progress))
    for group in optimizer.param_groups:
        group["lr"] = group["highest"] * factor
    loss = model(rows, run.precision == "bf16", run.contrast)
    loss = loss / rows.n_targets
    accelerator.backward(loss[0])
    norm = accelerator.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
    took = time.monotonic() - began
    n_tokens = rows.n_targets * accelerator.num_processes
    moved = {
        "step": step + 1,
        "tokens": done["tokens"] + n_tokens,
        "seconds": done["seconds"] + took,
    }
    nats = loss[1].item()
    return moved, Metrics(
        step + 1, moved["tokens"], nats, factor, float(norm), n_tokens / took, took
    )


def _moved(rows: Rows, device: torch.device) -> Rows:
    history = rows.history
    found = {field.name: getattr(history, field.name) for field in fields(type(history))}
    parts = {name: value.to(device) for name, value in found.items() if value is not None}
    return replace(rows, ids=rows.ids.to(device), history=replace(history, **parts))


def finish(
    run: PersonaRun, lora: LoraSettings, model: PersonaModel, done: dict[str, Any], space: str
) -> Path:
    """Write `OUT/adapters/persona`: the adapter with the plug's two files beside it; its path."""
    facts = {
        "steps": done["step"],
        "tokens": done["tokens"],
        "soft_tokens": run.n_soft,
        "learning_rate": run.learning_rate,
        "plug_learning_rate": run.plug_rate,
        "windows": ",".join(map(str, run.windows)),
        "null_share": run.null_share,
        "ridge": run.ridge,
        "contrast": run.contrast,
        "lesson_steps": run.lesson_steps,
        "single_share": run.single_share,
        "seed": run.seed,
    }
    save_peft(model.model, run.out / "peft")  # type: ignore[arg-type]
    base = base_model(open_model(run.base))
    provenance = Provenance(
        task="persona", stage="persona", languages=("en", "ru"), licence=LICENCE, training=facts
    )
    draft = import_peft(run.out / "peft", name="persona", base=base, provenance=provenance)
    write(draft, run.out / "adapters", replace=True)
    folder = run.out / "adapters" / "persona"
    settings = {"space": space, "base_digest": base.digest, "n_before": run.n_before}
    about = About(settings=settings, licence=LICENCE, facts=facts)
    write_folder(folder, KIND, model.plug.arrays(), about)
    content = {
        "run": {key: str(value) for key, value in asdict(run).items()},
        "lora": asdict(lora),
        "done": done,
    }
    write_atomic(run.out / "run.json", json.dumps(content, indent=2) + "\n")
    return folder


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="training.persona_lora", description=__doc__)
    for name in ("base", "encoder", "texts", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    defaults = PersonaRun(Path(), Path(), Path(), Path())
    for field in fields(PersonaRun)[4:]:
        value = getattr(defaults, field.name)
        flag = "--" + field.name.replace("_", "-")
        if field.name == "windows":
            parser.add_argument(flag, default=value, type=_numbers, help="e.g. 128,128,384")
        else:
            parser.add_argument(flag, default=value, type=type(value))
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--threads", type=int, default=0, help="torch threads, 0 keeps the default")
    return parser


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(",")))


def main(argv: Sequence[str] | None = None) -> None:
    """Command line; see the module's docstring."""
    arguments = vars(_parser().parse_args(argv))
    threads = arguments.pop("threads")
    if threads:
        torch.set_num_threads(threads)
    lora = LoraSettings(rank=arguments.pop("rank"), dropout=0.0)
    run = PersonaRun(**arguments)
    run.out.mkdir(parents=True, exist_ok=True)
    encoder = load_style_encoder(run.encoder)
    authors = authors_of(load(run.texts, ["train"]), encoder, load_tokenizer(run.base))
    print(f"{len(authors)} authors", flush=True)
    model = make_model(run, lora, encoder.space.n_dimensions)
    head: Any = model.model.get_output_embeddings()  # type: ignore[operator]
    embedding = head.weight.detach()
    if run.ridge and not (run.out / CHECKPOINT).is_file():
        explained = warm_start(model.plug, authors, embedding, run.ridge, run.seed)
        print(f"warm start: {explained:.0%} of the variance of token rates", flush=True)
    lessons = Lessons(authors, embedding.float().numpy(), run.n_soft)
    sampler = Sampler(authors, run.seed, run.null_share, run.single_share)
    done = train(run, model, sampler, lessons.rows)
    print(finish(run, lora, model, done, encoder.space.id))


if __name__ == "__main__":
    main()
