"""Bits per character on held-out authors, against xz, PPM and n-grams: `python -m training.evaluate_base`.

The text is fixed: passages from the middle of works of the held-out authors, half of the characters
from each author. Every token is scored once, with at least half a window of context after the first
window. Characters are counted, not bytes. Loops and repetition are those of 200 tokens after openings
from the same passages, beside what the author wrote there. JSON goes to stdout, or to `--out`.
"""

from __future__ import annotations

import argparse
import json
import lzma
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from transformers import Gemma3ForCausalLM

from pushkin_runtime.control_tokens import LANGUAGES, prefix_ids
from quality.repetition import distinct_n, loop_period
from training.checkpoint import write_atomic
from training.corpora import DEFAULT_DATA, Work, all_works, held_out_works
from training.export import load_checkpoint, load_exported
from training.kneser_ney import KneserNey, train_kneser_ney
from training.shards import encode_text
from training.tokenizer import load_tokenizer

WINDOW = 1024
STRIDE = 512
SCORED_TAIL = 128  # the tokens whose loss is compared under different contexts
CONTEXTS: tuple[int, ...] = (32, 128, 256, 512, 896)
PASSAGE_CHARS = 20_000
PPM_ORDERS: tuple[int, ...] = (4, 5, 6, 8)
NGRAM_TOKENS = 10_000_000  # of the training rows of a language
OPENINGS = 10  # by language; each is followed by as much of the author's text as is generated
OPENING_TOKENS = 32
CONTINUED_TOKENS = 200
LOOP_PERIOD = 19
DISTINCT = 4
PROMPTS: dict[str, tuple[str, ...]] = {
    "en": (
        "The old house stood",
        "“I cannot tell you",
        "It was late in the autumn when",
        "She looked at him and",
        "There are people who",
    ),
    "ru": (
        "Старый дом стоял",
        "— Я не могу",
        "Была поздняя осень, когда",
        "Она посмотрела на него и",
        "Есть люди, которые",
    ),
}


@dataclass(frozen=True)
class ModelUnderTest:
    """A float32 model with its tokenizer; `name` labels its figures."""

    name: str
    model: Gemma3ForCausalLM
    tokenizer: Tokenizer

    def prefix(self, language: str) -> list[int]:
        """The control prefix of prose without an author."""
        return prefix_ids(
            self.tokenizer.get_vocab().__getitem__,
            lambda text: list(self.tokenizer.encode(text, add_special_tokens=False).ids),
            language,
        )


def passages(works: dict[str, list[Work]], n_chars: int) -> list[str]:
    """About `n_chars` of text, equal parts by author, from the middle of the longest works."""
    result: list[str] = []
    for author, own in works.items():
        if not own:
            raise ValueError(f"no held-out prose by {author}: is the authors archive unpacked?")
        texts = sorted((work.read() for work in own), key=len, reverse=True)
        share = n_chars // len(works)
        per_work = min(len(texts), max(1, share // PASSAGE_CHARS))
        for text in texts[:per_work]:
            length = min(len(text), math.ceil(share / per_work))
            start = max(0, (len(text) - length) // 2)
            start = text.find("\n\n", start) + 2 if "\n\n" in text[start:] else start
            result.append(text[start : start + length])
    return result


@torch.inference_mode()
def _losses(model: Gemma3ForCausalLM, tokens: list[int], n_scored: int) -> torch.Tensor:
    """NLL in nats of the last `n_scored` tokens given those before, shape (n_scored,)."""
    ids = torch.tensor([tokens[:-1]])
    logits = model(ids, logits_to_keep=n_scored, use_cache=False).logits[0].float()
    return F.cross_entropy(logits, torch.tensor(tokens[-n_scored:]), reduction="none")


def total_nats(test: ModelUnderTest, text: str, language: str) -> tuple[float, int]:
    """Summed NLL of a text in nats, and its number of tokens."""
    prefix = test.prefix(language)
    tokens = encode_text(test.tokenizer, text)
    total, done = 0.0, 0
    while done < len(tokens):
        room = WINDOW - len(prefix) if done == 0 else STRIDE
        end = min(len(tokens), done + room)
        start = max(0, end - (WINDOW - len(prefix)))
        total += float(_losses(test.model, prefix + tokens[start:end], end - done).sum())
        done = end
    return total, len(tokens)


def loss_by_context(test: ModelUnderTest, texts: list[str], language: str) -> dict[str, float]:
    """Mean nats of the same tokens (each window's last 128) by how many tokens precede them."""
    prefix = test.prefix(language)
    sums = dict.fromkeys(CONTEXTS, 0.0)
    n_scored = 0
    for text in texts:
        tokens = encode_text(test.tokenizer, text)
        for start in range(0, len(tokens) - WINDOW + 1, WINDOW):
            window = tokens[start : start + WINDOW]
            n_scored += SCORED_TAIL
            for context in CONTEXTS:
                cut = prefix + window[-(context + SCORED_TAIL) :]
                sums[context] += float(_losses(test.model, cut, SCORED_TAIL).sum())
    return {str(context): value / max(1, n_scored) for context, value in sums.items()}


def compressed_bits(texts: list[str]) -> dict[str, float]:
    """Bits per character of xz -9e and of the best PPMd order, all passages as one file."""
    text = "\n\n".join(texts)
    data = text.encode()
    bits = {"xz_9e": len(lzma.compress(data, preset=9 | lzma.PRESET_EXTREME))}
    try:
        import pyppmd
    except ImportError:
        print("pyppmd is not installed: no PPM figure (pip install 'pushkin[train]')")
    else:
        sizes = [len(pyppmd.compress(data, max_order=n, mem_size=256 << 20)) for n in PPM_ORDERS]
        bits["ppmd_best_order"] = min(sizes)
    return {name: 8 * size / len(text) for name, size in bits.items()}


def bits_per_character(test: ModelUnderTest, texts: list[str], language: str) -> dict[str, float]:
    """Bits per character, and nats and characters per token, over all passages."""
    nats, n_tokens = 0.0, 0
    for text in texts:
        own_nats, own_tokens = total_nats(test, text, language)
        nats += own_nats
        n_tokens += own_tokens
    n_chars = sum(map(len, texts))
    return {
        "bits_per_character": nats / math.log(2) / n_chars,
        "nats_per_token": nats / n_tokens,
        "characters_per_token": n_chars / n_tokens,
    }


def ngram_bits(model: KneserNey, test: ModelUnderTest, texts: list[str]) -> float:
    """Bits per character of an n-gram model over the same pieces, all passages."""
    nats = sum(
        float(model.nats(np.asarray(encode_text(test.tokenizer, text), dtype=np.int64)).sum())
        for text in texts
    )
    return nats / math.log(2) / sum(map(len, texts))


def continued(
    test: ModelUnderTest, ids: list[int], n_tokens: int, seed: int | None = None
) -> list[int]:
    """What follows `ids`: greedy, or with a seed at min-p 0.1, temperature 1; ends at <eos>."""
    sampling: dict[str, Any] = {"do_sample": False}
    if seed is not None:
        torch.manual_seed(seed)
        sampling = {"do_sample": True, "min_p": 0.1, "top_k": 0, "top_p": 1.0, "temperature": 1.0}
    model: Any = test.model
    output = model.generate(torch.tensor([ids]), max_new_tokens=n_tokens, **sampling)
    written: list[int] = output[0, len(ids) :].tolist()
    return written


def sample(test: ModelUnderTest, language: str, prompt: str, n_tokens: int, seed: int) -> str:
    """A continuation at min-p 0.1, temperature 1, from the control prefix and a prompt."""
    ids = test.prefix(language) + encode_text(test.tokenizer, prompt)
    return prompt + str(test.tokenizer.decode(continued(test, ids, n_tokens, seed)))


def repetition(test: ModelUnderTest, texts: list[str], language: str) -> dict[str, Any]:
    """Greedy loops and distinct-4 after openings spread over the passages, beside the authors' own.

    greedy_loops: continuations that end in a loop of a period below 20.
    """
    tokens = [token for text in texts for token in encode_text(test.tokenizer, text)]
    length = OPENING_TOKENS + CONTINUED_TOKENS
    n_openings = min(OPENINGS, len(tokens) // length)
    own: list[float] = []
    human: list[float] = []
    loops: list[int | None] = []
    for number in range(n_openings):
        at = number * (len(tokens) // n_openings)
        ids = test.prefix(language) + tokens[at : at + OPENING_TOKENS]
        human.append(distinct_n(tokens[at + OPENING_TOKENS : at + length], DISTINCT))
        own.append(distinct_n(continued(test, ids, CONTINUED_TOKENS, seed=number), DISTINCT))
        loops.append(loop_period(continued(test, ids, CONTINUED_TOKENS), LOOP_PERIOD))
    n = max(1, n_openings)
    return {
        "openings": n_openings,
        "greedy_loops": sum(period is not None for period in loops),
        "periods": loops,
        f"distinct_{DISTINCT}": sum(own) / n,
        f"distinct_{DISTINCT}_of_the_authors": sum(human) / n,
    }


def evaluate(
    tests: list[ModelUnderTest], texts: dict[str, list[str]], shards: Path | None = None
) -> dict[str, Any]:
    """All figures by language; the first model is the shipped one and also writes the samples.

    shards: rows of training (`training.shards`) for the n-gram baseline; without it there is none.
    """
    report: dict[str, Any] = {}
    for language, own in texts.items():
        entry: dict[str, Any] = {"characters": sum(map(len, own)), **compressed_bits(own)}
        entry["models"] = {test.name: bits_per_character(test, own, language) for test in tests}
        if shards is not None:
            rows = np.load(shards / f"{language}.npy", mmap_mode="r")
            seen = rows[: NGRAM_TOKENS // rows.shape[1]].astype(np.int64).ravel()
            ngrams = train_kneser_ney(seen, tests[0].tokenizer.get_vocab_size())
            entry["kneser_ney_5"] = ngram_bits(ngrams, tests[0], own)
            entry["kneser_ney_tokens"] = len(seen)
        entry["repetition"] = repetition(tests[0], own, language)
        entry["nats_by_context"] = loss_by_context(tests[0], own, language)
        best = entry["models"][tests[0].name]["bits_per_character"]
        entry["below_xz"] = 1 - best / entry["xz_9e"]
        entry["samples"] = [
            sample(tests[0], language, prompt, 120, seed)
            for seed, prompt in enumerate(PROMPTS[language])
        ]
        report[language] = entry
    return report


def main(argv: Sequence[str] | None = None) -> None:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(prog="training.evaluate_base", description=__doc__)
    parser.add_argument("--model", type=Path, required=True, help="an exported INT4 folder")
    parser.add_argument("--checkpoint", type=Path, help="the float checkpoint it was made from")
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA)
    parser.add_argument("--cache", type=Path, required=True, help="where archives are unpacked")
    parser.add_argument("--shards", type=Path, help="training rows, for the n-gram baseline")
    parser.add_argument("--characters", type=int, default=160_000, help="per language")
    parser.add_argument("--out", type=Path, help="write the JSON here")
    args = parser.parse_args(argv)
    tokenizer = load_tokenizer(args.model)
    tests = [ModelUnderTest("int4", load_exported(args.model), tokenizer)]
    if args.checkpoint is not None:
        tests.append(ModelUnderTest("float", load_checkpoint(args.checkpoint), tokenizer))
    works = all_works(args.data, args.cache)
    texts = {
        language: passages(held_out_works(works, language), args.characters)
        for language in LANGUAGES
    }
    text = json.dumps(evaluate(tests, texts, args.shards), indent=2, ensure_ascii=False)
    if args.out is None:
        print(text)
    else:
        write_atomic(args.out, text + "\n")


if __name__ == "__main__":
    main()
