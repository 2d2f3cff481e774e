"""Whose text is it? A classifier of character n-grams, trained on human text, judges what the model generates.

The openings are fixed and nobody's, so that only the persona can give an author away. Accuracy is the share of
texts that are attributed to the author whose persona was on, among all authors of the language at hand.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from tokenizers import Tokenizer

from training.evaluate_base import PROMPTS
from training.persona_examples import Author, rows_of, sample_history
from training.persona_lora import PersonaModel

N_TOKENS = 96  # of a generated text, and of the human texts
HUMAN_TEXTS = 150  # of each author, for training the classifier; a fifth is held back
N_HISTORY = 64


@dataclass(frozen=True)
class AttributionTask:
    """authors: of one language, the classes; targets: whose personas are put on; n_texts: for each condition."""

    authors: Sequence[Author]
    targets: Sequence[str]
    tokenizer: Tokenizer
    n_texts: int


def human_texts(author: Author, tokenizer: Tokenizer, rng: np.random.Generator) -> list[str]:
    """Pieces of N_TOKENS tokens from all of an author's works, in random order."""
    pieces = [
        tokens[start : start + N_TOKENS]
        for source in author.sources
        for tokens in source.tokens
        for start in range(0, len(tokens) - N_TOKENS + 1, N_TOKENS)
    ]
    order = rng.permutation(len(pieces))[:HUMAN_TEXTS]
    return [str(tokenizer.decode(pieces[index].tolist())) for index in order]


def classifier(task: AttributionTask, seed: int = 0) -> tuple[Pipeline, float]:
    """The classifier, trained on four fifths of the human texts, and its accuracy on the rest."""
    rng = np.random.default_rng(seed)
    parts: dict[bool, tuple[list[str], list[str]]] = {True: ([], []), False: ([], [])}
    for author in task.authors:
        for index, text in enumerate(human_texts(author, task.tokenizer, rng)):
            texts, names = parts[index % 5 == 0]
            texts.append(text)
            names.append(author.name)
    model = make_pipeline(
        TfidfVectorizer(
            analyzer="char", ngram_range=(1, 4), max_features=50_000, sublinear_tf=True
        ),
        LogisticRegression(C=10.0, max_iter=200, class_weight="balanced"),
    )
    model.fit(*parts[False])
    return model, float(model.score(*parts[True]))


@dataclass(frozen=True)
class Condition:
    """persona: of the target author, else the null one or no rows. strength: of the persona."""

    persona: bool
    rows: bool = True
    strength: float = 1.0


CONDITIONS: dict[str, Condition] = {
    "on": Condition(persona=True),
    "strength_2": Condition(persona=True, strength=2.0),
    "null": Condition(persona=False),
    "base": Condition(persona=False, rows=False),
}


@torch.inference_mode()
def generate(
    model: PersonaModel, task: AttributionTask, condition: Condition, seed: int
) -> tuple[list[str], list[str]]:
    """Continuations of the openings at min-p 0.1, and whose persona each was written under (in turns)."""
    rng = np.random.default_rng(seed)
    base: Any = model.model
    base = base.get_base_model() if hasattr(base, "get_base_model") else base
    targets = [author for author in task.authors if author.name in task.targets]
    prefix = list(targets[0].sources[0].prefix)
    empty = np.zeros_like(targets[0].sources[0].vectors[0][0])
    openings = PROMPTS[targets[0].language]
    per_opening = max(len(targets), task.n_texts // len(openings))
    whose = [targets[index % len(targets)] for index in range(per_opening)]
    texts: list[str] = []
    torch.manual_seed(seed)
    for opening in openings:
        ids = task.tokenizer.encode(opening, add_special_tokens=False).ids
        histories = [
            sample_history(author.sources, N_HISTORY * condition.persona, rng) for author in whose
        ]
        batch = [np.array(prefix + ids)] * per_opening
        rows = rows_of(batch, len(prefix), [empty] * per_opening, histories)
        embedded = base.get_input_embeddings()(rows.ids)
        if condition.rows:
            persona, _ = model.plug(rows.history, condition.strength)
            n = model.n_before
            embedded = torch.cat([embedded[:, :n], persona, embedded[:, n:]], 1)
        output = base.generate(
            inputs_embeds=embedded,
            attention_mask=torch.ones(embedded.shape[:2], dtype=torch.int64),
            max_new_tokens=N_TOKENS,
            do_sample=True,
            min_p=0.1,
            top_k=0,
            top_p=1.0,
            temperature=1.0,
        )
        texts += [str(task.tokenizer.decode(row)) for row in output.tolist()]
    return texts, [author.name for author in whose] * len(openings)


def attribution(
    model: PersonaModel, bare: PersonaModel, task: AttributionTask, seed: int = 0
) -> dict[str, Any]:
    """Accuracy by condition with a 95 % interval over texts, and of the classifier on human text.

    Without a persona a text is nobody's: each counts for the author whose turn it would have been.
    """
    judge, human = classifier(task, seed)
    report: dict[str, Any] = {
        "classes": len(task.authors),
        "human_accuracy": round(human, 4),
        "tokens_per_text": N_TOKENS,
    }
    samples: dict[str, str] = {}
    for name, condition in CONDITIONS.items():
        texts, whose = generate(model if condition.rows else bare, task, condition, seed)
        guesses = judge.predict(texts)
        hits = [guess == author for guess, author in zip(guesses, whose, strict=True)]
        report[name] = _proportion(np.array(hits, float))
        samples[name] = f"{whose[0]}: {texts[0]}"
    off = report["null"]["mean"]
    report["on_over_null"] = round(report["on"]["mean"] / off, 2) if off else None
    report["samples"] = samples
    return report


def _proportion(hits: Any) -> dict[str, Any]:
    draws = np.random.default_rng(0).choice(hits, (1000, len(hits))).mean(1)
    low, high = np.percentile(draws, [2.5, 97.5])
    return {
        "mean": round(float(hits.mean()), 4),
        "ci95": [round(float(low), 4), round(float(high), 4)],
        "n": len(hits),
    }
