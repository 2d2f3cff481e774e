"""Choosing among drafts: how well the text after the caret follows, and which ones say the same."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, replace

import numpy as np

from pushkin_runtime.engines.base import Engine
from pushkin_runtime.prompt import Prompt
from pushkin_runtime.prompt_cache import Prefix
from pushkin_runtime.sampling import log_softmax_at
from pushkin_runtime.types import Choice, FinishReason, StopCause, TokenLogprob

SUFFIX_CHARS = 64  # of the text after the caret, enough to tell whether a draft leads into it
SAME = 0.9  # similarity from which two drafts are near-duplicates


@dataclass(frozen=True, slots=True)
class Draft:
    """One finished alternative; score is a mean log-probability per token (nats), -inf for none; the rest as
    in `types.Choice`."""

    index: int
    text: str
    reason: FinishReason
    score: float
    stop_cause: StopCause = "none"
    stop_word: str = ""
    tokens: tuple[TokenLogprob, ...] = ()

    def choice(self) -> Choice:
        """As the client gets it."""
        return Choice(
            index=self.index,
            text=self.text,
            finish_reason=self.reason,
            score=self.score,
            stop_cause=self.stop_cause,
            stop_word=self.stop_word,
            tokens=self.tokens,
        )


def rank(drafts: list[Draft]) -> list[Draft]:
    """Return drafts best first; earlier ones win ties, empty ones come last."""
    return sorted(drafts, key=lambda d: (not d.text, -d.score))


def without_near_duplicates(drafts: list[Draft]) -> list[Draft]:
    """Return drafts in order, leaving out those that say what an earlier one says."""
    kept: list[Draft] = []
    for draft in drafts:
        if not any(_similar(draft.text, other.text) for other in kept):
            kept.append(draft)
    return kept


def score_suffix(
    engine: Engine, prefix: Prefix, prompt: Prompt, draft: Draft, suffix: str
) -> Draft:
    """Return `draft` scored by the mean log-probability of the suffix's first words after it.

    prefix: the whole prompt, with the logits at its end; it is left as it was. Without them the draft keeps its score.
    """
    tokenizer = engine.tokenizer
    start = prompt.healed.decode("utf-8", errors="ignore") + draft.text
    with_suffix = tokenizer.encode(start + suffix[:SUFFIX_CHARS])
    alone = tokenizer.encode(start)
    n_shared = 0
    while n_shared < min(len(alone), len(with_suffix)) and alone[n_shared] == with_suffix[n_shared]:
        n_shared += 1
    inputs = with_suffix[:-1]
    is_too_long = prefix.n_tokens + len(inputs) > engine.info.context_length
    if is_too_long or n_shared == len(with_suffix) or prefix.logits is None:
        return draft
    rows = [prefix.logits, *(engine.logits(prefix.cache, inputs) if inputs else ())]
    logprobs = [log_softmax_at(rows[i], with_suffix[i]) for i in range(n_shared, len(with_suffix))]
    return replace(draft, score=float(np.mean(logprobs)))


def _similar(a: str, b: str) -> bool:
    a, b = " ".join(a.casefold().split()), " ".join(b.casefold().split())
    return a == b or difflib.SequenceMatcher(None, a, b, autojunk=False).ratio() >= SAME
