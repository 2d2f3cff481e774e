"""Where the projector begins: rows that already point to the words an author favours.

To first order, the residual that lowers an author's loss is Σ_v (p_author(v) - p_language(v)) e_v: the gradient
of the mean NLL by a constant added before a tied head. A ridge regression from the plug's own (random) hidden
layer to these directions, one for each band of token frequency, replaces the random output layer. What it has
to predict are the words of *another* work than the history's, so that names and topics shrink to nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pushkin_runtime.control_tokens import LANGUAGES
from training.persona_examples import MAX_HISTORY, Author, Source, sample_history
from training.persona_plug import TrainablePlug

DRAWS = 8  # histories of each work
LESSON_RUNS = 6  # of a work, the passage's among them


def token_rates(source: Source, n_vocab: int) -> Any:
    """Relative frequencies of a work's tokens, (n_vocab,) float32."""
    counts = np.bincount(np.concatenate(source.tokens), minlength=n_vocab)
    rates: Any = (counts / counts.sum()).astype(np.float32)
    return rates


def directions(deviation: Any, common: Any, embedding: Any, n_soft: int) -> Any:
    """Σ_v deviation_v e_v for each of `n_soft` bands of frequency (equal mass of `common`), (n_soft, D)."""
    order = np.argsort(-common, kind="stable")
    mass = np.cumsum(common[order])
    bands = np.minimum((mass * n_soft).astype(int), n_soft - 1)
    rows = [
        deviation[order[bands == band]] @ embedding[order[bands == band]] for band in range(n_soft)
    ]
    return np.stack(rows)


def training_pairs(
    authors: Sequence[Author], embedding: Any, n_soft: int, seed: int
) -> tuple[list[Any], Any]:
    """Histories (k, E) each, and the directions (n, n_soft, D) of the author's other work, unit mean length."""
    rng = np.random.default_rng(seed)
    histories: list[Any] = []
    targets: list[Any] = []
    for language in LANGUAGES:
        own = [author for author in authors if author.language == language]
        rates = [[token_rates(s, len(embedding)) for s in author.sources] for author in own]
        if not own:
            continue
        common = np.mean([np.mean(each, 0) for each in rates], 0)
        for author, each in zip(own, rates, strict=True):
            for place, rate in enumerate(each):
                rest = [s for index, s in enumerate(author.sources) if index != place]
                target = directions(rate - common, common, embedding, n_soft)
                for _ in range(DRAWS):
                    histories.append(sample_history(rest, MAX_HISTORY, rng)[0])
                    targets.append(target)
    found = np.stack(targets)
    lengths = np.linalg.norm(found, axis=2).mean(0)  # (n_soft,)
    return histories, found / np.maximum(lengths, 1e-9)[None, :, None]


@torch.no_grad()
def hidden_means(plug: TrainablePlug, histories: Sequence[Any]) -> Tensor:
    """The projector's hidden layer, averaged over each history, (n, H)."""
    scale = plug.shape.n_embedding**0.5
    return torch.stack(
        [
            F.gelu(
                plug.into(torch.from_numpy(own.astype(np.float32)) * scale), approximate="tanh"
            ).mean(0)
            for own in histories
        ]
    )


@torch.no_grad()
def warm_start(
    plug: TrainablePlug,
    authors: Sequence[Author],
    embedding: Tensor,
    ridge: float = 0.03,
    seed: int = 0,
) -> float:
    """Solve for the projector's last layer in place; the share of variance it explains where it was fitted.

    embedding: the head's (n_vocab, D). ridge: relative to the mean variance of the hidden layer.
    """
    n_soft = plug.shape.n_soft
    histories, targets = training_pairs(authors, embedding.float().numpy(), n_soft, seed)
    hidden = hidden_means(plug, histories).double()
    wanted = torch.from_numpy(targets.reshape(len(targets), -1)).double()
    mean, offset = hidden.mean(0), wanted.mean(0)
    centred = hidden - mean
    gram = centred.T @ centred / len(centred)
    gram += ridge * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype)
    weight = torch.linalg.solve(gram, centred.T @ (wanted - offset) / len(centred))  # (H, m·D)
    plug.out.weight.copy_(weight.T)
    plug.out.bias.copy_(offset - mean @ weight)
    rest = wanted - offset - centred @ weight
    return float(1 - rest.var() / wanted.var())


class Lessons:
    """Makes rows of a passage's own work: directions of the token rates of a few of its runs."""

    def __init__(self, authors: Sequence[Author], embedding: Any, n_soft: int) -> None:
        self._embedding, self._n_soft = embedding, n_soft
        self._common: dict[str, Any] = {}
        for language in LANGUAGES:
            own = [author for author in authors if author.language == language]
            if own:
                self._common[language] = np.mean(
                    [
                        np.mean([token_rates(s, len(embedding)) for s in author.sources], 0)
                        for author in own
                    ],
                    0,
                )

    def rows(self, source: Source, run: int, rng: np.random.Generator) -> Any:
        """(n_soft, D) float32 for a passage from run `run`."""
        runs = {run, *rng.integers(len(source.tokens), size=LESSON_RUNS - 1).tolist()}
        tokens = np.concatenate([source.tokens[index] for index in runs])
        common = self._common[source.language]
        rates = np.bincount(tokens, minlength=len(common)) / len(tokens)
        rows = directions(
            (rates - common).astype(np.float32), common, self._embedding, self._n_soft
        )
        return rows.astype(np.float32)
