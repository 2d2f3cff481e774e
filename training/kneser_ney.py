"""Interpolated Kneser–Ney over token ids: the classic baseline beside a trained model.

Kneser and Ney 1995, interpolated as in Chen and Goodman 1998 (https://dash.harvard.edu/handle/1/25104739),
one absolute discount an order, n1 / (n1 + 2 n2); below the highest order a count is the number of
different tokens to the left. The unigrams are interpolated with the uniform distribution.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class _Order:
    """The n-grams of one length.

    keys: (n_grams,) sorted, the number of the context in the order below × vocabulary + last token.
    counts: adjusted, in the same order. totals, types: (n_contexts,) their sum and number by context.
    """

    keys: Ids
    counts: Ids
    totals: Ids
    types: Ids
    discount: float


@dataclass(frozen=True, eq=False)
class KneserNey:
    """A trained model; `orders[0]` are unigrams."""

    orders: tuple[_Order, ...]
    vocab_size: int

    def nats(self, tokens: Ids) -> NDArray[np.float64]:
        """NLL of every token given up to order - 1 tokens before it, (n,) nats."""
        chances = np.full(len(tokens), 1.0 / self.vocab_size)
        contexts = np.zeros(len(tokens), dtype=np.int64)
        for order in self.orders:
            grams = _find(order.keys, contexts * self.vocab_size + tokens, contexts >= 0)
            known = contexts >= 0
            known[known] = order.totals[contexts[known]] > 0
            at = contexts[known]
            counts = np.where(grams[known] >= 0, order.counts[grams[known]], 0)
            seen = np.maximum(counts - order.discount, 0.0)
            left = order.discount * order.types[at]
            chances[known] = (seen + left * chances[known]) / order.totals[at]
            contexts = np.concatenate(([-1], grams[:-1]))
        nats: NDArray[np.float64] = -np.log(chances)
        return nats


def train_kneser_ney(tokens: Ids, vocab_size: int, order: int = 5) -> KneserNey:
    """Count the n-grams of (n,) token ids below `vocab_size`, up to `order` tokens long."""
    keys: list[Ids] = []
    suffixes: list[Ids] = []  # by n-gram: the number, one order below, of its last tokens
    raw: list[Ids] = []
    grams = np.zeros(len(tokens) + 1, dtype=np.int64)  # at each position: the empty n-gram
    for length in range(1, order + 1):
        n = len(tokens) - length + 1
        found, first, numbers, counts = np.unique(
            grams[:n] * vocab_size + tokens[length - 1 :],
            return_index=True,
            return_inverse=True,
            return_counts=True,
        )
        keys.append(found)
        raw.append(counts)
        suffixes.append(grams[first + 1])
        grams = numbers
    orders: list[_Order] = []
    for level in range(order):
        highest = level == order - 1
        counts = (
            raw[level] if highest else np.bincount(suffixes[level + 1], minlength=len(keys[level]))
        )
        orders.append(_order(keys[level], counts, vocab_size, len(keys[level - 1]) if level else 1))
    return KneserNey(tuple(orders), vocab_size)


def _order(keys: Ids, counts: Ids, vocab_size: int, n_contexts: int) -> _Order:
    contexts = keys // vocab_size
    once, twice = int((counts == 1).sum()), int((counts == 2).sum())
    return _Order(
        keys=keys,
        counts=counts,
        totals=np.bincount(contexts, weights=counts, minlength=n_contexts).astype(np.int64),
        types=np.bincount(contexts, weights=counts > 0, minlength=n_contexts).astype(np.int64),
        discount=once / max(1, once + 2 * twice),
    )


def _find(keys: Ids, wanted: Ids, known: NDArray[np.bool_]) -> Ids:
    """Where each wanted key stands, -1 for none."""
    places = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(known & (keys[places] == wanted), places, -1)
