"""Mirostat: the cut follows the surprise of what was chosen, so that it stays near a target (arXiv:2007.14966).

Surprise is -log2 of a token's probability among those left, in bits. Its limit mu begins at twice the target tau, and
after each token moves by eta times how far that one's surprise was from tau. Version 1 estimates from the likeliest
tokens how many lie within mu (the paper's algorithm 1); version 2 cuts at mu itself. As in llama.cpp, what is cut is
what the temperature left, and no other sampler is run (github.com/ggml-org/llama.cpp, `common/sampling.cpp`).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from pushkin_runtime.sampling import Candidates, largest
from pushkin_runtime.sampling_types import SamplingParams

N_ESTIMATE = 100  # likeliest tokens that the exponent is estimated from, llama.cpp's own
_TINY = float(np.finfo(np.float64).tiny)


class Mirostat:
    """The limit of one row; owned by one decoder.

    Each token moves the limit by eta x (tau - surprise), so after n tokens the mean surprise is off by the way that
    the limit has gone, over eta x n.
    """

    def __init__(self, params: SamplingParams) -> None:
        self._params = params
        self.mu = 2 * params.mirostat_tau

    def cut(self, row: Candidates, vocab_size: int) -> Candidates:
        """Return the tokens within the limit, at least the likeliest, with their probabilities."""
        if len(row.tokens) == 1:
            return row
        surprise = -np.log2(np.maximum(row.probabilities, _TINY))
        if self._params.mirostat == 1:
            n_likeliest = min(N_ESTIMATE, len(surprise))
            likeliest = np.partition(surprise, n_likeliest - 1)[:n_likeliest]
            n_kept = n_within(np.sort(likeliest), self.mu, vocab_size)
            kept = np.sort(largest(row.probabilities, n_kept))
        else:
            kept = np.flatnonzero(surprise <= max(self.mu, float(surprise.min())))
        probabilities = row.probabilities[kept]
        return Candidates(row.tokens[kept], probabilities / probabilities.sum())

    def observe(self, left: Candidates, token: int) -> None:
        """`token` was chosen from what `cut` left."""
        [place] = np.flatnonzero(left.tokens == token)
        surprise = -math.log2(max(float(left.probabilities[place]), _TINY))
        self.mu -= self._params.mirostat_eta * (surprise - self._params.mirostat_tau)


def n_within(surprise: NDArray[np.float64], mu: float, vocab_size: int) -> int:
    """Return the k of the paper's algorithm 1: how many tokens to keep for a surprise of `mu` at most.

    surprise: of the likeliest tokens, two at least, in bits, ascending. By Zipf's law p(i) ~ i^-s, whose s is fitted; then
    k = (e 2^mu / (1 - N^-e))^(1/s) with e = s - 1 and N = vocab_size.
    """
    places = np.arange(1, len(surprise) + 1)
    steps = np.log(places[1:] / places[:-1])
    s = max(1e-6, float(steps @ np.diff(surprise)) * math.log(2) / float(steps @ steps))
    e, log_n = s - 1, math.log(vocab_size)
    # e / (1 - N^-e); at s = 1 both parts are 0.
    share = e / -math.expm1(-e * log_n) if abs(e) > 1e-9 else 1 / log_n
    log_k = (math.log(share) + mu * math.log(2)) / s
    return int(math.exp(max(log_k, 0.0))) if log_k < log_n else vocab_size
