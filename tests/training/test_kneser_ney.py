"""Probabilities that sum to one, and those of a text small enough to count by hand."""

from __future__ import annotations

import numpy as np
import pytest

from training.kneser_ney import train_kneser_ney


def test_probabilities_of_every_next_token_sum_to_one() -> None:
    rng = np.random.default_rng(0)
    tokens = rng.zipf(1.5, 3000) % 20
    model = train_kneser_ney(tokens, 20)

    for context in ([], [0], [1, 1], [3, 0, 1], [0, 1, 0, 1], [19, 19, 19, 19, 19]):
        chances = [np.exp(-model.nats(np.array([*context, token]))[-1]) for token in range(20)]
        assert sum(chances) == pytest.approx(1.0)


def test_a_bigram_by_hand() -> None:
    # Bigrams of abab c: ab 2, ba 1, bc 1; what stands left of a: {b}, of b: {a}, of c: {b}.
    model = train_kneser_ney(np.array([0, 1, 0, 1, 2]), 4, order=2)
    discount = 2 / (2 + 2 * 1)
    low = 3 / (3 + 0)  # every unigram has one neighbour: all its mass is discounted
    unigram = low / 4
    expected = (2 - discount) / 2 + discount * 1 / 2 * unigram

    assert np.exp(-model.nats(np.array([0, 1]))[-1]) == pytest.approx(expected)


def test_order_beats_chance_on_what_repeats() -> None:
    tokens = np.tile(np.arange(30), 20)
    model = train_kneser_ney(tokens, 30)

    assert model.nats(tokens)[5:].mean() < 0.2
    assert model.nats(np.array([7]))[0] > 2
