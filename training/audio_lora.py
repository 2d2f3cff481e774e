"""Stage 2, audio: `python -m training.audio_lora --base DIR --features DIR --encoder DIR … --out DIR`.

The encoder is frozen: its states lie in FEATURES (`training.speech_features`). First the projector alone learns, by CTC, from
nothing or (`--start`) from what another base's projector heard. Then the audio LoRA learns the first token, <dict>, <cmd> or
<none>, over rows that stay as they are; with `--transcript model` projector and LoRA learn together to write what was said as
well. A third of the second part's batches run under the persona adapter, so that dictation works with and without it. A
run in `--out` goes on, after a kill too. One CPU.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from adapters.checked_folder import About, write_folder
from adapters.draft import Provenance
from adapters.format import BaseModel
from adapters.install import write
from adapters.peft_format import import_peft
from pushkin_runtime.model_store import base_model, open_model
from pushkin_runtime.speech_folder import ADAPTER, KIND, weights_sha256
from pushkin_runtime.tokenizer import TextTokenizer
from training.adapter_export import save_peft
from training.checkpoint import write_atomic
from training.lora_model import LoraSettings, attach_lora, load_base
from training.progress import Metrics, plot_loss, reporting
from training.speech_examples import Batch, Pieces, Sampler, for_deciding, load_examples
from training.speech_persona import PersonaSwitch
from training.speech_reader import SpeechReader, TrainableProjector
from training.speech_start import start_from
from training.stopping import stop_signals
from training.trained_state import restore, save

LICENCE = "as the repository; trained on synthetic voices, AN4 (CMU) and FSDD (CC BY-SA 4.0)"
CHECKPOINT = "checkpoint.pt"
LETTER_SHARE = 0.3  # of the loss over letters: it is what the hidden layer learns from first


@dataclass(frozen=True)
class AudioRun:
    """One call of the trainer. steps: of both parts together, `projector_steps` of them first without the language
    model. rows: of a batch. rates at their highest. joint_rate, ctc_share: the projector's rate and the weight of its CTC
    loss in the second part, where the model learns to write."""

    base: Path
    features: Path
    out: Path
    persona: Path
    style_encoder: Path
    encoder: Path
    persona_share: float = 0.3  # of the second part's batches
    steps: int = 3000
    projector_steps: int = 1500
    rows: int = 800
    n_stack: int = 3
    n_hidden: int = 1024
    n_merges: int = 250
    projector_rate: float = 1.5e-3
    joint_rate: float = 6e-4
    lora_rate: float = 3e-3
    ctc_share: float = 0.5
    warm_steps: int = 300
    weight_decay: float = 0.01
    seed: int = 0
    transcript: str = "projector"  # or model: who writes in serving
    precision: str = "no"  # or bf16, slower where only some matrices are large
    save_every: int = 100
    max_minutes: float = 0.0
    start: str = (
        ""  # folder of a trained adapter, of any base, whose projector this one begins from
    )


def text_rms(base: nn.Module) -> float:
    """Root mean square of the model's text rows as they enter the first layer, over its vocabulary."""
    embedding: Any = base.get_input_embeddings()  # type: ignore[operator]
    with torch.no_grad():
        return float(embedding(torch.arange(embedding.num_embeddings)).pow(2).mean().sqrt())


def make_model(
    run: AudioRun, lora: LoraSettings, n_state: int, tokenizer: TextTokenizer, pieces: Pieces
) -> SpeechReader:
    """Base, LoRA and projector, freshly initialised from the seed."""
    torch.manual_seed(run.seed)
    base = load_base(run.base)
    config: Any = base.config
    hidden_size = config.get_text_config().hidden_size
    projector = TrainableProjector(run.n_stack * n_state, run.n_hidden, hidden_size, text_rms(base))
    return SpeechReader(attach_lora(base, lora), projector, tokenizer, pieces, run.n_stack)


def _optimizer(model: SpeechReader, run: AudioRun) -> torch.optim.AdamW:
    lora = [p for p in model.model.parameters() if p.requires_grad]
    groups = [
        {"params": lora, "highest": run.lora_rate},
        {
            "params": [
                *model.projector.parameters(),
                model.ctc_bias,
                model.ctc_gain,
                *model.letters.parameters(),
            ],
            "highest": run.projector_rate,
        },
    ]
    return torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.98), weight_decay=run.weight_decay)


def rates(run: AudioRun, step: int, seconds: float) -> tuple[float, float]:
    """The LoRA's and the projector's learning rate of a step."""
    if step < run.projector_steps:
        part = step / run.projector_steps
        return 0.0, run.projector_rate * min((step + 1) / 100, 1.0) * _fall(part, 0.25)
    since = step - run.projector_steps
    part = since / max(1, run.steps - run.projector_steps)
    if run.max_minutes:
        part = max(part, seconds / (run.max_minutes * 60))
    warm = min((since + 1) / 40, 1.0)
    return run.lora_rate * warm * _fall(part, 0.02), run.joint_rate * warm * _fall(part, 0.02)


def _fall(part: float, lowest: float) -> float:
    return lowest + (1 - lowest) * 0.5 * (1 + math.cos(math.pi * min(1.0, part)))


def train(
    run: AudioRun, model: SpeechReader, samplers: tuple[Sampler, Sampler], switch: PersonaSwitch
) -> dict[str, Any]:
    """Train, or go on training, to `run.steps`, the time budget or a signal; {"step", "tokens", "seconds"}.

    samplers: of the two parts.
    """
    optimizer = _optimizer(model, run)
    done: dict[str, Any] = {"step": 0, "tokens": 0, "seconds": 0.0}
    if (run.out / CHECKPOINT).is_file():
        done = restore(run.out / CHECKPOINT, model, optimizer)
    model.train()
    with stop_signals() as received, reporting(run.out, run.steps, done["step"]) as report:
        while done["step"] < run.steps and not received:
            if 0 < run.max_minutes * 60 < done["seconds"]:
                break
            sampler = samplers[done["step"] >= run.projector_steps]
            done, metrics = _step(run, (model, optimizer, switch), sampler.draw(done["step"]), done)
            report(metrics)
            if done["step"] % run.save_every == 0:
                save(run.out / CHECKPOINT, model, optimizer, done)
    save(run.out / CHECKPOINT, model, optimizer, done)
    plot_loss(run.out)
    return done


def _step(
    run: AudioRun,
    parts: tuple[SpeechReader, Any, PersonaSwitch],
    batch: Batch,
    done: dict[str, Any],
) -> tuple[dict[str, Any], Metrics]:
    model, optimizer, switch = parts
    began, step = time.monotonic(), done["step"]
    highest = rates(run, step, done["seconds"])
    for group, rate in zip(optimizer.param_groups, highest, strict=True):
        group["lr"] = rate
    is_joint = step >= run.projector_steps
    is_on = is_joint and random.Random(f"{run.seed}:persona:{step}").random() < run.persona_share
    switch.set(is_on)
    loss, shown = losses(run, model, batch, is_joint, switch.rows(step) if is_on else None)
    loss.backward()
    norm = nn.utils.clip_grad_norm_([p for p in model.parameters() if p.requires_grad], 1.0)
    optimizer.step()
    optimizer.zero_grad()
    took = time.monotonic() - began
    moved = {
        "step": step + 1,
        "tokens": done["tokens"] + batch.n_targets,
        "seconds": done["seconds"] + took,
    }
    factor = highest[1] / run.projector_rate
    return moved, Metrics(
        step + 1, moved["tokens"], shown, factor, float(norm), batch.n_targets / took, took
    )


def losses(
    run: AudioRun,
    model: SpeechReader,
    batch: Batch,
    is_joint: bool,
    persona: Tensor | None = None,
) -> tuple[Tensor, float]:
    """What is minimised, nats a target token, and what is shown: CTC in the first part, deciding or writing in the second."""
    if is_joint and run.transcript == "projector":
        with torch.no_grad():
            rows = model.projector(model.projector.hidden(batch.stacked))
        deciding = model.deciding_loss(rows, batch, persona) / len(batch.targets)
        return deciding, float(deciding.detach())
    hidden = model.projector.hidden(batch.stacked)
    rows = model.projector(hidden)
    ctc = model.ctc_loss(rows, batch) / batch.n_targets
    aligned = ctc + LETTER_SHARE * model.letter_loss(hidden, batch) / batch.n_targets
    if not is_joint:
        return aligned, float(ctc.detach())
    half = run.precision == "bf16"
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        writing = model.writing_loss(rows, batch, half, persona) / batch.n_targets
    return writing + run.ctc_share * aligned, float(writing.detach())


def finish(run: AudioRun, lora: LoraSettings, model: SpeechReader, done: dict[str, Any]) -> Path:
    """Write `OUT/adapters/dictate`: the adapter, if it was trained at all, with the projector's two files; its path."""
    facts = {
        "steps": done["step"],
        "tokens": done["tokens"],
        "projector_steps": run.projector_steps,
        "n_hidden": run.n_hidden,
        "n_merges": run.n_merges,
        "persona_share": run.persona_share,
        "lora_rate": run.lora_rate,
        "projector_rate": run.projector_rate,
        "joint_rate": run.joint_rate,
        "ctc_share": run.ctc_share,
        "seed": run.seed,
    }
    base = base_model(open_model(run.base))
    if done["step"] > run.projector_steps:
        _write_adapter(run, model, base, facts)
    folder = run.out / "adapters" / ADAPTER
    settings: dict[str, Any] = {
        "encoder": run.encoder.name,
        "encoder_sha256": weights_sha256(run.encoder),
        "n_stack": run.n_stack,
        "base_digest": base.digest,
    }
    if run.transcript == "projector":
        settings["pieces"] = model.piece_ids
    write_folder(
        folder, KIND, model.arrays(), About(settings=settings, licence=LICENCE, facts=facts)
    )
    content = {
        "run": {key: str(value) for key, value in asdict(run).items()},
        "lora": asdict(lora),
        "done": done,
    }
    write_atomic(run.out / "run.json", json.dumps(content, indent=2) + "\n")
    return folder


def _write_adapter(
    run: AudioRun, model: SpeechReader, base: BaseModel, facts: dict[str, Any]
) -> None:
    save_peft(model.model, run.out / "peft")  # type: ignore[arg-type]
    provenance = Provenance(
        task="dictate",
        stage="audio",
        parents=("persona",) if run.persona_share else (),
        languages=("en", "ru"),
        licence=LICENCE,
        training=facts,
    )
    draft = import_peft(run.out / "peft", name=ADAPTER, base=base, provenance=provenance)
    write(draft, run.out / "adapters", replace=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="training.audio_lora", description=__doc__)
    for name in ("base", "features", "out", "persona", "style-encoder", "encoder"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    defaults = AudioRun(Path(), Path(), Path(), Path(), Path(), Path())
    for field in fields(AudioRun)[6:]:
        value = getattr(defaults, field.name)
        parser.add_argument("--" + field.name.replace("_", "-"), default=value, type=type(value))
    parser.add_argument("--rank", type=int, default=64)
    parser.add_argument("--threads", type=int, default=0, help="torch threads, 0 keeps the default")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Command line; see the module's docstring."""
    arguments = vars(_parser().parse_args(argv))
    if threads := arguments.pop("threads"):
        torch.set_num_threads(threads)
    lora = LoraSettings(rank=arguments.pop("rank"), dropout=0.0)
    run = AudioRun(**arguments)
    run.out.mkdir(parents=True, exist_ok=True)
    spec = open_model(run.base)
    tokenizer = TextTokenizer(run.base / "tokenizer.json", spec.config.vocab_size)
    pieces = Pieces(tokenizer, run.base / "tokenizer.json", run.n_merges)
    examples = load_examples(run.features, "train", run.n_stack, pieces)
    n_state = examples[0].stacked.shape[1] // run.n_stack
    print(f"{len(examples)} clips, {len(pieces.ids)} pieces", flush=True)
    model = make_model(run, lora, n_state, tokenizer, pieces)
    if run.start:
        start_from(model, Path(run.start), examples)
    reading = Sampler(examples, tokenizer, run.seed, run.rows, run.n_stack, run.warm_steps)
    second = for_deciding(examples) if run.transcript == "projector" else examples
    rest = Sampler(second, tokenizer, run.seed, run.rows, run.n_stack)
    switch = PersonaSwitch(model.model, run.persona, run.style_encoder)
    done = train(run, model, (reading, rest), switch)
    print(finish(run, lora, model, done))


if __name__ == "__main__":
    main()
