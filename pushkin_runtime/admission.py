"""What is refused before it is queued, while a real status code can still be given."""

from __future__ import annotations

from pushkin_runtime.errors import CapabilityMissing, InvalidRequest
from pushkin_runtime.tokenizer import TextTokenizer
from pushkin_runtime.types import GenerationRequest


def check_request(request: GenerationRequest, tokenizer: TextTokenizer) -> None:
    """Raise CapabilityMissing or InvalidRequest for what cannot be done."""
    if request.quality == "best":
        raise CapabilityMissing(
            'quality "best" needs the writing-quality reward model, which is not installed; '
            'use "fast" or "balanced".',
            param="quality",
        )
    if request.prompt_tokens is not None:
        if not request.prompt_tokens:
            raise InvalidRequest(
                "The prompt has no tokens; send one at least, <bos> for an empty text.",
                param="prompt",
            )
        _check_tokens(request.prompt_tokens, tokenizer.n_tokens, "prompt")
    biased = tuple(token for token, _ in request.logit_bias)
    _check_tokens(biased, tokenizer.n_tokens, "logit_bias")


def _check_tokens(tokens: tuple[int, ...], n_tokens: int, param: str) -> None:
    for place, token in enumerate(tokens):
        if not 0 <= token < n_tokens:
            raise InvalidRequest(
                f"Token {place} of {param} is {token}; the vocabulary has 0 to {n_tokens - 1}.",
                param=param,
            )
