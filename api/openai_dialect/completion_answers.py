"""What clients of `/v1/completions` receive, whole or in chunks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NotRequired

from typing_extensions import TypedDict

from api.answers import AdapterAnswer, TimingsAnswer, generation_answer
from api.openai_dialect.token_trail import LogprobsAnswer, TokenTrail, joined
from pushkin_runtime.tokenizer import TextTokenizer
from pushkin_runtime.types import Choice, FinishReason, GenerationResult

OpenAiFinish = Literal["stop", "length"]


class CompletionChoice(TypedDict):
    """`finish_reason` is null in a chunk that is not the choice's last.

    `stop_reason` (vLLM's field): the stop string that was met, or `deadline`, `cancelled`, `superseded` where
    the text was ended from outside, which OpenAI has no word for.
    """

    index: int
    text: str
    logprobs: LogprobsAnswer | None
    finish_reason: OpenAiFinish | None
    stop_reason: str | None


class CachedTokens(TypedDict):
    cached_tokens: int


class CompletionUsage(TypedDict):
    """Over all prompts and drafts."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: CachedTokens


class CompletionAnswer(TypedDict):
    """The answer, or one chunk of it.

    `usage` in chunks: only with `stream_options.include_usage`, null but in the last. `adapters`: those that
    were used; `timings`: of a request with one prompt.
    """

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: NotRequired[CompletionUsage | None]
    adapters: NotRequired[list[AdapterAnswer]]
    timings: NotRequired[TimingsAnswer]


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What was asked for, as far as the answer depends on it.

    model: None leaves it to the result. echoed: the text to repeat before each prompt's choices, None without
    `echo`. n: choices per prompt. is_ranked: drafts come best first, chosen by the text after the caret.
    """

    id: str
    created: int
    model: str | None
    n: int
    echoed: tuple[str, ...] | None
    with_logprobs: bool
    is_ranked: bool
    tokenizer: TextTokenizer

    def echo(self, prompt: int) -> str:
        """What stands before the choices of a prompt."""
        return "" if self.echoed is None else self.echoed[prompt]


def completion_answer(order: Order, results: Sequence[GenerationResult]) -> CompletionAnswer:
    """The whole answer."""
    choices = [
        choice
        for prompt, result in enumerate(results)
        for choice in choices_of(order, prompt, result)
    ]
    return {**frame(order, results[0].model, choices), **closing(results)}


def frame(order: Order, model: str, choices: list[CompletionChoice]) -> CompletionAnswer:
    """An answer or a chunk, around its choices."""
    return {
        "id": order.id,
        "object": "text_completion",
        "created": order.created,
        "model": order.model or model,
        "choices": choices,
    }


class Closing(TypedDict):
    """What is known at the end only."""

    usage: CompletionUsage
    adapters: list[AdapterAnswer]
    timings: NotRequired[TimingsAnswer]


def closing(results: Sequence[GenerationResult]) -> Closing:
    """Counts of all prompts, and what the first one was answered with."""
    n_prompt = sum(result.usage.prompt_tokens for result in results)
    n_written = sum(result.usage.completion_tokens for result in results)
    first = generation_answer(results[0])
    found: Closing = {
        "usage": {
            "prompt_tokens": n_prompt,
            "completion_tokens": n_written,
            "total_tokens": n_prompt + n_written,
            "prompt_tokens_details": {
                "cached_tokens": sum(result.usage.cached_tokens for result in results)
            },
        },
        "adapters": first["adapters"],
    }
    if len(results) == 1:
        found["timings"] = first["timings"]
    return found


def choices_of(order: Order, prompt: int, result: GenerationResult) -> list[CompletionChoice]:
    """The choices of one prompt: of more drafts than were asked for the best."""
    drafts = list(result.choices)
    if len(drafts) > order.n and not order.is_ranked:
        drafts.sort(key=lambda choice: -choice.score)
    drafts = drafts[: order.n]
    drafts += drafts[:1] * (order.n - len(drafts))  # without decoding there is one empty text
    return [
        _choice(order, prompt, result, prompt * order.n + place, draft)
        for place, draft in enumerate(drafts)
    ]


def _choice(
    order: Order, prompt: int, result: GenerationResult, index: int, choice: Choice
) -> CompletionChoice:
    echo = order.echo(prompt)
    text = echo + choice.text
    logprobs = None
    if order.with_logprobs:
        logprobs = _logprobs(order, result, choice, len(echo), len(text))
    return {
        "index": index,
        "text": text,
        "logprobs": logprobs,
        "finish_reason": openai_finish(choice.finish_reason),
        "stop_reason": stop_reason(choice),
    }


def _logprobs(
    order: Order, result: GenerationResult, choice: Choice, n_echoed: int, n_chars: int
) -> LogprobsAnswer:
    of_prompt = TokenTrail(order.tokenizer)
    of_prompt.push(result.prompt_logprobs)
    of_text = TokenTrail(order.tokenizer, start=n_echoed)
    of_text.push(choice.tokens)
    return joined(of_prompt.take(n_echoed, is_last=True), of_text.take(n_chars, is_last=True))


def openai_finish(reason: FinishReason) -> OpenAiFinish:
    """OpenAI knows two ends; a text that was cut short is `length`, so nobody takes it for whole."""
    return "stop" if reason == "stop" else "length"


def stop_reason(choice: Choice) -> str | None:
    """The stop string, or who ended the text from outside."""
    if choice.finish_reason in ("stop", "length"):
        return choice.stop_word or None
    return choice.finish_reason
