"""Does the style encoder know an author it never saw? `python -m training.evaluate_style --encoder DIR --texts FILE`.

Authors are those of the dev and test splits, none of them trained on. Queries come from one work, their
author's profile from the author's *other* works only. Beside the encoder, in the same run: raw cosine of
HashingVectorizer's character n-grams, and of function-word frequencies. Intervals are 95 % bootstrap over works.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse
from sklearn.feature_extraction.text import CountVectorizer, HashingVectorizer
from sklearn.preprocessing import normalize

from indexer.style_encoder import load_style_encoder
from pushkin_runtime.control_tokens import LANGUAGES
from training.checkpoint import write_atomic
from training.persona_data import WorkRuns, load

QUERIES = 24  # paragraphs of one work
PROFILE = 64  # paragraphs
MAX_WORKS = 10  # of one author
N_FUNCTION_WORDS = 200
N_BOOTSTRAP = 1000
Represent = Callable[[list[str]], Any]  # texts -> matrix, dense or sparse, a row each


@dataclass(frozen=True)
class Panel:
    """Paragraphs of unseen authors of one language. author, work (n,): ids; names: of the authors."""

    texts: list[str]
    author: Any
    work: Any
    names: list[str]


def panel_of(works: Sequence[WorkRuns], language: str) -> Panel:
    """QUERIES evenly spaced paragraphs of up to MAX_WORKS works of each author with two works or more."""
    own = [work for work in works if work.language == language]
    counts = Counter(work.author for work in own)
    names = sorted(name for name, n in counts.items() if n > 1)
    texts: list[str] = []
    labels: list[tuple[int, int]] = []
    for place, name in enumerate(names):
        longest = sorted((w for w in own if w.author == name), key=lambda w: -len(w.runs))
        for index, work in enumerate(longest[:MAX_WORKS]):
            paragraphs = list(work.paragraphs)
            chosen = paragraphs[:: max(1, len(paragraphs) // QUERIES)][:QUERIES]
            texts += chosen
            labels += [(place, place * MAX_WORKS + index)] * len(chosen)
    ids = np.array(labels)
    return Panel(texts, ids[:, 0], ids[:, 1], names)


def function_words(works: Sequence[WorkRuns]) -> Represent:
    """Standardised relative frequencies of the words that most training authors use."""
    sample = [text for work in works for text in list(work.paragraphs)[::8]]
    vectorizer = CountVectorizer(
        max_features=N_FUNCTION_WORDS, token_pattern=r"(?u)\b\w+\b", dtype=np.float32
    )
    rates = normalize(vectorizer.fit_transform(sample), "l1").toarray()
    mean, scale = rates.mean(0), rates.std(0) + 1e-6

    def represent(texts: list[str]) -> Any:
        return (normalize(vectorizer.transform(texts), "l1").toarray() - mean) / scale

    return represent


def hashed_characters(texts: list[str]) -> Any:
    """The usual baseline of stylometry that needs no training."""
    vectorizer = HashingVectorizer(analyzer="char_wb", ngram_range=(2, 4), n_features=2**18)
    return vectorizer.transform(texts).astype(np.float32)


def attribution(panel: Panel, matrix: Any, n_joined: int, seed: int = 0) -> tuple[Any, Any]:
    """For queries of `n_joined` paragraphs: (correct (n,) bool, work (n,)). Candidates: all authors."""
    rng = np.random.default_rng(seed)
    unit = normalize(matrix)
    correct, works = [], []
    for work in np.unique(panel.work):
        rows = np.flatnonzero(panel.work == work)
        author = panel.author[rows[0]]
        profiles = []
        for candidate in range(len(panel.names)):
            pool = np.flatnonzero((panel.author == candidate) & (panel.work != work))
            chosen = rng.choice(pool, min(PROFILE, len(pool)), replace=False)
            profiles.append(_mean(unit, chosen))
        queries = [
            _mean(unit, rows[start : start + n_joined])
            for start in range(0, len(rows) - n_joined + 1, n_joined)
        ]
        if queries:
            similar = np.stack(queries) @ np.stack(profiles).T
            correct.append(similar.argmax(1) == author)
            works += [work] * len(queries)
    return np.concatenate(correct), np.array(works)


def _mean(unit: Any, rows: Any) -> Any:
    mean = np.asarray(unit[rows].mean(axis=0)).ravel()
    return mean / max(1e-9, float(np.linalg.norm(mean)))


def verification(panel: Panel, matrix: Any) -> tuple[Any, Any]:
    """For each paragraph the AUC of its cosine: same author's other works against other authors; and its work."""
    unit = normalize(matrix)
    similar = unit @ unit.T
    dense = similar.toarray() if sparse.issparse(similar) else np.asarray(similar)
    same = panel.author[:, None] == panel.author[None]
    positive = same & (panel.work[:, None] != panel.work[None])
    areas = []
    for row, own, kin in zip(dense, positive, same, strict=True):
        ranks = np.searchsorted(np.sort(row[~kin]), row[own])
        areas.append(ranks.mean() / (~kin).sum())
    return np.array(areas), panel.work


def interval(values: Any, clusters: Any, seed: int = 0) -> dict[str, Any]:
    """Mean with a 95 % interval, bootstrapped over clusters."""
    rng = np.random.default_rng(seed)
    groups = [values[clusters == cluster] for cluster in np.unique(clusters)]
    sums = np.array([group.sum() for group in groups], float)
    sizes = np.array([len(group) for group in groups], float)
    draws = rng.integers(len(groups), size=(N_BOOTSTRAP, len(groups)))
    means = sums[draws].sum(1) / sizes[draws].sum(1)
    low, high = np.percentile(means, [2.5, 97.5])
    return {
        "mean": round(float(values.mean()), 4),
        "ci95": [round(float(low), 4), round(float(high), 4)],
        "n": len(values),
        "clusters": len(groups),
    }


def scores(panel: Panel, represent: Represent) -> dict[str, Any]:
    """All figures of one representation."""
    matrix = represent(panel.texts)
    return {
        "verification_auc": interval(*verification(panel, matrix)),
        "top1_one_paragraph": interval(*attribution(panel, matrix, 1)),
        "top1_eight_paragraphs": interval(*attribution(panel, matrix, 8)),
    }


def evaluate(encoder: Path, works: Sequence[WorkRuns]) -> dict[str, Any]:
    """Figures by language and representation, and the encoder's speed on one thread."""
    loaded = load_style_encoder(encoder)
    report: dict[str, Any] = {"space": loaded.space.id}
    texts: list[str] = []
    for language in LANGUAGES:
        unseen = [work for work in works if work.split in ("dev", "test")]
        panel = panel_of(unseen, language)
        seen = [work for work in works if work.split == "train" and work.language == language]
        report[language] = {
            "authors": panel.names,
            "chance_top1": round(1 / len(panel.names), 4),
            "style_encoder": scores(panel, loaded.embed),
            "hashed_characters": scores(panel, hashed_characters),
            "function_words": scores(panel, function_words(seen)),
        }
        texts += panel.texts[:500]
    began = time.process_time()
    loaded.embed(texts)
    took = time.process_time() - began
    report["paragraphs_per_cpu_second"] = round(len(texts) / took)
    report["mean_characters"] = round(sum(map(len, texts)) / len(texts))
    return report


def main(argv: Sequence[str] | None = None) -> None:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(prog="training.evaluate_style", description=__doc__)
    parser.add_argument("--encoder", type=Path, required=True)
    parser.add_argument("--texts", type=Path, required=True, help="made by training.persona_data")
    parser.add_argument("--out", type=Path, help="write the JSON here")
    args = parser.parse_args(argv)
    text = json.dumps(evaluate(args.encoder, load(args.texts)), indent=2, ensure_ascii=False)
    print(text)
    if args.out is not None:
        write_atomic(args.out, text + "\n")


if __name__ == "__main__":
    main()
