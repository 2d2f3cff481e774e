"""The model in the repository is whole, small, and its tokenizer is exact."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path

import pytest
import torch

from pushkin_runtime.control_tokens import RESERVED_TOKENS
from training.evaluate_base import ModelUnderTest, total_nats
from training.export import load_exported
from training.tokenizer import VOCAB_SIZE, load_tokenizer

FOLDER = Path(__file__).parents[2] / "models" / "pushkin-mini"
MAX_BYTES = 20_000_000  # 30 M parameters in INT4, and the tokenizer
# Written for this test. Uniform guessing among the pieces would cost about 3.5 bits a character.
PROSE = {
    "en": "He shut the door behind him and went slowly down the stairs, and out into the street.",
    "ru": "Он закрыл за собою дверь, медленно спустился по лестнице и вышел на улицу.",
}
MAX_BITS_PER_CHARACTER = {"en": 1.5, "ru": 1.8}


def test_every_file_is_in_the_manifest_and_matches_it() -> None:
    manifest = json.loads((FOLDER / "manifest.json").read_text(encoding="utf-8"))
    names = {path.name for path in FOLDER.iterdir() if path.is_file()}
    names -= {"manifest.json", "README.md"}  # adapters have folders and hashes of their own
    assert set(manifest["files"]) == names
    for name, entry in manifest["files"].items():
        data = (FOLDER / name).read_bytes()
        assert (entry["n_bytes"], entry["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())


def test_it_is_small_enough_for_a_repository() -> None:
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) <= MAX_BYTES


@pytest.mark.parametrize(
    "text", ["  «Ёлка» — 12\t\n\n\n“it’s” 👩‍👩‍👧 é", "", " ", "\r\n", "<eos>漢字"]
)
def test_its_tokenizer_gives_back_every_text(text: str) -> None:
    tokenizer = load_tokenizer(FOLDER)
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    assert tokenizer.decode(ids, skip_special_tokens=False) == text
    assert all(token >= len(RESERVED_TOKENS) for token in ids)
    assert tokenizer.get_vocab_size() == VOCAB_SIZE


@pytest.mark.parametrize("language", ["en", "ru"])
def test_it_has_learnt_both_languages(language: str) -> None:
    torch.set_num_threads(1)
    test = ModelUnderTest("int4", load_exported(FOLDER), load_tokenizer(FOLDER))
    nats, _ = total_nats(test, PROSE[language], language)
    bits = nats / math.log(2) / len(PROSE[language])
    assert bits <= MAX_BITS_PER_CHARACTER[language]
