"""What the persona is worth on authors nobody trained on: `python -m training.evaluate_persona --adapter DIR ...`.

Passages of held-out authors; the history is always from the author's other works. NLL a token with the right
persona, with none (the null persona, and the bare base), and with another author's. Intervals are 95 % bootstrap
over passages (and, stricter, over works). Attribution: a character n-gram classifier trained on human text says
whose text was generated, with the persona on and off. JSON on stdout, or to `--out`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from adapters.checked_folder import read_folder
from indexer.errors import PersonaUnavailable
from indexer.persona_vector import KIND
from indexer.style_encoder import load_style_encoder
from pushkin_runtime.control_tokens import LANGUAGES
from training.attribution import AttributionTask, attribution
from training.checkpoint import write_atomic
from training.evaluate_style import interval
from training.lora_model import attach_adapter, load_base
from training.persona_data import load
from training.persona_examples import (
    Author,
    Rows,
    authors_of,
    nearest_history,
    passages,
    rows_of,
    sample_history,
)
from training.persona_lora import PersonaModel
from training.persona_plug import PlugShape, TrainablePlug
from training.tokenizer import load_tokenizer

WINDOW = 128
BATCH = 16
N_HISTORY = 64
BAR_NATS = 0.05


@dataclass(frozen=True)
class Case:
    """A passage with its right history and another author's; n_prefix: ids before the passage."""

    author: str
    work: str
    other: str
    ids: Any
    n_prefix: int
    query: Any
    right: tuple[Any, Any]
    wrong: tuple[Any, Any]


def cases_of(
    authors: Sequence[Author],
    targets: Sequence[str],
    n: int,
    window: int,
    retrieval: str = "nearest",
    seed: int = 0,
) -> list[Case]:
    """`n` passages in equal parts by target author; the other author goes round all of `authors`.

    retrieval: histories are the paragraphs nearest to the text before, as in serving, or random ones.
    """
    rng = np.random.default_rng(seed)
    cases: list[Case] = []
    for author in authors:
        if author.name not in targets:
            continue
        others = [other for other in authors if other.name != author.name]
        places = [
            (place, run)
            for place, source in enumerate(author.sources)
            for run in passages(source, window)
        ]
        chosen = rng.permutation(len(places))[: n // len(targets)]
        for count, index in enumerate(chosen):
            place, run = places[index]
            source = author.sources[place]
            rest = [own for number, own in enumerate(author.sources) if number != place]
            other = others[count % len(others)]
            query = source.vectors[run][0]
            histories = [
                nearest_history(whose, N_HISTORY, query)
                if retrieval == "nearest"
                else sample_history(whose, N_HISTORY, rng)
                for whose in (rest, other.sources)
            ]
            cases.append(
                Case(
                    author.name,
                    f"{author.name}/{source.title}",
                    other.name,
                    np.concatenate([source.prefix, source.tokens[run][:window]]),
                    len(source.prefix),
                    query,
                    *histories,
                )
            )
    return cases


def load_model(base: Path, adapter: Path | None) -> PersonaModel:
    """The base with the persona adapter and plug of a folder, for measuring; None: the bare base."""
    model = load_base(base)
    if adapter is None:
        return PersonaModel(model, TrainablePlug(PlugShape(1, 1), 1.0)).eval()
    content = read_folder(adapter, KIND, PersonaUnavailable)
    arrays = dict(content.arrays)
    n_soft, hidden_size = arrays["null"].shape
    n_projector, n_embedding = arrays["in_w"].shape
    plug = TrainablePlug(PlugShape(n_embedding, hidden_size, n_soft, n_projector), 1.0)
    plug.load_arrays(arrays)
    n_before = int(content.settings["n_before"])
    return PersonaModel(attach_adapter(model, adapter), plug, n_before).eval()


@torch.inference_mode()
def nll(model: PersonaModel, cases: Sequence[Case], condition: str, strength: float = 1.0) -> Any:
    """NLL (n, window) in nats. condition: right, wrong, null, or base for no rows at all."""
    parts = []
    head = model.model.get_output_embeddings().weight  # type: ignore[operator]
    for start in range(0, len(cases), BATCH):
        own = cases[start : start + BATCH]
        rows = batch_of(own, condition)
        persona = None if condition == "base" else model.plug(rows.history, strength)[0]
        logits = F.linear(model.states(persona, rows), head).float()
        targets = rows.ids[:, rows.n_prefix :]
        parts.append(F.cross_entropy(logits.transpose(1, 2), targets, reduction="none").numpy())
    return np.concatenate(parts)


def batch_of(cases: Sequence[Case], condition: str) -> Rows:
    """The rows of some cases under a condition."""
    empty = [(case.right[0][:0], case.right[1][:0]) for case in cases]
    histories = {
        "right": [case.right for case in cases],
        "wrong": [case.wrong for case in cases],
    }.get(condition, empty)
    ids, queries = [case.ids for case in cases], [case.query for case in cases]
    return rows_of(ids, cases[0].n_prefix, queries, histories)


def likelihoods(model: PersonaModel, bare: PersonaModel, cases: Sequence[Case]) -> dict[str, Any]:
    """Mean NLL by condition and the gaps, in nats a token."""
    losses: dict[str, Any] = {
        "right": nll(model, cases, "right"),
        "none": nll(model, cases, "null"),
        "shuffled": nll(model, cases, "wrong"),
        "base": nll(bare, cases, "base"),
        "strength_0": nll(model, cases, "right", 0.0),
        "strength_0.5": nll(model, cases, "right", 0.5),
        "strength_2": nll(model, cases, "right", 2.0),
    }
    model.plug.uniform = True
    losses["mean_pooling"] = nll(model, cases, "right")
    model.plug.uniform = False
    means = {name: value.mean(1) for name, value in losses.items()}
    works = np.array([case.work for case in cases])
    passage = np.arange(len(cases))
    report: dict[str, Any] = {
        "passages": len(cases),
        "nats_per_token": {name: round(float(value.mean()), 4) for name, value in means.items()},
    }
    pairs = {
        "shuffled_minus_right": means["shuffled"] - means["right"],
        "none_minus_right": means["none"] - means["right"],
        "shuffled_minus_none": means["shuffled"] - means["none"],
        "base_minus_right": means["base"] - means["right"],
        "mean_pooling_minus_right": means["mean_pooling"] - means["right"],
    }
    report |= {name: interval(value, passage) for name, value in pairs.items()}
    gap = pairs["shuffled_minus_right"]
    report["shuffled_minus_right_by_work"] = interval(gap, works)
    report["shuffled_minus_right_by_author"] = {
        name: interval(gap[own], passage[own])
        for name in sorted({case.author for case in cases})
        if (own := np.array([case.author == name for case in cases])).any()
    }
    report["bar_met"] = bool(gap.mean() >= BAR_NATS and interval(gap, passage)["ci95"][0] > 0)
    position = (losses["shuffled"] - losses["right"]).mean(0)
    report["gap_by_position"] = {
        f"{start}-{start + 63}": round(float(position[start : start + 64].mean()), 4)
        for start in range(0, len(position), 64)
    }
    return report


def evaluate(
    arguments: argparse.Namespace, report: Callable[[str], None] = print
) -> dict[str, Any]:
    """All figures by language; `report` is told what is being measured."""
    encoder = load_style_encoder(arguments.encoder)
    tokenizer = load_tokenizer(arguments.base)
    works = load(arguments.texts, ["dev", "test"])
    works = [
        replace(work, runs=work.runs[: arguments.max_runs]) for work in works if len(work.runs) > 0
    ]
    authors = [a for a in authors_of(works, encoder, tokenizer) if not a.is_single]
    split = {work.author: work.split for work in works}
    model = load_model(arguments.base, arguments.adapter)
    bare = load_model(arguments.base, None)
    result: dict[str, Any] = {
        name: getattr(arguments, name) for name in ("split", "window", "retrieval")
    }
    for language in LANGUAGES:
        own = [author for author in authors if author.language == language]
        targets = [author.name for author in own if split[author.name] == arguments.split]
        report(f"{language}: {', '.join(targets)}")
        cases = cases_of(own, targets, arguments.passages, arguments.window, arguments.retrieval)
        result[language] = {"authors": targets, **likelihoods(model, bare, cases)}
        if arguments.generate:
            task = AttributionTask(own, targets, tokenizer, arguments.generate)
            result[language]["attribution"] = attribution(model, bare, task)
    return result


def main(argv: Sequence[str] | None = None) -> None:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(prog="training.evaluate_persona", description=__doc__)
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--encoder", type=Path, required=True)
    parser.add_argument("--adapter", type=Path, required=True, help="with the plug beside it")
    parser.add_argument("--texts", type=Path, required=True, help="made by training.persona_data")
    parser.add_argument("--split", choices=("test", "dev"), default="test")
    parser.add_argument("--passages", type=int, default=200, help="per language")
    parser.add_argument("--window", type=int, default=WINDOW, help="tokens of a passage")
    parser.add_argument("--retrieval", choices=("nearest", "random"), default="nearest")
    parser.add_argument("--max-runs", type=int, default=24, help="of one work")
    parser.add_argument("--generate", type=int, default=0, help="texts to generate per language")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="write the JSON here")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    text = json.dumps(evaluate(arguments), indent=2, ensure_ascii=False)
    print(text)
    if arguments.out is not None:
        write_atomic(arguments.out, text + "\n")


if __name__ == "__main__":
    main()
