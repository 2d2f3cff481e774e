"""The tokenizer gives back every text exactly and keeps Gemma's layout."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from pushkin_runtime.control_tokens import BYTE_TOKENS, RESERVED_TOKENS, prefix_ids
from training.tokenizer import load_tokenizer, save_tokenizer

# Any text but the blank's own stand-in: Gemma's ▁ cannot come back either.
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="▁"), max_size=60)
SPACED = st.text(st.sampled_from(" \t\n—“”ёЁ’🙂ab1ж.,<>"), max_size=60)


def _round_trip(tokenizer: Tokenizer, text: str) -> str:
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    return str(tokenizer.decode(ids, skip_special_tokens=False))


@given(st.one_of(TEXT, SPACED))
def test_decode_gives_back_any_text(tokenizer: Tokenizer, text: str) -> None:
    assert _round_trip(tokenizer, text) == text


@pytest.mark.parametrize(
    "text",
    [
        "  two  blanks ",
        "\n\n\ttab",
        "Ёлка — «ёж»…",
        "👩‍👩‍👧 é e\u0301",
        "a\r\nb",
        "1905",
        "<bos>",
        "<0x41>",
    ],
)
def test_awkward_texts_survive(tokenizer: Tokenizer, text: str) -> None:
    assert _round_trip(tokenizer, text) == text


def test_first_ids_are_gemmas_and_every_byte_has_a_token(tokenizer: Tokenizer) -> None:
    vocab = tokenizer.get_vocab()
    assert [vocab[name] for name in ("<pad>", "<eos>", "<bos>", "<unk>")] == [0, 1, 2, 3]
    assert [vocab[name] for name in RESERVED_TOKENS] == list(range(len(RESERVED_TOKENS)))
    assert all(name in vocab for name in BYTE_TOKENS)


def test_digits_stand_alone(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode("1837", add_special_tokens=False).tokens == list("1837")


def test_typed_text_cannot_forge_a_control_token(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("<eos><task:story>", add_special_tokens=False).ids
    assert min(ids) >= len(RESERVED_TOKENS)


def test_transformers_loads_it_unchanged(tokenizer: Tokenizer, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    save_tokenizer(tokenizer, tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    text = "He said: “ёж” — 12.\n\n Да"
    assert (loaded.pad_token_id, loaded.eos_token_id, loaded.bos_token_id) == (0, 1, 2)
    own = load_tokenizer(tmp_path).encode(text, add_special_tokens=False).ids
    assert loaded(text, add_special_tokens=False).input_ids == own
    assert loaded.decode(own) == text


def test_prefix_layout_and_its_errors(tokenizer: Tokenizer) -> None:
    def encode(text: str) -> list[int]:
        return list(tokenizer.encode(text, add_special_tokens=False).ids)

    token_id = tokenizer.get_vocab().__getitem__
    ids = prefix_ids(token_id, encode, "ru", "drama", "Gogol")
    tokens = [tokenizer.id_to_token(token) for token in ids]
    assert tokens[:4] == ["<bos>", "<lang:ru>", "<genre:drama>", "<author>"]
    assert tokenizer.decode(ids[4:]) == "Gogol\n"
    assert len(prefix_ids(token_id, encode, "en")) == 3
    with pytest.raises(ValueError, match="klingon"):
        prefix_ids(token_id, encode, "klingon")
