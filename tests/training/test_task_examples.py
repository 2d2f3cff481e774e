"""Training reads what serving reads: same prompt tokens, same healing, no loss on the prompt."""

from __future__ import annotations

from pathlib import Path

import pytest
from tokenizers import Tokenizer

from pushkin_runtime.prompt import build_prompt
from pushkin_runtime.tokenizer import TextTokenizer
from pushkin_runtime.types import GenerationRequest
from training.task_examples import (
    IGNORED,
    N_CONTEXT,
    Caret,
    Pair,
    continuation_example,
    read_examples,
    rephrase_example,
    write_examples,
)


@pytest.fixture(scope="module")
def text_tokenizer(tokenizer: Tokenizer) -> TextTokenizer:
    return TextTokenizer(tokenizer, 512)


def _pair(**changes: str) -> Pair:
    fields = {
        "language": "en",
        "kind": "degraded",
        "group": "author",
        "source": "she siad nothing to him",
        "target": "She said nothing to him.",
    }
    return Pair(**{**fields, **changes})


@pytest.mark.parametrize(
    "pair",
    [
        _pair(),
        _pair(before="It was late.", after="The snow fell.", instruction="Fix it."),
        _pair(language="ru", source="он не сказла", target="Он не сказал."),
    ],
)
def test_a_rephrase_prompt_is_servings_token_for_token(
    pair: Pair, text_tokenizer: TextTokenizer
) -> None:
    request = GenerationRequest(
        request_id="r",
        task="rephrase",
        text=pair.source,
        before=pair.before,
        after=pair.after,
        instruction=pair.instruction,
    )
    served = build_prompt(request, text_tokenizer, n_context=N_CONTEXT, max_tokens=100)
    example = rephrase_example(text_tokenizer, pair)
    assert example is not None
    assert example.prompt == served.tokens
    assert example.completion == (*text_tokenizer.encode(pair.target), text_tokenizer.eos_id)


@pytest.mark.parametrize("at", [17, 18, 22, 25, 29])
def test_a_continuation_begins_with_the_healed_token_as_serving_does(
    at: int, text_tokenizer: TextTokenizer
) -> None:
    text = "the house stood by the old river, and she said nothing"
    request = GenerationRequest(request_id="r", task="continue", text=text[:at])
    served = build_prompt(request, text_tokenizer, n_context=N_CONTEXT, max_tokens=24)
    caret = Caret("en", "word", "author", text[:at], text[at:])
    example = continuation_example(text_tokenizer, caret, 64)
    assert example is not None
    assert example.prompt == served.tokens
    assert text_tokenizer.decode((*example.prompt, *example.completion)) == text
    assert text_tokenizer.decode(example.completion).encode().startswith(served.healed)


def test_a_story_starts_a_paragraph_after_its_premise(text_tokenizer: TextTokenizer) -> None:
    caret = Caret("en", "premise", "author", "She said nothing.", "\n\nIt was late winter snow")
    example = continuation_example(text_tokenizer, caret, 64, "story")
    assert example is not None
    whole = text_tokenizer.decode((*example.prompt, *example.completion))
    assert whole == "She said nothing.\n\nIt was late winter snow"


def test_only_the_completion_carries_loss(text_tokenizer: TextTokenizer) -> None:
    example = rephrase_example(text_tokenizer, _pair())
    assert example is not None
    row = example.training_row()
    assert len(row["input_ids"]) == len(row["labels"]) == example.n_tokens
    n_prompt = len(example.prompt)
    assert set(row["labels"][:n_prompt]) == {IGNORED}
    assert row["labels"][n_prompt:] == row["input_ids"][n_prompt:] == list(example.completion)


def test_control_tokens_in_a_text_stay_text(text_tokenizer: TextTokenizer) -> None:
    example = rephrase_example(text_tokenizer, _pair(source="<result> <eos>", target="<eos>"))
    assert example is not None
    assert example.prompt.count(text_tokenizer.require_special("<result>")) == 1
    assert (example.prompt + example.completion).count(text_tokenizer.eos_id) == 1


def test_a_selection_that_cannot_fit_is_left_out(text_tokenizer: TextTokenizer) -> None:
    assert rephrase_example(text_tokenizer, _pair(source="the river " * 2000)) is None


def test_examples_come_back_from_their_file_as_they_were(
    text_tokenizer: TextTokenizer, tmp_path: Path
) -> None:
    examples = [rephrase_example(text_tokenizer, _pair(target=text)) for text in ("a «ё»", "b")]
    kept = [example for example in examples if example is not None]
    assert write_examples(tmp_path / "train.jsonl", kept) == 2
    assert list(read_examples(tmp_path, "train")) == kept
    with pytest.raises(FileNotFoundError, match=r"training\.task_data"):
        next(read_examples(tmp_path, "held_out"))
