"""Prompts: layout, healing, and a start that stays put while a person types."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from pushkin_runtime.engines.scripted_engine import byte_tokenizer
from pushkin_runtime.errors import InvalidRequest
from pushkin_runtime.prompt import Prompt, build_prompt, default_max_tokens, detect_language
from pushkin_runtime.tokenizer import TextTokenizer
from pushkin_runtime.types import Control, GenerationRequest


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Path) -> TextTokenizer:
    return TextTokenizer(tiny_model / "tokenizer.json", 512)


def build(tokenizer: TextTokenizer, n_context: int = 400, **fields: Any) -> Prompt:
    fields = {"task": "continue", "request_id": "r", **fields}
    request = GenerationRequest(**fields)
    return build_prompt(request, tokenizer, n_context=n_context, max_tokens=24)


def names(tokenizer: TextTokenizer, *wanted: str) -> tuple[int, ...]:
    ids = tuple(tokenizer.special_id(name) for name in wanted)
    assert None not in ids
    return ids  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("text", "language"),
    [("The house", "en"), ("Старый дом", "ru"), ("", "en"), ("123", "en"), ("Ёлка and ёж", "ru")],
)
def test_language_is_told_by_its_letters(text: str, language: str) -> None:
    assert detect_language(text) == language


def test_continue_starts_with_the_control_codes(tokenizer: TextTokenizer) -> None:
    prompt = build(tokenizer, text="Старый дом у реки.")

    assert prompt.tokens[:3] == names(tokenizer, "<bos>", "<lang:ru>", "<genre:prose>")


def test_the_callers_control_codes_win(tokenizer: TextTokenizer) -> None:
    prompt = build(tokenizer, text="Старый дом", control=Control(language="en", genre="drama"))

    assert prompt.tokens[:3] == names(tokenizer, "<bos>", "<lang:en>", "<genre:drama>")


@pytest.mark.parametrize(
    ("control", "param"),
    [
        (Control(language="de"), "control.language"),
        (Control(genre="haiku"), "control.genre"),
        (Control(tone="warm"), "control.tone"),
    ],
)
def test_a_code_the_model_does_not_have_is_an_error(
    tokenizer: TextTokenizer, control: Control, param: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        build(tokenizer, text="The house", control=control)

    assert caught.value.param == param


def test_a_partial_word_is_healed(tokenizer: TextTokenizer) -> None:
    whole = tokenizer.encode("The old hou")
    prompt = build(tokenizer, text="The old hou")

    assert prompt.tokens[3:] == tuple(whole[:-1])
    assert prompt.healed == tokenizer.token_bytes(whole[-1])
    assert prompt.first_allowed is not None
    assert all(tokenizer.token_bytes(t).startswith(prompt.healed) for t in prompt.first_allowed)


def test_a_trailing_space_is_healed_into_a_word_with_its_space(tokenizer: TextTokenizer) -> None:
    prompt = build(tokenizer, text="The old ")

    assert prompt.healed == b" "
    assert prompt.first_allowed is not None
    assert tokenizer.encode(" house")[0] in prompt.first_allowed


def test_typing_at_the_end_of_a_long_text_keeps_the_start(tokenizer: TextTokenizer) -> None:
    """Most keystrokes must extend the previous prompt, or the KV cache is worth nothing."""
    text = "The old house stood by the river. " * 300
    prompts = [build(tokenizer, text=text[: 3000 + i]).tokens for i in range(400)]
    kept = sum(a[:150] == b[:150] for a, b in pairwise(prompts))

    assert kept >= 390
    assert max(map(len, prompts)) <= 400 - 24
    assert min(map(len, prompts)) >= 200


def test_text_is_cut_by_characters_before_it_is_tokenised(tokenizer: TextTokenizer) -> None:
    prompt = build(tokenizer, text="я" * 2_000_000)

    assert 16 < len(prompt.tokens) <= 400 - 24


def test_rephrase_marks_its_parts(tokenizer: TextTokenizer) -> None:
    prompt = build(
        tokenizer, task="rephrase", text="the old house", before="He saw ", after=" and river."
    )
    before, after, selection, result = names(
        tokenizer, "<before>", "<after>", "<selection>", "<result>"
    )

    assert [t for t in prompt.tokens if t in (before, after, selection, result)] == [
        before, after, selection, result,
    ]  # fmt: skip
    start = prompt.tokens.index(selection) + 1
    assert tokenizer.decode(prompt.tokens[start:-1]) == "the old house"
    assert prompt.first_allowed is None


def test_a_selection_that_cannot_fit_is_an_error_without_the_text(
    tokenizer: TextTokenizer,
) -> None:
    with pytest.raises(InvalidRequest, match="Select less text") as caught:
        build(tokenizer, task="rephrase", text="zebra " * 300)

    assert "zebra" not in str(caught.value)


def test_max_tokens_must_leave_room(tokenizer: TextTokenizer) -> None:
    with pytest.raises(InvalidRequest, match="at most 14") as caught:
        build(tokenizer, n_context=30, text="The house")

    assert caught.value.param == "max_tokens"


def test_a_finished_premise_starts_a_new_paragraph(tokenizer: TextTokenizer) -> None:
    prompt = build(tokenizer, task="story", text="A fox met a wolf. ")
    whole = tokenizer.decode(prompt.tokens[3:]) + prompt.healed.decode()

    assert whole == "A fox met a wolf.\n\n"


def test_a_vocabulary_without_our_tokens_gets_plain_text() -> None:
    foreign = byte_tokenizer()
    plain = build(foreign, text="Дом", control=Control())
    asked = build(foreign, text="Дом", control=Control(register="formal", tone="warm"))
    rephrase = build(foreign, task="rephrase", text="Дом стоял у реки.")

    assert foreign.decode(plain.tokens) == "Дом"
    assert foreign.decode(asked.tokens) == "[register: formal; tone: warm]\n\nДом"
    assert foreign.decode(rephrase.tokens) == "Исходный текст: Дом стоял у реки.\n\nИначе:"
    assert "\n\n" in rephrase.stop


def test_default_lengths_fit_the_task(tokenizer: TextTokenizer) -> None:
    def length(**fields: Any) -> int:
        return default_max_tokens(GenerationRequest(request_id="r", **fields), tokenizer)

    assert length(task="continue", text="a") == 24
    assert length(task="story", text="a") == 512
    assert 32 < length(task="rephrase", text="The old house by the river") < 64
