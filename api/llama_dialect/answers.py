"""What clients of `/completion` receive: fields in upstream's order, whole or as frames of a stream."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NotRequired, cast

from typing_extensions import TypedDict

from api.answers import AdapterAnswer
from api.llama_dialect.bodies import LlamaCompletionBody
from api.llama_dialect.requests import logit_bias, sampler_names
from pushkin_runtime.sampling_types import SamplingParams
from pushkin_runtime.tokenizer import TextTokenizer
from pushkin_runtime.types import Choice, FinishReason, GenerationResult, StopCause, TokenLogprob


class LoraAnswer(TypedDict):
    id: int
    scale: float


class BiasAnswer(TypedDict):
    """`bias`: null is a ban."""

    bias: float | None
    token: int


class LlamaTimings(TypedDict):
    """Milliseconds and tokens; `prompt_n` were read now, `cache_n` came from the KV cache."""

    cache_n: int
    prompt_n: int
    prompt_ms: float
    prompt_per_token_ms: float
    prompt_per_second: float
    predicted_n: int
    predicted_ms: float
    predicted_per_token_ms: float
    predicted_per_second: float


class TokenProbability(TypedDict):
    """`logprob` before the samplers, or `prob` after them. `bytes`: the token's text; `token` may lack a part."""

    id: int
    token: str
    bytes: list[int]
    logprob: NotRequired[float]
    prob: NotRequired[float]


class TokenProbabilities(TokenProbability):
    top_logprobs: NotRequired[list[TokenProbability]]
    top_probs: NotRequired[list[TokenProbability]]


class PromptProgress(TypedDict):
    """Of `total` prompt tokens `cache` were known and `processed` are read, `time_ms` after the start."""

    total: int
    cache: int
    processed: int
    time_ms: float


class LlamaCompletionFrame(TypedDict):
    """One `data:` line of a stream but the last; `content` may be empty."""

    index: int
    content: str
    tokens: list[int]
    stop: Literal[False]
    id_slot: int
    tokens_predicted: int
    tokens_evaluated: int
    timings: NotRequired[LlamaTimings]
    prompt_progress: NotRequired[PromptProgress]
    completion_probabilities: NotRequired[list[TokenProbabilities]]


class LlamaCompletion(TypedDict, total=False):
    """The answer, and the last `data:` line of a stream; `response_fields` may leave only some of it.

    Ours beside upstream's fields: `adapters`, those that were used, and `finish_reason` of a text that was ended from
    outside (`cancelled`, `superseded`).
    """

    index: int
    content: str
    tokens: list[int]
    id_slot: int
    stop: Literal[True]
    model: str
    tokens_predicted: int
    tokens_evaluated: int
    generation_settings: dict[str, Any]
    prompt: str
    has_new_line: bool
    truncated: bool
    stop_type: StopCause
    stopping_word: str
    tokens_cached: int
    timings: LlamaTimings
    completion_probabilities: list[TokenProbabilities]
    adapters: list[AdapterAnswer]
    finish_reason: FinishReason


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What was asked for, as far as the answers depend on it. prompts: as text, one for each prompt."""

    body: LlamaCompletionBody
    tokenizer: TextTokenizer
    prompts: tuple[str, ...]

    def index(self, prompt: int, choice: int) -> int:
        """The number of a choice among those of all prompts."""
        return prompt * self.body.n_cmpl + choice

    @property
    def id_slot(self) -> int:
        """The number the client asked for; any text is found in the cache, whichever slot it was read in."""
        return max(0, self.body.id_slot)


def completion_answers(order: Order, results: Sequence[GenerationResult]) -> list[LlamaCompletion]:
    """The whole answers, prompt by prompt."""
    return [
        final_answer(order, prompt, result, choice)
        for prompt, result in enumerate(results)
        for choice in result.choices
    ]


def final_answer(
    order: Order, prompt: int, result: GenerationResult, choice: Choice
) -> LlamaCompletion:
    """One choice. In a stream its text and tokens have been sent already."""
    body = order.body
    n_predicted = len(choice.tokens)
    answer: LlamaCompletion = {
        "index": order.index(prompt, choice.index),
        "content": "" if body.stream else choice.text,
        "tokens": _tokens(choice) if body.return_tokens and not body.stream else [],
        "id_slot": order.id_slot,
        "stop": True,
        "model": result.model,
        "tokens_predicted": n_predicted,
        "tokens_evaluated": result.usage.prompt_tokens,
        "generation_settings": generation_settings(body, result.sampling, order.tokenizer),
        "prompt": order.prompts[prompt],
        "has_new_line": "\n" in choice.text,
        "truncated": result.truncated,
        "stop_type": choice.stop_cause,
        "stopping_word": choice.stop_word,
        "tokens_cached": result.usage.prompt_tokens + max(0, n_predicted - 1),
        "timings": timings(
            cache_n=result.usage.cached_tokens,
            prompt_n=result.usage.prompt_tokens - result.usage.cached_tokens,
            prompt_ms=result.timings.prefill_ms,
            predicted_n=n_predicted,
            predicted_ms=result.timings.decode_ms,
        ),
    }
    if body.n_probs and not body.stream:
        shown = _shown_tokens(choice, order.tokenizer)
        answer["completion_probabilities"] = probabilities(order, shown)
    answer["adapters"] = [{"name": a.name, "scale": a.scale} for a in result.adapters]
    if choice.stop_cause == "none":
        answer["finish_reason"] = choice.finish_reason
    return _only(answer, body.response_fields)


def generation_settings(
    body: LlamaCompletionBody, sampling: SamplingParams, tokenizer: TextTokenizer
) -> dict[str, Any]:
    """Every sampler field with the value that was used, and what else shaped the answer."""
    biases = list(logit_bias(body, tokenizer))
    if body.ignore_eos:
        biases += [(token, -math.inf) for token in sorted(tokenizer.end_ids())]
    return {
        "seed": sampling.seed,
        "temperature": sampling.temperature,
        "dynatemp_range": sampling.dynatemp_range,
        "dynatemp_exponent": sampling.dynatemp_exponent,
        "top_k": sampling.top_k,
        "top_p": sampling.top_p,
        "min_p": sampling.min_p,
        "top_n_sigma": sampling.top_n_sigma,
        "xtc_probability": sampling.xtc_probability,
        "xtc_threshold": sampling.xtc_threshold,
        "typical_p": sampling.typical_p,
        "repeat_last_n": sampling.repeat_last_n,
        "repeat_penalty": sampling.repetition_penalty,
        "presence_penalty": sampling.presence_penalty,
        "frequency_penalty": sampling.frequency_penalty,
        "dry_multiplier": sampling.dry_multiplier,
        "dry_base": sampling.dry_base,
        "dry_allowed_length": sampling.dry_allowed_length,
        "dry_penalty_last_n": sampling.dry_penalty_last_n,
        "dry_sequence_breakers": list(sampling.dry_sequence_breakers),
        "mirostat": sampling.mirostat,
        "mirostat_tau": sampling.mirostat_tau,
        "mirostat_eta": sampling.mirostat_eta,
        "stop": list(body.stop),
        "max_tokens": body.n_predict,
        "n_predict": body.n_predict,
        "n_keep": body.n_keep,
        "n_discard": body.n_discard,
        "ignore_eos": body.ignore_eos,
        "stream": body.stream,
        "logit_bias": [_bias_answer(token, bias) for token, bias in biases],
        "n_probs": body.n_probs,
        "min_keep": body.min_keep,
        "grammar": "",
        "samplers": list(sampler_names(body)),
        "timings_per_token": body.timings_per_token,
        "post_sampling_probs": body.post_sampling_probs,
        "lora": [{"id": entry.id, "scale": entry.scale} for entry in body.lora or []],
    }


def timings(
    *, cache_n: int, prompt_n: int, prompt_ms: float, predicted_n: int, predicted_ms: float
) -> LlamaTimings:
    """Counts and times with the rates that follow from them; 0 where nothing was done."""
    return {
        "cache_n": cache_n,
        "prompt_n": prompt_n,
        "prompt_ms": round(prompt_ms, 3),
        "prompt_per_token_ms": _ratio(prompt_ms, prompt_n),
        "prompt_per_second": _ratio(prompt_n * 1000, prompt_ms),
        "predicted_n": predicted_n,
        "predicted_ms": round(predicted_ms, 3),
        "predicted_per_token_ms": _ratio(predicted_ms, predicted_n),
        "predicted_per_second": _ratio(predicted_n * 1000, predicted_ms),
    }


def probabilities(order: Order, tokens: Sequence[TokenLogprob]) -> list[TokenProbabilities]:
    """`completion_probabilities`: each token with the likeliest at its place."""
    is_after = order.body.post_sampling_probs
    found: list[TokenProbabilities] = []
    for token in tokens:
        chosen = _probability(order.tokenizer, token.token, token.logprob or 0.0, is_after=is_after)
        top = [_probability(order.tokenizer, t, p, is_after=is_after) for t, p in token.top]
        entry = cast("TokenProbabilities", chosen)
        if is_after:
            entry["top_probs"] = top
        else:
            entry["top_logprobs"] = top
        found.append(entry)
    return found


def _probability(
    tokenizer: TextTokenizer, token: int, logprob: float, *, is_after: bool
) -> TokenProbability:
    piece = tokenizer.piece(token)
    entry: TokenProbability = {
        "id": token,
        "token": piece.decode(errors="ignore"),
        "bytes": list(piece),
    }
    if is_after:
        entry["prob"] = math.exp(logprob)
    else:
        entry["logprob"] = logprob
    return entry


def _shown_tokens(choice: Choice, tokenizer: TextTokenizer) -> list[TokenLogprob]:
    """The tokens of the text: not those of the stop string that ended it."""
    n_shown, n_bytes = len(choice.text.encode()), 0
    shown = []
    for token in choice.tokens:
        if choice.stop_cause == "word" and n_bytes >= n_shown:
            break
        shown.append(token)
        n_bytes += len(tokenizer.token_bytes(token.token))
    return shown


def _tokens(choice: Choice) -> list[int]:
    return [token.token for token in choice.tokens]


def _bias_answer(token: int, bias: float) -> BiasAnswer:
    return {"bias": bias if math.isfinite(bias) else None, "token": token}


def _ratio(a: float, b: float) -> float:
    return round(a / b, 3) if b else 0.0


def _only(answer: LlamaCompletion, fields: Sequence[str]) -> LlamaCompletion:
    """Leave the named fields; `a/b` is the field b of the object a, under that whole name."""
    if not fields:
        return answer
    found: dict[str, Any] = {}
    for name in fields:
        value: Any = answer
        for part in name.split("/"):
            value = value.get(part, _MISSING) if isinstance(value, Mapping) else _MISSING
        if value is not _MISSING:
            found[name] = value
    return found  # type: ignore[return-value]  # names with a slash are in no TypedDict


_MISSING = object()
