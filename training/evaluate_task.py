"""Held-out figures of a task adapter: `python -m training.evaluate_task --base DIR --adapter DIR --examples DIR`.

Completion loss with and without the adapter on the same examples, and the paired bootstrap's 95 % interval of the
difference. For rephrase also what greedy decoding writes: how often a plain copy, and chrF (Popović 2015, by
sacrebleu) against the target and against the source. JSON goes to stdout, or to `--out`.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from peft import PeftModel
from torch.nn import functional

from adapters.format import JSON_NAME, parse_manifest
from pushkin_runtime.tokenizer import TextTokenizer
from training.checkpoint import write_atomic
from training.lora_model import attach_adapter, load_base
from training.task_examples import IGNORED, TaskExample, read_examples

BOOTSTRAPS = 10_000
N_SAMPLES = 6
_N_SAMPLED = 48  # tokens
_PAD = 0
_N_CODES = 3  # <bos>, language, genre
_BATCH = 16


@dataclass(frozen=True)
class Scores:
    """Of each example, in one order: summed NLL of the completion in nats, and its tokens, (n,)."""

    nats: NDArray[np.float64]
    n_tokens: NDArray[np.int64]

    @property
    def per_token(self) -> float:
        """Mean loss over all tokens, nats."""
        return float(self.nats.sum() / self.n_tokens.sum())


@torch.inference_mode()
def completion_scores(model: Any, examples: Sequence[TaskExample]) -> Scores:
    """The loss of every example, in the order given."""
    order = sorted(range(len(examples)), key=lambda index: examples[index].n_tokens)
    nats = np.zeros(len(examples))
    for start in range(0, len(order), _BATCH):
        own = order[start : start + _BATCH]
        length = max(examples[index].n_tokens for index in own)
        ids = torch.full((len(own), length), _PAD)
        labels = torch.full((len(own), length), IGNORED)
        for row, index in enumerate(own):
            example = examples[index]
            n_prompt = len(example.prompt)
            ids[row, : example.n_tokens] = torch.tensor([*example.prompt, *example.completion])
            labels[row, n_prompt : example.n_tokens] = torch.tensor(example.completion)
        wanted = labels[:, 1:]
        columns = (wanted != IGNORED).any(0).nonzero()[:, 0]  # the head is the dearest part
        # Padding stands on the right of causal attention: it needs no mask.
        logits = model(input_ids=ids, use_cache=False, logits_to_keep=columns).logits.float()
        losses = functional.cross_entropy(
            logits.flatten(0, 1), wanted[:, columns].flatten(), reduction="none"
        ).reshape(len(own), -1)
        nats[own] = losses.sum(1).double().numpy()
    return Scores(nats, np.array([len(example.completion) for example in examples]))


def paired_bootstrap(
    base: Scores, adapted: Scores, n_resamples: int = BOOTSTRAPS, seed: int = 0
) -> tuple[float, float]:
    """95 % interval of (adapted - base) in nats a token, examples drawn with replacement, both together."""
    rng = np.random.default_rng(seed)
    difference = adapted.nats - base.nats
    n_examples = len(difference)
    values = np.empty(n_resamples)
    for index in range(n_resamples):
        drawn = rng.integers(0, n_examples, n_examples)
        values[index] = difference[drawn].sum() / base.n_tokens[drawn].sum()
    low, high = np.percentile(values, (2.5, 97.5))
    return float(low), float(high)


def compare(base: Scores, adapted: Scores) -> dict[str, Any]:
    """Both losses, their difference and its interval."""
    low, high = paired_bootstrap(base, adapted)
    return {
        "examples": len(base.nats),
        "tokens": int(base.n_tokens.sum()),
        "base": round(base.per_token, 4),
        "adapter": round(adapted.per_token, 4),
        "difference": round(adapted.per_token - base.per_token, 4),
        "ci95": [round(low, 4), round(high, 4)],
        "examples_better": round(float((adapted.nats < base.nats).mean()), 3),
    }


def without_selection(example: TaskExample) -> TaskExample:
    """The example with nothing but <bos> and the control codes before its completion."""
    return replace(example, prompt=example.prompt[:_N_CODES])


def loss_report(model: PeftModel, examples: Sequence[TaskExample]) -> dict[str, Any]:
    """`compare` by language and by kind; the adapter is switched off for the base.

    The base has never seen a rephrase prompt, so for that task it is given two chances: the same
    prompt, or the target as ordinary text after the control codes (`base_as_text`).
    """
    report: dict[str, Any] = {}
    adapted_all = completion_scores(model, examples)
    with model.disable_adapter():
        base_all = completion_scores(model, examples)
        rephrase = all(example.task == "rephrase" for example in examples)
        bare = [without_selection(example) for example in examples] if rephrase else []
        as_text = completion_scores(model, bare)
    for language in sorted({example.language for example in examples}):
        groups = {"all": [i for i, each in enumerate(examples) if each.language == language]}
        for index in groups["all"]:
            groups.setdefault(examples[index].kind, []).append(index)
        report[language] = {
            name: compare(_part(base_all, own), _part(adapted_all, own))
            | ({"base_as_text": _against(as_text, adapted_all, own)} if rephrase else {})
            for name, own in groups.items()
        }
    return report


def _part(scores: Scores, indices: list[int]) -> Scores:
    return Scores(scores.nats[indices], scores.n_tokens[indices])


def _against(base: Scores, adapted: Scores, indices: list[int]) -> dict[str, Any]:
    own = compare(_part(base, indices), _part(adapted, indices))
    return {key: own[key] for key in ("base", "difference", "ci95")}


def greedy(model: Any, tokenizer: TextTokenizer, example: TaskExample) -> str:
    """What the model answers to the prompt: greedy, to <eos> or half as much again as the target."""
    n_tokens = 16 + len(example.completion) * 3 // 2
    return _answer(model, tokenizer, example, n_tokens, {"do_sample": False})


@torch.inference_mode()
def _answer(
    model: Any, tokenizer: TextTokenizer, example: TaskExample, n_tokens: int, how: dict[str, Any]
) -> str:
    output = model.generate(
        input_ids=torch.tensor([example.prompt]),
        attention_mask=torch.ones(1, len(example.prompt), dtype=torch.long),
        max_new_tokens=n_tokens,
        eos_token_id=sorted(tokenizer.end_ids()),
        pad_token_id=_PAD,
        **how,
    )
    return tokenizer.decode(output[0, len(example.prompt) :].tolist())


def rewriting_report(
    model: PeftModel, tokenizer: TextTokenizer, examples: Sequence[TaskExample], n_examples: int
) -> dict[str, Any]:
    """Greedy rewritings of `n_examples` a language (seeded choice): copies, chrF, the first samples."""
    from sacrebleu.metrics.chrf import CHRF

    metric, report = CHRF(), {}
    for language in sorted({example.language for example in examples}):
        own = [example for example in examples if example.language == language]
        own = random.Random(0).sample(own, min(n_examples, len(own)))
        answers = [greedy(model, tokenizer, example) for example in own]
        targets, sources = [each.target for each in own], [each.source for each in own]
        report[language] = {
            "examples": len(own),
            "exact_copies_of_source": _share(answers, sources),
            "exact_targets": _share(answers, targets),
            "chrf_to_target": round(metric.corpus_score(answers, [targets]).score, 1),
            "chrf_to_source": round(metric.corpus_score(answers, [sources]).score, 1),
            "source_chrf_to_target": round(metric.corpus_score(sources, [targets]).score, 1),
            "samples": [
                {"kind": each.kind, "source": each.source, "target": each.target, "answer": answer}
                for each, answer in list(zip(own, answers, strict=True))[:N_SAMPLES]
            ],
        }
    return report


def _share(answers: Sequence[str], wanted: Sequence[str]) -> float:
    equal = sum(a.strip() == b.strip() for a, b in zip(answers, wanted, strict=True))
    return round(equal / max(1, len(answers)), 3)


def continuation_samples(
    model: PeftModel, tokenizer: TextTokenizer, examples: Sequence[TaskExample]
) -> dict[str, Any]:
    """Continuations at the first held-out carets of each language: min-p 0.1, temperature 1, seeds 0 on."""
    how = {"do_sample": True, "min_p": 0.1, "top_k": 0, "top_p": 1.0, "temperature": 1.0}
    report: dict[str, Any] = {}
    for language in sorted({example.language for example in examples}):
        own = [example for example in examples if example.language == language][:N_SAMPLES]
        report[language] = []
        for seed, each in enumerate(own):
            torch.manual_seed(seed)
            answer = _answer(model, tokenizer, each, _N_SAMPLED, how)
            report[language].append({"before": each.source[-120:], "answer": answer})
    return report


def main(argv: Sequence[str] | None = None) -> None:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(prog="training.evaluate_task", description=__doc__)
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--adapter", type=Path, required=True, help="a folder in our format")
    parser.add_argument("--examples", type=Path, required=True, help="made by training.task_data")
    parser.add_argument("--n-greedy", type=int, default=50, help="rewritings a language")
    parser.add_argument("--threads", type=int, default=0, help="torch threads, 0 keeps the default")
    parser.add_argument("--out", type=Path, help="write the JSON here")
    args = parser.parse_args(argv)
    if args.threads:
        torch.set_num_threads(args.threads)
    manifest = parse_manifest((args.adapter / JSON_NAME).read_bytes(), args.adapter.name)
    base = load_base(args.base)
    model = attach_adapter(base, args.adapter).eval()
    config: Any = base.config
    tokenizer = TextTokenizer(args.base / "tokenizer.json", config.vocab_size)
    examples = list(read_examples(args.examples, "held_out"))
    report: dict[str, Any] = {"adapter": manifest.name, "task": manifest.task}
    report["loss_nats_per_token"] = loss_report(model, examples)
    if manifest.task == "rephrase":
        report["rewriting"] = rewriting_report(model, tokenizer, examples, args.n_greedy)
    else:
        report["samples"] = continuation_samples(model, tokenizer, examples)
    text = json.dumps(report, indent=2, ensure_ascii=False)
    if args.out is None:
        print(text)
    else:
        write_atomic(args.out, text + "\n")


if __name__ == "__main__":
    main()
