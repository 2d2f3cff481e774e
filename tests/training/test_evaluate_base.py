"""Every character is counted once, and the strided windows add up to the plain likelihood."""

from __future__ import annotations

import lzma
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from transformers import Gemma3ForCausalLM

from training import evaluate_base
from training.corpora import Work
from training.evaluate_base import (
    CONTEXTS,
    CONTINUED_TOKENS,
    ModelUnderTest,
    bits_per_character,
    compressed_bits,
    loss_by_context,
    ngram_bits,
    passages,
    repetition,
    sample,
    total_nats,
)
from training.kneser_ney import train_kneser_ney
from training.presets import PRESETS
from training.shards import encode_text


@pytest.fixture(scope="module")
def under_test(tokenizer: Tokenizer) -> ModelUnderTest:
    """The tiny preset with random weights."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    return ModelUnderTest(
        "tiny", Gemma3ForCausalLM(PRESETS["tiny"].config()).train(False), tokenizer
    )


def test_a_text_of_one_window_costs_its_plain_likelihood(
    under_test: ModelUnderTest, english: str
) -> None:
    text = english[:600]
    tokens = encode_text(under_test.tokenizer, text)
    ids = torch.tensor([under_test.prefix("en") + tokens])
    with torch.inference_mode():
        scores = under_test.model(ids).logits[0, 2:-1]
    plain = float(F.cross_entropy(scores, torch.tensor(tokens), reduction="sum"))
    nats, n_tokens = total_nats(under_test, text, "en")
    assert n_tokens == len(tokens)
    assert nats == pytest.approx(plain, rel=1e-5)


def test_every_token_of_a_long_text_is_scored_once(
    under_test: ModelUnderTest, english: str
) -> None:
    figures = bits_per_character(under_test, [english], "en")
    # Random weights are near the uniform distribution over 512 pieces: 9 bits a token.
    assert figures["nats_per_token"] == pytest.approx(6.24, abs=0.6)
    expected = figures["nats_per_token"] / 0.6931 / figures["characters_per_token"]
    assert figures["bits_per_character"] == pytest.approx(expected, rel=1e-3)


def test_the_same_tokens_are_scored_under_every_context(
    under_test: ModelUnderTest, english: str
) -> None:
    losses = loss_by_context(under_test, [english], "en")
    assert list(losses) == [str(context) for context in CONTEXTS]
    assert all(4 < loss < 9 for loss in losses.values())


def test_xz_is_the_standard_librarys_on_one_file(english: str) -> None:
    bits = compressed_bits([english, english[:100]])
    data = (english + "\n\n" + english[:100]).encode()
    size = len(lzma.compress(data, preset=9 | lzma.PRESET_EXTREME))
    assert bits["xz_9e"] == pytest.approx(8 * size / len(data))


def test_passages_come_in_equal_parts_from_inside_the_works(english: str, tmp_path: Path) -> None:
    works: dict[str, list[Work]] = {}
    for author in ("a", "b"):
        path = tmp_path / f"{author}.txt"
        path.write_text(english, encoding="utf-8")
        works[author] = [Work("en", author, "w", "prose", "CC0", "here", path)]
    chosen = passages(works, 4000)
    assert [len(text) for text in chosen] == [2000, 2000]
    assert all(text in english for text in chosen)
    with pytest.raises(ValueError, match="no held-out prose by c"):
        passages({"c": []}, 100)


def test_samples_begin_with_the_prompt_and_repeat_with_the_seed(
    under_test: ModelUnderTest,
) -> None:
    first, second = (sample(under_test, "ru", "Старый дом", 12, seed=4) for _ in range(2))
    assert first == second
    assert first.startswith("Старый дом")


def test_a_model_that_says_one_word_is_a_loop(
    under_test: ModelUnderTest, english: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluate_base, "OPENINGS", 2)
    figures = repetition(under_test, [english], "en")
    assert figures["openings"] == 2
    assert figures["distinct_4_of_the_authors"] > 0.9
    monkeypatch.setattr(evaluate_base, "continued", lambda *_, **__: [7] * CONTINUED_TOKENS)
    figures = repetition(under_test, [english], "en")
    assert figures["periods"] == [1] * 2
    assert figures["greedy_loops"] == 2
    assert figures["distinct_4"] == pytest.approx(1 / (CONTINUED_TOKENS - 3))


def test_n_grams_of_the_same_text_beat_chance(under_test: ModelUnderTest, english: str) -> None:
    tokens = np.asarray(encode_text(under_test.tokenizer, english), dtype=np.int64)
    bits = ngram_bits(train_kneser_ney(tokens, 512), under_test, [english])
    uniform = 9 * len(tokens) / len(english)
    assert 0 < bits < uniform / 3
