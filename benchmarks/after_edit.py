"""What going on after an edit in the middle costs, in time and in truth, when keys and values behind it are moved.

    python -m benchmarks.after_edit --text FILE... [--model DIR] [--tokens N] [--distance N]... [--cases N]

harm: documents are edited at some distance from their end and gone on with, once from moved keys and values, once read
again; the next tokens' distributions are compared. time: what either takes to the first token's logits.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.harness import REPOSITORY, Figure, Report, describe_machine, figure, publish, say
from pushkin_runtime.cache_reuse import (
    REREAD_AFTER,
    REREAD_BEFORE,
    Run,
    common_prefix,
    reusable_runs,
)
from pushkin_runtime.engines.base import Engine, EngineOptions, KVCache, Tokens
from pushkin_runtime.engines.registry import choose_engine, create_engine

CHUNK = 128
N_AFTER = 32  # tokens after the caret whose distributions are compared
DISTANCES = (384, 768, 1536)  # tokens from the edit to the end
EDITS = ("delete a word", "change a word", "put in a sentence", "delete a sentence")
SENTENCE = 14  # words


@dataclass(frozen=True, slots=True)
class Case:
    """Tokens of a text before and after one edit, the caret at its end, and what really followed."""

    kind: str
    distance: int
    old: NDArray[np.int64]
    new: NDArray[np.int64]
    following: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Harm:
    """nats: the divergence KL(exact || moved) of each next token. same: whether the likeliest is. loss: that of the
    moved less that of the exact one on the text as it goes on (nats)."""

    nats: NDArray[np.float64]
    same: NDArray[np.bool_]
    loss: NDArray[np.float64]


def cases(
    engine: Engine,
    texts: Sequence[str],
    n_tokens: int,
    n_cases: int,
    distances: Sequence[int] = DISTANCES,
) -> Iterator[Case]:
    """Yield edits of every kind at every distance, each of a passage of its own."""
    chance = random.Random(1799)
    combinations = [(kind, far) for far in distances for kind in EDITS]
    for number in range(n_cases):
        kind, distance = combinations[number % len(combinations)]
        words = chance.choice(texts).split(" ")
        per_word = len(engine.tokenizer.encode(" ".join(words[:2000]))) / min(2000, len(words))
        n_words = round(n_tokens / per_word)
        start = chance.randrange(max(1, len(words) - n_words - 100))
        passage = words[start : start + n_words]
        at = len(passage) - round(distance / per_word)
        edited = _edited(passage, at, kind, words, chance)
        after = " " + " ".join(words[start + n_words : start + n_words + 100])
        bos = engine.tokenizer.bos_id
        old, new = (
            np.array([bos, *engine.tokenizer.encode(" ".join(of))], np.int64)
            for of in (passage, edited)
        )
        yield Case(kind, distance, old, new, tuple(engine.tokenizer.encode(after)[:N_AFTER]))


def _edited(
    passage: list[str], at: int, kind: str, words: list[str], chance: random.Random
) -> list[str]:
    other = chance.randrange(len(words) - SENTENCE)
    put = {
        "delete a word": [],
        "change a word": words[other : other + 1],
        "put in a sentence": words[other : other + SENTENCE],
        "delete a sentence": [],
    }[kind]
    n_lost = {"put in a sentence": 0, "delete a sentence": SENTENCE}.get(kind, 1)
    return [*passage[:at], *put, *passage[at + n_lost :]]


def read(engine: Engine, cache: KVCache, tokens: Sequence[int]) -> None:
    """Append tokens a chunk at a time, as the runtime does."""
    for start in range(0, len(tokens), CHUNK):
        engine.prefill(cache, Tokens(tuple(tokens[start : start + CHUNK])))


def moved(
    engine: Engine, source: KVCache, new: Sequence[int], n_same: int, runs: Sequence[Run]
) -> KVCache:
    """Return a cache of all of `new` but its last token, from one of the text before the edit."""
    cache = engine.fork(source, n_tokens=n_same)
    gaps, end = [], n_same
    for run in runs:
        gaps.append(range(end, run.at))
        engine.splice(cache, source, range(run.source, run.source + run.n_tokens), run.at)
        end = run.end
    for gap in gaps:
        for start in range(gap.start, gap.stop, CHUNK):
            engine.reread(cache, start, new[start : min(start + CHUNK, gap.stop)])
    read(engine, cache, new[end:-1])
    return cache


def distributions(engine: Engine, cache: KVCache, case: Case) -> NDArray[np.float64]:
    """Return (1 + N_AFTER, vocab_size) log-probabilities after the text and after each token that followed."""
    logits = engine.logits(cache, [int(case.new[-1]), *case.following])
    wide = logits.astype(np.float64)
    wide -= wide.max(axis=-1, keepdims=True)
    wide -= np.log(np.exp(wide).sum(axis=-1, keepdims=True))
    return wide


def harm_of(exact: NDArray[np.float64], other: NDArray[np.float64], case: Case) -> Harm:
    """Compare two rows of distributions over the same tokens."""
    following = np.array(case.following)
    rows = np.arange(len(following))
    return Harm(
        nats=(np.exp(exact) * (exact - other)).sum(axis=-1),
        same=exact.argmax(axis=-1) == other.argmax(axis=-1),
        loss=exact[rows, following] - other[rows, following],
    )


@dataclass(slots=True)
class Outcome:
    """What was compared, by kind of edit and by distance; seconds from the edit's place to the next token."""

    harms: dict[str, list[Harm]]
    moved_s: list[float]
    read_s: list[float]
    n_read: list[int]


def compare(
    engine: Engine, found: Iterator[Case], *, min_run: int, after: int, before: int
) -> Outcome:
    """Go on with every case in both ways."""
    outcome = Outcome(defaultdict(list), [], [], [])
    for case in found:
        n_same = common_prefix(case.old, case.new)
        runs = reusable_runs(
            case.old, case.new, n_same=n_same, min_run=min_run, after=after, before=before
        )
        if not runs:
            say(f"{case.kind}, {case.distance}: nothing to move")
            continue
        old, new = case.old.tolist(), case.new.tolist()
        source = engine.new_cache()
        read(engine, source, old)
        started = time.perf_counter()
        again = engine.fork(source, n_tokens=n_same)
        read(engine, again, new[n_same:-1])
        engine.logits(again, new[-1:])
        between = time.perf_counter()
        cache = moved(engine, source, new, n_same, runs)
        engine.logits(cache, new[-1:])
        outcome.moved_s.append(time.perf_counter() - between)
        outcome.read_s.append(between - started)
        exact, other = (distributions(engine, held, case) for held in (again, cache))
        outcome.n_read.append(len(new) - n_same - sum(run.n_tokens for run in runs))
        harm = harm_of(exact, other, case)
        for name in ("all", case.kind, f"{case.distance} tokens before the end"):
            outcome.harms[name].append(harm)
    return outcome


def figures_of(outcome: Outcome) -> dict[str, Figure]:
    """The divergence of each next token by group, the share of equal likeliest ones, and the times."""
    found = {
        "time_ratio": figure(
            [a / b for a, b in zip(outcome.moved_s, outcome.read_s, strict=True)], "", bar=0.3
        ),
        "moved_ms": figure([1000 * s for s in outcome.moved_s], "ms"),
        "read_again_ms": figure([1000 * s for s in outcome.read_s], "ms"),
        "tokens_read": figure([float(n) for n in outcome.n_read], "tokens"),
    }
    for name, harms in outcome.harms.items():
        nats = np.concatenate([harm.nats for harm in harms])
        found[f"kl, {name}"] = figure(nats.tolist(), "nats")
    return found


def counts_of(outcome: Outcome) -> dict[str, float]:
    """Means, which the default is decided by."""
    counts: dict[str, float] = {}
    for name, harms in outcome.harms.items():
        first = [harm.nats[0] for harm in harms]
        counts[f"mean kl, {name}"] = round(float(np.mean([h.nats.mean() for h in harms])), 6)
        counts[f"mean kl of the first token, {name}"] = round(float(np.mean(first)), 6)
        counts[f"same likeliest, {name}"] = round(float(np.mean([h.same.mean() for h in harms])), 4)
        counts[f"loss added, {name}"] = round(float(np.mean([h.loss.mean() for h in harms])), 6)
    return counts


def main(argv: Sequence[str] | None = None) -> int:
    """Run; never fails by a figure."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="no table on stderr")
    parser.add_argument("--model", type=Path, default=REPOSITORY / "models" / "pushkin-mini")
    parser.add_argument("--text", type=Path, action="append", required=True, help="prose, UTF-8")
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--tokens", type=int, default=1900, help="of each document")
    parser.add_argument(
        "--distance", type=int, action="append", help=f"tokens from the edit; {DISTANCES} if none"
    )
    parser.add_argument("--cases", type=int, default=48)
    parser.add_argument("--min-run", type=int, default=128, help="tokens worth moving")
    parser.add_argument("--after", type=int, default=REREAD_AFTER, help="read again after an edit")
    parser.add_argument("--before", type=int, default=REREAD_BEFORE, help="and before the end")
    arguments = parser.parse_args(argv)
    texts = [file.read_text(encoding="utf-8") for file in arguments.text]
    options = EngineOptions(model_dir=arguments.model, n_threads=arguments.threads)
    engine = create_engine(choose_engine(arguments.engine), options)
    outcome = compare(
        engine,
        cases(engine, texts, arguments.tokens, arguments.cases, arguments.distance or DISTANCES),
        min_run=arguments.min_run,
        after=arguments.after,
        before=arguments.before,
    )
    report = Report(
        benchmark="after_edit",
        environment={
            **describe_machine(),
            "model": engine.info.id,
            "engine": engine.name,
            "read again": f"{arguments.after} after the edit, {arguments.before} before the end",
        },
        figures=figures_of(outcome),
        counts=counts_of(outcome),
        notes=(f"compared: the {1 + N_AFTER} distributions at the end of the text and after it",),
    )
    publish(report, quiet=arguments.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
