"""The remedy for greedy loops: the model's own continuations, and what it repeats in them.

Sequence-level unlikelihood (Welleck et al. 2019, https://arxiv.org/abs/1908.04319): decode greedily,
and make every token that stands in a repeated 4-gram less likely (`training.loss.chunk_unlikelihood`),
beside maximum likelihood on the corpus.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, Gemma3ForCausalLM

from training.shards import RowOrder

OPENING_TOKENS = (16, 64)  # control prefix included
NGRAM = 4
_OTHER_ROWS = 104_729  # openings come in another order than the rows that are trained on


def opening_rows(order: RowOrder, step: int, first: int, n_rows: int) -> Tensor:
    """Beginnings of rows, (n_rows, length) int64 on the CPU, `first` counted since the start of training.

    The length is of the step, between the two OPENING_TOKENS; both are pure functions of the seed.
    """
    length = random.Random(f"{order.seed}-{step}").randint(*OPENING_TOKENS)
    rows = replace(order, seed=order.seed + _OTHER_ROWS).batch(first, n_rows)
    return torch.from_numpy(rows[:, :length].astype("int64"))


@dataclass
class OwnWriting:
    """The model's own greedy continuations, decoded once for the training steps of a round.

    Decoding many rows takes about as long as decoding few, so a round costs little more than a step alone; its
    last steps unlearn what the model wrote a few updates ago. A run that goes on within a round decodes anew.
    n_rows: of each step in this process. length: tokens, the opening among them.
    """

    order: RowOrder
    n_rows: int
    length: int
    steps: int = 1
    process: int = 0
    n_processes: int = 1
    _round: int = -1
    _tokens: Tensor | None = None  # (steps * n_rows, length)
    _n_opening: int = 0

    def of_step(self, model: Gemma3ForCausalLM, step: int) -> tuple[Tensor, int]:
        """Tokens of a step, (n_rows, length) int64 on the model's device, and how many are the opening."""
        number, place = divmod(step, self.steps)
        if number != self._round or self._tokens is None:
            n_round = self.n_rows * self.steps
            first = (number * self.n_processes + self.process) * n_round
            openings = opening_rows(self.order, number * self.steps, first, n_round)
            self._tokens = continued_greedily(model, openings.to(model.device), self.length)
            self._round, self._n_opening = number, openings.shape[1]
        rows = slice(place * self.n_rows, (place + 1) * self.n_rows)
        return self._tokens[rows], self._n_opening


@torch.no_grad()
def continued_greedily(model: Gemma3ForCausalLM, openings: Tensor, length: int) -> Tensor:
    """`openings` (n, k) and what the model writes after them, (n, length) int64, with a KV cache.

    It writes on after <eos>: `repeated_tokens` leaves out what stands there.
    """
    decoder: Any = model
    cache = DynamicCache(config=model.config)
    parts = [openings]
    for _ in range(length - openings.shape[1]):
        output = decoder(parts[-1], past_key_values=cache, use_cache=True, logits_to_keep=1)
        parts.append(output.logits.argmax(-1))
    return torch.cat(parts, 1)


def repeated_tokens(tokens: Tensor, n_opening: int, eos: int, ngram: int = NGRAM) -> Tensor:
    """Which tokens of (n, length) stand in an n-gram that the continuation has had before; bool.

    Nothing of the opening, and nothing from the first <eos> of the continuation on, is marked.
    """
    written = tokens[:, n_opening:]
    marked = torch.zeros_like(tokens, dtype=torch.bool)
    n_grams = written.shape[1] - ngram + 1
    if n_grams < 1:
        return marked
    same = torch.ones(len(tokens), n_grams, n_grams, dtype=torch.bool, device=tokens.device)
    for shift in range(ngram):
        part = written[:, shift : shift + n_grams]
        same &= part[:, :, None] == part[:, None, :]
    seen = same.tril(-1).any(2)  # (n, n_grams)
    for shift in range(ngram):
        start = n_opening + shift
        marked[:, start : start + n_grams] |= seen
    marked[:, n_opening:] &= (written == eos).cumsum(1) == 0
    return marked
