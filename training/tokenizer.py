"""A 16,384-piece English and Russian BPE tokenizer, laid out like Gemma's.

`python -m training.tokenizer --out DIR` trains it with Hugging Face's `tokenizers` and writes
tokenizer.json, tokenizer_config.json and special_tokens_map.json. Spaces become ▁, digits stand
alone, anything outside the alphabet falls back to bytes, and decode(encode(text)) == text.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.processors import TemplateProcessing
from tokenizers.trainers import BpeTrainer

from pushkin_runtime.control_tokens import BOS, BYTE_TOKENS, EOS, PAD, RESERVED_TOKENS, UNK
from training.corpora import DEFAULT_DATA, Work, all_works, training_works

VOCAB_SIZE = 16_384
TOKENIZER_FILES: tuple[str, ...] = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
)
# Words with their leading blank and inner apostrophes, single digits, punctuation, line ends.
_WORDS = r"▁?\p{L}[\p{L}\p{M}]*(?:['’\-][\p{L}\p{M}]+)*|\p{N}|▁?[^\p{L}\p{N}▁\s]+|\n+|▁+(?=▁)|▁|\s"
_ALPHABET_LIMIT = 320


def _normalizer() -> normalizers.Normalizer:
    return normalizers.Replace(" ", "▁")


def _pre_tokenizer() -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Split(Regex(_WORDS), behavior="isolated")


def train_tokenizer(texts: Iterator[str], vocab_size: int = VOCAB_SIZE) -> Tokenizer:
    """Learn merges from `texts` and assemble the tokenizer: reserved ids, 256 bytes, pieces."""
    n_reserved = len(RESERVED_TOKENS) + len(BYTE_TOKENS)
    learner = Tokenizer(BPE(unk_token=UNK))
    learner.normalizer = _normalizer()
    learner.pre_tokenizer = _pre_tokenizer()
    trainer = BpeTrainer(
        vocab_size=vocab_size - n_reserved,
        limit_alphabet=_ALPHABET_LIMIT,
        initial_alphabet=list("0123456789"),
        show_progress=False,
        special_tokens=[],
    )
    learner.train_from_iterator(texts, trainer=trainer)
    model = json.loads(learner.to_str())["model"]
    pieces = sorted(model["vocab"], key=model["vocab"].__getitem__)
    merges = [(left, right) for left, right in model["merges"]]
    return assemble([*RESERVED_TOKENS, *BYTE_TOKENS, *pieces], merges)


def assemble(pieces: Sequence[str], merges: list[tuple[str, str]]) -> Tokenizer:
    """A complete tokenizer from the pieces in id order and the merges in rank order."""
    vocab = {piece: index for index, piece in enumerate(pieces)}
    if len(vocab) != len(pieces):
        raise ValueError(f"{len(pieces) - len(vocab)} pieces occur twice in the vocabulary")
    model = BPE(vocab=vocab, merges=merges, unk_token=UNK, fuse_unk=True, byte_fallback=True)
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = _normalizer()
    tokenizer.pre_tokenizer = _pre_tokenizer()
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    tokenizer.add_special_tokens(
        [AddedToken(name, special=True, normalized=False) for name in RESERVED_TOKENS]
    )
    tokenizer.post_processor = TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B", special_tokens=[(BOS, vocab[BOS])]
    )
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Write the three files from which transformers' AutoTokenizer loads it."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {"pad_token": PAD, "eos_token": EOS, "bos_token": BOS, "unk_token": UNK}
    config = {
        **names,
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": 2048,
        "clean_up_tokenization_spaces": False,
        "padding_side": "left",
        "add_bos_token": True,
    }
    for name, content in (("tokenizer_config", config), ("special_tokens_map", names)):
        text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
        (folder / f"{name}.json").write_text(text, encoding="utf-8")


def load_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of a folder, set so that special tokens in text are plain characters."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.encode_special_tokens = True
    return tokenizer


def balanced_sample(works: Sequence[Work], n_chars: int, seed: int = 0) -> Iterator[str]:
    """Text, `n_chars` for each language, an equal slice from the middle of every work."""
    rng = random.Random(seed)
    for language in sorted({work.language for work in works}):
        chosen = [work for work in works if work.language == language]
        share = max(1, n_chars // len(chosen))
        for work in chosen:
            text = work.read()
            start = rng.randrange(max(1, len(text) - share))
            yield text[start : start + share]


def main(argv: Sequence[str] | None = None) -> None:
    """Command line: train on the corpora, never on a held-out author."""
    parser = argparse.ArgumentParser(prog="training.tokenizer", description=__doc__)
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA, help="archives and manifest")
    parser.add_argument("--cache", type=Path, required=True, help="where archives are unpacked")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--chars-per-language", type=int, default=20_000_000)
    args = parser.parse_args(argv)
    works, dropped = training_works(all_works(args.data, args.cache))
    print(f"{len(works)} works, {len(dropped)} dropped", flush=True)
    for work, reason in dropped:
        print(f"  dropped {work.language} {work.author} {work.title}: {reason}")
    tokenizer = train_tokenizer(balanced_sample(works, args.chars_per_language))
    save_tokenizer(tokenizer, args.out)
    print(f"{tokenizer.get_vocab_size()} pieces -> {args.out}")


if __name__ == "__main__":
    main()
