"""One alternative while it is decoded: its tokens, its text, and what ended it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from pushkin_runtime.choices import Draft
from pushkin_runtime.engines.base import Step
from pushkin_runtime.text_stream import TextStream
from pushkin_runtime.tokenizer import TextTokenizer
from pushkin_runtime.types import FinishReason, StopCause, TokenLogprob


@dataclass(frozen=True, slots=True, kw_only=True)
class RowRules:
    """What all alternatives of a generation obey. ends: tokens that end a text. healed: bytes that the client
    has already and the answer begins with. opening: of the text after the caret, which is not written again.
    keeps_tokens: whether the answer carries them."""

    tokenizer: TextTokenizer
    max_tokens: int
    ends: frozenset[int]
    stop: tuple[str, ...] = ()
    healed: bytes = b""
    opening: str = ""
    keeps_tokens: bool = False


@dataclass(slots=True)
class Row:
    """Advanced by `push`, one token at a time, until `reason` says why it ended."""

    rules: RowRules
    stream: TextStream = field(init=False)
    tokens: list[int] = field(default_factory=list)
    kept: list[TokenLogprob] = field(default_factory=list)
    n_restored: int = 0  # tokens that only gave back the healed text; they are not counted
    logprob: float = 0.0
    reason: FinishReason | None = None
    stop_cause: StopCause = "none"

    def __post_init__(self) -> None:
        rules = self.rules
        self.stream = TextStream(rules.tokenizer, rules.stop, rules.healed, rules.opening)

    @property
    def score(self) -> float:
        """Mean log-probability per token (nats), -inf without tokens."""
        return self.logprob / len(self.tokens) if self.tokens else -math.inf

    @property
    def n_new(self) -> int:
        """Tokens written for the client."""
        return len(self.tokens) - self.n_restored

    def push(self, step: Step, index: int) -> str:
        """Take this row's token of a step, row `index`; return the text it makes showable."""
        token, rules = step.tokens[index], self.rules
        self.tokens.append(token)
        self.logprob += step.logprobs[index]
        if rules.keeps_tokens:
            has_detail = bool(step.details)
            kept = step.details[index] if has_detail else TokenLogprob(token, step.logprobs[index])
            self.kept.append(kept)
        if token in rules.ends:
            self.end("stop", "eos")
            return ""
        if len(self.tokens) == 1 and rules.tokenizer.token_bytes(token) == rules.healed:
            self.n_restored = 1
        text = self.stream.push(token)
        if self.stream.stop_word:
            self.end("stop", "word")
        elif self.n_new >= rules.max_tokens:
            self.end("length", "limit")
        return text

    def end(self, reason: FinishReason, cause: StopCause = "none") -> None:
        """No more tokens; the first reason given holds."""
        if self.reason is None:
            self.reason, self.stop_cause = reason, cause

    def draft(self, index: int) -> Draft:
        """What was written, once `reason` is set."""
        assert self.reason is not None
        return Draft(
            index=index,
            text=self.stream.text,
            reason=self.reason,
            score=self.score,
            stop_cause=self.stop_cause,
            stop_word=self.stream.stop_word,
            tokens=tuple(self.kept),
        )
