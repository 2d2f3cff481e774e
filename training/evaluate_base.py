"""Bits per character on held-out authors, against xz and PPM: `python -m training.evaluate_base`.

The text is fixed: passages from the middle of works of the held-out authors, half of the characters
from each author. Every token is scored once, with at least half a window of context after the first
window. Characters are counted, not bytes. JSON goes to stdout, or to `--out`.
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

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from transformers import Gemma3ForCausalLM

from pushkin_runtime.control_tokens import LANGUAGES, prefix_ids
from training.checkpoint import write_atomic
from training.corpora import DEFAULT_DATA, Work, all_works, held_out_works
from training.export import load_checkpoint, load_exported
from training.shards import encode_text
from training.tokenizer import load_tokenizer

WINDOW = 1024
STRIDE = 512
SCORED_TAIL = 128  # the tokens whose loss is compared under different contexts
CONTEXTS: tuple[int, ...] = (32, 128, 256, 512, 896)
PASSAGE_CHARS = 20_000
PPM_ORDERS: tuple[int, ...] = (4, 5, 6, 8)
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


def sample(test: ModelUnderTest, language: str, prompt: str, n_tokens: int, seed: int) -> str:
    """A continuation at min-p 0.1, temperature 1, from the control prefix and a prompt."""
    ids = test.prefix(language) + encode_text(test.tokenizer, prompt)
    torch.manual_seed(seed)
    model: Any = test.model
    output = model.generate(
        torch.tensor([ids]),
        max_new_tokens=n_tokens,
        do_sample=True,
        min_p=0.1,
        top_k=0,
        top_p=1.0,
        temperature=1.0,
    )
    return prompt + str(test.tokenizer.decode(output[0, len(ids) :].tolist()))


def evaluate(tests: list[ModelUnderTest], texts: dict[str, list[str]]) -> dict[str, Any]:
    """All figures by language; the first model is the shipped one and also writes the samples."""
    report: dict[str, Any] = {}
    for language, own in texts.items():
        entry: dict[str, Any] = {"characters": sum(map(len, own)), **compressed_bits(own)}
        entry["models"] = {test.name: bits_per_character(test, own, language) for test in tests}
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
    text = json.dumps(evaluate(tests, texts), indent=2, ensure_ascii=False)
    if args.out is None:
        print(text)
    else:
        write_atomic(args.out, text + "\n")


if __name__ == "__main__":
    main()
