"""Small generated texts and a small tokenizer, so that the tests need no corpus."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer

from training.base_model import RunSettings
from training.corpora import Work
from training.shards import build_shards
from training.tokenizer import train_tokenizer

_EN = "the a old house river stood by and she said nothing to him for it was late winter snow"
_RU = "и в на он она не сказал было зима снег дом старый ёлка река потом уже тихо вечер мы"


def _text(vocabulary: str, n_sentences: int, seed: int) -> str:
    rng, words = random.Random(seed), vocabulary.split()
    paragraphs: list[str] = []
    for _ in range(max(1, n_sentences // 4)):
        sentences = (
            " ".join(rng.choice(words) for _ in range(rng.randrange(5, 14))).capitalize() + "."
            for _ in range(4)
        )
        paragraphs.append(" ".join(sentences))
    return "\n\n".join(paragraphs) + "\n"


@pytest.fixture(scope="session")
def english() -> str:
    """Four hundred sentences of word salad from a small English vocabulary, in paragraphs."""
    return _text(_EN, 400, 0)


@pytest.fixture(scope="session")
def russian() -> str:
    """The same in Russian."""
    return _text(_RU, 400, 0)


@pytest.fixture(scope="session")
def tokenizer(english: str, russian: str) -> Tokenizer:
    """512 pieces, the tiny preset's vocabulary; special tokens in text are plain characters."""
    trained = train_tokenizer(iter([english, russian]), vocab_size=512)
    trained.encode_special_tokens = True
    return trained


@pytest.fixture
def settings(tokenizer: Tokenizer, english: str, russian: str, tmp_path: Path) -> RunSettings:
    """A tiny run of eight steps on generated text."""
    torch.set_num_threads(1)
    works = []
    for language, text in (("en", english), ("ru", russian)):
        path = tmp_path / f"{language}.txt"
        path.write_text(text, encoding="utf-8")
        works.append(Work(language, "a", "w", "prose", "CC0", "here", path))
    build_shards(works, tokenizer, tmp_path / "shards", row_length=64)
    return RunSettings(
        out=tmp_path / "run",
        shards=tmp_path / "shards",
        preset="tiny",
        steps=8,
        warmup_steps=2,
        rows_per_step=4,
        microbatch_rows=2,
        seq_len=32,
        save_every=100,
    )
