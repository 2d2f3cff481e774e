"""How well a loaded model predicts a text it was not trained on: what quantisation cost, in nats."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from pushkin_runtime.engines.base import Engine

WINDOW = 256  # tokens scored at once, each window from its own <bos>: 268 MB of logits at Gemma's vocabulary


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOut:
    """nats_per_token: mean negative log-likelihood. bits_per_character: comparable between vocabularies."""

    nats_per_token: float
    bits_per_character: float
    n_tokens: int


def held_out_loss(engine: Engine, text: str) -> HeldOut:
    """Score `text`, every token once, after at most `WINDOW` others. Raises ValueError when there is nothing in it."""
    tokens = engine.tokenizer.encode(text)
    if not tokens:
        raise ValueError("the text is empty")
    nats = 0.0
    for start in range(0, len(tokens), WINDOW):
        window = tokens[start : start + WINDOW]
        logits = engine.logits(engine.new_cache(), [engine.tokenizer.bos_id, *window[:-1]])
        nats += _nats(logits, window)
    return HeldOut(
        nats_per_token=nats / len(tokens),
        bits_per_character=nats / math.log(2) / len(text),
        n_tokens=len(tokens),
    )


def _nats(logits: np.ndarray, tokens: list[int]) -> float:
    """Sum over the rows of logits (n, vocab_size), a row at a time: a float64 copy of all would be large."""
    total = 0.0
    for row, token in zip(logits, tokens, strict=True):
        wide = row.astype(np.float64)
        largest = wide.max()
        total += float(largest + np.log(np.exp(wide - largest).sum()) - wide[token])
    return total
