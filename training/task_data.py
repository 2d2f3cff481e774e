"""Examples for one task adapter: `python -m training.task_data --task rephrase --out DIR ...`.

Writes DIR/train.jsonl, DIR/held_out.jsonl and DIR/about.json. Held out are the authors that the base model
never saw and, for people's edits, one original in eight; nothing of them is in train.jsonl. Training
examples stand in the order in which they are to be used: copying comes first, rewriting follows.
"""

from __future__ import annotations

import argparse
import json
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pushkin_runtime.control_tokens import LANGUAGES
from pushkin_runtime.tokenizer import TextTokenizer
from pushkin_runtime.types import Task
from training.checkpoint import write_atomic
from training.corpora import DEFAULT_DATA, Work, all_works, held_out_works, training_works
from training.degraded_data import (
    Selection,
    degraded_pair,
    scrambled_pair,
    selections,
    sentences,
)
from training.edits_data import human_pairs, is_held_out_group
from training.task_examples import (
    TASKS,
    Caret,
    Pair,
    TaskExample,
    continuation_example,
    rephrase_example,
    write_examples,
)

ENGLISH_SHARE = 0.55
_WORK_CHARS = 120_000  # one visit to a work uses at most so much of it
_CONTINUE_CONTEXT = (0, 600)  # characters before the caret
_STORY_CONTEXT = 400


@dataclass(frozen=True)
class Mixture:
    """How many examples, and how the rephrase curriculum runs.

    copying: share of the file during which scrambled and untouched copies fade out. human_share: of
    people's edits after that. max_chars: the longest selection, reached when copying has faded.
    """

    n_train: int = 45_000
    n_held_out: int = 400
    seed: int = 0
    n_completion: int = 128
    copying: float = 0.2
    human_share: float = 0.2
    max_chars: int = 360


Texts = dict[str, list[tuple[str, str]]]  # language -> (group, text)


def work_texts(works: Sequence[Work]) -> Texts:
    """The prose of `works` by language; the group is the author."""
    texts: Texts = {language: [] for language in LANGUAGES}
    for work in works:
        if work.genre == "prose":
            texts[work.language].append((work.author, work.read()))
    return texts


def _visits(texts: list[tuple[str, str]], rng: random.Random) -> Iterator[tuple[str, str]]:
    """(group, a stretch of a work) for ever, works drawn by length."""
    weights = [len(text) for _, text in texts]
    while True:
        group, text = rng.choices(texts, weights)[0]
        start = rng.randrange(max(1, len(text) - _WORK_CHARS))
        yield group, text[start : start + _WORK_CHARS]


def _selections(
    texts: list[tuple[str, str]], rng: random.Random, max_chars: int, per_visit: int = 40
) -> Iterator[tuple[str, Selection]]:
    for group, text in _visits(texts, rng):
        for index, selection in enumerate(selections(text, rng, max_chars)):
            if index == per_visit:
                break
            yield group, selection


def _language(rng: random.Random) -> str:
    return "en" if rng.random() < ENGLISH_SHARE else "ru"


def rephrase_pairs(texts: Texts, human: Sequence[Pair], mixture: Mixture) -> Iterator[Pair]:
    """Training pairs for ever, `mixture.n_train` of them making one curriculum."""
    rng = random.Random(f"rephrase-{mixture.seed}")
    streams = {
        language: _selections(texts[language], rng, mixture.max_chars) for language in LANGUAGES
    }
    by_language = {
        language: [pair for pair in human if pair.language == language] for language in LANGUAGES
    }
    count = 0
    while True:
        progress = min(1.0, count / (mixture.copying * mixture.n_train))
        count += 1
        language = _language(rng)
        drawn = rng.random()
        if by_language[language] and drawn < mixture.human_share * progress:
            yield rng.choice(by_language[language])
            continue
        group, selection = next(streams[language])
        if drawn > 1.0 - 0.5 * (1.0 - progress):
            chosen = [selection, next(streams[language])[1]]
            yield scrambled_pair(chosen, rng, language, group)
        else:
            yield degraded_pair(selection, rng, language, group, 0.1 + 0.5 * (1.0 - progress))


def held_out_pairs(texts: Texts, human: Sequence[Pair], mixture: Mixture) -> Iterator[Pair]:
    """`n_held_out` synthetic pairs of held-out authors a language, then people's held-out edits."""
    rng = random.Random(f"held-out-{mixture.seed}")
    for language in LANGUAGES:
        stream = _selections(texts[language], rng, mixture.max_chars, per_visit=5)
        for _ in range(mixture.n_held_out):
            group, selection = next(stream)
            yield degraded_pair(selection, rng, language, group, copy_share=0.0)
    yield from human


def carets(
    texts: list[tuple[str, str]], rng: random.Random, language: str, per_visit: int = 30
) -> Iterator[Caret]:
    """Where a person may stop: after a paragraph or a sentence, after a word, inside one."""
    for group, text in _visits(texts, rng):
        for _ in range(per_visit):
            at = rng.randrange(len(text) // 8, len(text) - 1)
            kind = rng.choices(("paragraph", "sentence", "word", "inside"), (2, 3, 4, 3))[0]
            at = _move_caret(text, at, kind)
            start = max(0, at - rng.randint(*_CONTINUE_CONTEXT))
            start = text.find(" ", start, at) + 1 or start if start else 0
            yield Caret(language, kind, group, text[start:at], text[at : at + 1200])


def _move_caret(text: str, at: int, kind: str) -> int:
    """The next place of that kind, at most 1,000 characters on; `at` itself if there is none."""
    if kind == "paragraph":
        found = text.find("\n\n", at, at + 1000)
        return found + 2 if found >= 0 else at
    if kind == "sentence":
        ends = [text.find(mark, at, at + 1000) for mark in (". ", "! ", "? ", ", ")]
        ends = [end for end in ends if end >= 0]
        return min(ends) + 2 if ends else at
    if kind == "word":
        found = text.find(" ", at, at + 1000)
        return found if found >= 0 else at
    return at


def premises(
    texts: list[tuple[str, str]], rng: random.Random, language: str, per_visit: int = 10
) -> Iterator[Caret]:
    """The first sentences of a stretch of prose as a premise, and what the author made of it."""
    for group, text in _visits(texts, rng):
        paragraphs = text.split("\n\n")
        for _ in range(min(per_visit, len(paragraphs) - 4)):
            at = rng.randrange(1, len(paragraphs) - 3)
            opening = sentences(" ".join(paragraphs[at].split()))[:2]
            premise = " ".join(opening)
            rest = "\n\n".join(paragraphs[at + 1 : at + 12])
            if 20 <= len(premise) <= _STORY_CONTEXT and premise[-1:] in ".!?…" and rest:
                yield Caret(language, "premise", group, premise, rest)


def _continuations(
    task: Task, texts: Texts, tokenizer: TextTokenizer, mixture: Mixture, label: str
) -> Iterator[TaskExample]:
    """Examples for ever; held-out ones alternate the languages, training ones follow the mixture."""
    rng = random.Random(f"{task}-{label}-{mixture.seed}")
    make: Callable[..., Iterator[Caret]] = premises if task == "story" else carets
    few = {"per_visit": 3} if label == "held_out" else {}
    streams = {language: make(texts[language], rng, language, **few) for language in LANGUAGES}
    n_tokens = mixture.n_completion * (4 if task == "story" else 1)
    count = 0
    while True:
        language = LANGUAGES[count % 2] if label == "held_out" else _language(rng)
        example = continuation_example(tokenizer, next(streams[language]), n_tokens, task)
        if example is not None:
            count += 1
            yield example


def _take(examples: Iterator[TaskExample], n_examples: int) -> list[TaskExample]:
    return [next(examples) for _ in range(n_examples)]


def build(
    task: Task, works: Sequence[Work], human: Sequence[Pair], tokenizer: TextTokenizer, m: Mixture
) -> dict[str, list[TaskExample]]:
    """The examples of both splits. works: all of the archives, held-out authors included."""
    kept, _ = training_works(works)
    train = work_texts(kept)
    held = work_texts(
        [
            work
            for language in LANGUAGES
            for own in held_out_works(works, language).values()
            for work in own
        ]
    )
    if task != "rephrase":
        return {
            "train": _take(_continuations(task, train, tokenizer, m, "train"), m.n_train),
            "held_out": _take(
                _continuations(task, held, tokenizer, m, "held_out"), m.n_held_out * len(LANGUAGES)
            ),
        }
    kept_human = [pair for pair in human if is_held_out_group(pair.group)]
    other = [pair for pair in human if not is_held_out_group(pair.group)]
    made = (rephrase_example(tokenizer, pair) for pair in rephrase_pairs(train, other, m))
    tests = (rephrase_example(tokenizer, pair) for pair in held_out_pairs(held, kept_human, m))
    return {
        "train": _take((example for example in made if example is not None), m.n_train),
        "held_out": [example for example in tests if example is not None],
    }


def describe(
    task: Task, splits: dict[str, list[TaskExample]], mixture: Mixture
) -> dict[str, object]:
    """What about.json says: counts by language and kind, and tokens."""
    return {
        "task": task,
        "seed": mixture.seed,
        **{
            split: {
                "examples": len(examples),
                "tokens": sum(example.n_tokens for example in examples),
                "completion_tokens": sum(len(example.completion) for example in examples),
                "kinds": dict(
                    sorted(Counter(f"{each.language}/{each.kind}" for each in examples).items())
                ),
            }
            for split, examples in splits.items()
        },
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(prog="training.task_data", description=__doc__)
    defaults = Mixture()
    parser.add_argument("--task", choices=TASKS, required=True)
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA)
    parser.add_argument("--cache", type=Path, required=True, help="where archives are unpacked")
    parser.add_argument("--edits", type=Path, help="the unpacked writing-edits archive (rephrase)")
    parser.add_argument("--base", type=Path, required=True, help="the model, for its tokenizer")
    parser.add_argument("--out", type=Path, required=True)
    for name in ("n_train", "n_held_out", "n_completion", "max_chars", "seed"):
        flag = "--" + name.replace("_", "-")
        parser.add_argument(flag, type=int, default=getattr(defaults, name))
    args = parser.parse_args(argv)
    mixture = replace(
        defaults,
        n_train=args.n_train,
        n_held_out=args.n_held_out,
        n_completion=args.n_completion,
        max_chars=args.max_chars,
        seed=args.seed,
    )
    config = json.loads((args.base / "config.json").read_text(encoding="utf-8"))
    tokenizer = TextTokenizer(args.base / "tokenizer.json", config["vocab_size"])
    human = human_pairs(args.edits) if args.edits is not None else []
    if args.task == "rephrase" and not human:
        print("no --edits: synthetic pairs only")
    splits = build(args.task, all_works(args.data, args.cache), human, tokenizer, mixture)
    args.out.mkdir(parents=True, exist_ok=True)
    for split, examples in splits.items():
        write_examples(args.out / f"{split}.jsonl", examples)
    about = describe(args.task, splits, mixture)
    write_atomic(args.out / "about.json", json.dumps(about, indent=2, ensure_ascii=False) + "\n")
    print(json.dumps(about, ensure_ascii=False))


if __name__ == "__main__":
    main()
