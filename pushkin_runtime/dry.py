"""DRY, "don't repeat yourself": a token that would carry on a verbatim repetition loses logits, more for each token.

Idea: github.com/oobabooga/text-generation-webui/pull/5637. Semantics: llama.cpp's sampler
(github.com/ggml-org/llama.cpp/pull/9702): a token that followed L of the text's last tokens where they stood before, the
longest L if several did, loses multiplier x base^(L - allowed_length) if L >= allowed_length. No repetition reaches
over a breaker, and a token with a breaker in it loses nothing.

llama.cpp finds the lengths anew for each token (Z-algorithm) and breakers by their tokens. Here the lengths are carried
on from token to token, and breakers are looked for in the text, so it does not matter how the model cuts them.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pushkin_runtime.sampling_types import SamplingParams

MAX_PENALTY = 1e30  # as good as a ban, and what is left of a float32 logit stays finite
_NO_TOKEN = -1


@dataclass(frozen=True, slots=True)
class DryContext:
    """What was there before the answer. tokens: the prompt's last ones. piece: the text of a token, as UTF-8."""

    tokens: tuple[int, ...]
    piece: Callable[[int], bytes]


@dataclass(frozen=True, slots=True, eq=False)
class Penalties:
    """What is taken off some logits. tokens: distinct, ascending. amounts: float64, the same shape."""

    tokens: NDArray[np.int64]
    amounts: NDArray[np.float64]


NO_PENALTIES = Penalties(np.empty(0, np.int64), np.empty(0))


class Dry:
    """The repetitions of one text; owned by one row of a decoder."""

    def __init__(self, params: SamplingParams, context: DryContext) -> None:
        """params: with DRY on."""
        self._params = params
        self._piece = context.piece
        self._breakers = tuple(text.encode() for text in params.dry_sequence_breakers if text)
        self._n_text = max(map(len, self._breakers), default=1) - 1
        self._text = b""  # the end of the text, in which a breaker may have begun
        n_tokens = params.dry_penalty_last_n
        self._tokens = np.full(n_tokens, _NO_TOKEN, np.int64)
        # By place in `_tokens`: how many tokens up to there are the same as the last ones of the text.
        self._lengths = np.zeros(n_tokens - 1, np.int64)
        self._most = np.arange(1, n_tokens)  # what lies before it no longer counts
        self._read(context.tokens[-n_tokens:])

    def fork(self) -> Dry:
        """Return a copy that goes on by itself."""
        other = copy.copy(self)
        other._tokens = self._tokens.copy()
        return other

    def push(self, token: int) -> None:
        """A token was written."""
        self._append(token)
        if self._ends_breaker(token):
            self._lengths = np.zeros_like(self._lengths)

    def penalties(self) -> Penalties:
        """What the next token loses."""
        params = self._params
        lengths = np.minimum(self._lengths, self._most)
        is_repeated = lengths >= params.dry_allowed_length
        places = np.flatnonzero(is_repeated & (self._tokens[:-1] != _NO_TOKEN))
        if not len(places):
            return NO_PENALTIES
        tokens, which = np.unique(self._tokens[places + 1], return_inverse=True)
        longest = np.zeros(len(tokens))
        np.maximum.at(longest, which, lengths[places])
        with np.errstate(over="ignore"):
            amounts = params.dry_multiplier * params.dry_base ** (
                longest - params.dry_allowed_length
            )
        pieces = [self._piece(token) for token in tokens.tolist()]
        loses = np.array([not any(b in piece for b in self._breakers) for piece in pieces])
        return Penalties(tokens[loses], np.minimum(amounts[loses], MAX_PENALTY))

    def _read(self, tokens: Iterable[int]) -> None:
        """Take the prompt: repetitions are counted from its last breaker on, so what is before needs no counting."""
        known = list(tokens)
        ends = [place for place, token in enumerate(known) if self._ends_breaker(token)]
        n_before = ends[-1] + 1 if ends else 0
        if n_before:
            self._tokens[-n_before:] = known[:n_before]
        for token in known[n_before:]:
            self._append(token)

    def _append(self, token: int) -> None:
        self._tokens[:-1] = self._tokens[1:]
        self._tokens[-1] = token
        self._lengths = np.where(self._tokens[:-1] == token, self._lengths + 1, 0)

    def _ends_breaker(self, token: int) -> bool:
        """Whether the text has a breaker that `token` ends or holds; to be asked once for each token of it."""
        before, text = self._text, self._text + self._piece(token)
        self._text = text[max(0, len(text) - self._n_text) :]
        starts = (max(0, len(before) - len(breaker) + 1) for breaker in self._breakers)
        return any(
            text.find(breaker, start) >= 0
            for breaker, start in zip(self._breakers, starts, strict=True)
        )
