"""From a completion body to one `GenerationRequest` per prompt, with llama-server's defaults."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import cast, get_args

from api.errors import ApiError
from api.llama_dialect.bodies import LlamaCompletionBody
from api.llama_dialect.prompts import Prompt, token_prompt
from pushkin_runtime.sampler_stages import LLAMA_ORDER
from pushkin_runtime.sampling_types import DRY_BASE, Sampler, SamplingOverrides
from pushkin_runtime.tokenizer import TextTokenizer
from pushkin_runtime.types import AdapterRef, GenerationRequest

SAMPLER_LETTERS: dict[str, str] = {
    "d": "dry",
    "k": "top_k",
    "y": "typ_p",
    "p": "top_p",
    "s": "top_n_sigma",
    "m": "min_p",
    "t": "temperature",
    "x": "xtc",
    "i": "infill",
    "e": "penalties",
    "a": "adaptive_p",
}
NO_SEED = 2**32 - 1  # upstream's -1 in 32 bits

_KNOWN: tuple[str, ...] = get_args(Sampler)
_UNSUPPORTED = ("infill", "adaptive_p")

# field, whether it asks for it, why not
_REFUSALS: tuple[tuple[str, Callable[[LlamaCompletionBody], bool], str], ...] = (
    ("grammar", lambda b: bool(b.grammar), "constrained decoding is not for prose"),
    ("json_schema", lambda b: b.json_schema is not None, "constrained decoding is not for prose"),
    (
        "min_keep",
        lambda b: b.min_keep > 1,
        "every sampler keeps one token, and no more for certain",
    ),
    ("n_indent", lambda b: b.n_indent > 0, "it is for code"),
)


def check_supported(body: LlamaCompletionBody) -> None:
    """Raise ApiError `capability_missing` for a field that would change the answer and cannot."""
    for field, is_asked, reason in _REFUSALS:
        if is_asked(body):
            raise ApiError(
                "capability_missing", f"`{field}` is not supported: {reason}", param=field
            )


def generation_requests(
    body: LlamaCompletionBody,
    *,
    adapters: tuple[AdapterRef, ...] | None,
    tokenizer: TextTokenizer,
    n_context: int,
    request_id: str,
) -> list[GenerationRequest]:
    """One request per prompt, all with the same id. Raises ApiError for samplers that are not known."""
    common = GenerationRequest(
        request_id=request_id,
        task="continue",
        text="",
        raw=True,
        cut_prompt=False,
        distinct=False,
        document_id=body.document_id,
        max_tokens=n_context if body.n_predict < 0 else min(body.n_predict, n_context),
        n=body.n_cmpl,
        stop=tuple(body.stop),
        sampling=sampling(body, n_context),
        adapters=adapters,
        reuse_cache=body.cache_prompt,
        cache_reuse=body.n_cache_reuse,
        ignore_eos=body.ignore_eos,
        logit_bias=logit_bias(body, tokenizer),
        return_tokens=True,  # they are counted, and a stream always tells them
        n_probs=body.n_probs,
        post_sampling_probs=body.post_sampling_probs,
        decode_ms=body.t_max_predict_ms if body.t_max_predict_ms > 0 else None,
    )
    return [_with_prompt(common, prompt, tokenizer) for prompt in body.prompt]


def logit_bias(
    body: LlamaCompletionBody, tokenizer: TextTokenizer
) -> tuple[tuple[int, float], ...]:
    """Biases by token; a text stands for each of its tokens."""
    found: list[tuple[int, float]] = []
    for name, bias in body.logit_bias:
        tokens = [name] if isinstance(name, int) else tokenizer.encode(name)
        found += [(token, bias) for token in tokens]
    return tuple(found)


def sampler_names(body: LlamaCompletionBody) -> tuple[Sampler, ...]:
    """The stages in order, as upstream names them. Raises ApiError for one that is not known."""
    if body.samplers is None:
        return LLAMA_ORDER
    names: Iterable[str] = body.samplers
    if isinstance(body.samplers, str):
        names = [SAMPLER_LETTERS.get(letter, letter) for letter in body.samplers]
    checked = tuple(names)
    for name in checked:
        if name in _UNSUPPORTED:
            raise ApiError(
                "capability_missing", f"the sampler {name} is not supported", param="samplers"
            )
        if name not in _KNOWN:
            known = ", ".join(LLAMA_ORDER)
            raise ApiError(
                "invalid_value",
                f"`samplers` has an unknown one; known are {known}",
                param="samplers",
            )
    return cast("tuple[Sampler, ...]", checked)


def _with_prompt(
    common: GenerationRequest, prompt: Prompt, tokenizer: TextTokenizer
) -> GenerationRequest:
    if isinstance(prompt, str):
        return replace(common, text=prompt)
    return replace(common, prompt_tokens=token_prompt(prompt, tokenizer))


def sampling(body: LlamaCompletionBody, n_context: int) -> SamplingOverrides:
    """Everything set, so that neither the task nor the persona moves anything but the seed."""
    return SamplingOverrides(
        temperature=max(0.0, body.temperature),
        min_p=body.min_p,
        top_p=body.top_p,
        top_k=max(0, body.top_k),
        repetition_penalty=body.repeat_penalty,
        seed=None if body.seed in (-1, NO_SEED) else body.seed,
        samplers=sampler_names(body),
        repeat_last_n=_last_n(body.repeat_last_n, n_context),
        presence_penalty=body.presence_penalty,
        frequency_penalty=body.frequency_penalty,
        dynatemp_range=body.dynatemp_range,
        dynatemp_exponent=body.dynatemp_exponent,
        typical_p=body.typical_p,
        top_n_sigma=body.top_n_sigma,
        xtc_probability=body.xtc_probability,
        xtc_threshold=body.xtc_threshold,
        dry_multiplier=body.dry_multiplier,
        dry_base=body.dry_base if body.dry_base >= 1 else DRY_BASE,  # as upstream has it
        dry_allowed_length=body.dry_allowed_length,
        dry_penalty_last_n=_last_n(body.dry_penalty_last_n, n_context),
        dry_sequence_breakers=tuple(body.dry_sequence_breakers),
        mirostat=body.mirostat,
        mirostat_tau=body.mirostat_tau,
        mirostat_eta=body.mirostat_eta,
    )


def _last_n(n_tokens: int, n_context: int) -> int:
    return n_context if n_tokens < 0 else min(n_tokens, n_context)
