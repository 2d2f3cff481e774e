"""Which of a closed list of phrases an utterance is, as a whole, by what the projector hears in every row of it.

A greedy reading of a command is seldom right to the letter; that it is *this* phrase and no other can still be plain. Every phrase
is aligned with the rows as CTC does (Graves et al. 2006), by the best path, and what that path gives away against the free reading
is its loss. Speech beside the phrase shows as loss at the edges, or as much of it in one place: then somebody said more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from pushkin_runtime.speech_types import PhraseLimits

_PEAK_ROWS = 6  # 0.36 s: a short word
_MIN_PIECES = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class PhraseMatch:
    """text: of the likeliest phrase. per_piece: loss from its first to its last piece, over their number. edge: loss before and
    after it. peak: the most in 0.36 s, wherever. loss: all of it; ahead: by how much that of the likeliest phrase with another meaning
    is greater. so_far: loss for each piece of the likeliest beginning of any phrase, for an utterance that may go on."""

    text: str
    per_piece: float
    edge: float
    peak: float
    loss: float
    ahead: float
    so_far: float

    def is_within(self, limits: PhraseLimits) -> bool:
        """Whether no loss is beyond its limit."""
        return (
            self.per_piece <= limits.per_piece
            and self.edge <= limits.edge
            and self.peak <= limits.peak
            and self.ahead >= limits.ahead
        )


class Phrasebook:
    """Phrases in the pieces of one speech model; immutable.

    pieces: what the scores after the first (silence) stand for, a space before those that begin a word. Their order is that
    of the merges they were learnt by, which is how training spelled its transcripts. phrases: with their meanings, equal for
    those that mean the same.
    """

    def __init__(self, pieces: Sequence[str], phrases: Mapping[str, str]) -> None:
        ranks = {piece: rank for rank, piece in enumerate(pieces)}
        spelled = [(phrase, _spelled(phrase, ranks)) for phrase in phrases]
        known = [(phrase, states) for phrase, states in spelled if states is not None]
        self._phrases = [phrase for phrase, _ in known]
        self._meanings = np.array([phrases[phrase] for phrase in self._phrases])
        self._lengths = np.array([2 * len(states) + 1 for _, states in known])
        longest = int(self._lengths.max(initial=1))
        self._states = np.zeros((longest, len(known)), np.int64)
        for i, (_, states) in enumerate(known):
            self._states[1 : 2 * len(states) : 2, i] = states
        may_skip = (self._states[2:] != 0) & (self._states[2:] != self._states[:-2])
        self._no_skip = np.where(may_skip, np.float32(0), np.float32(np.inf))

    def match(self, scores: NDArray[np.float32]) -> PhraseMatch | None:
        """Return the likeliest phrase of an utterance; None without phrases or rows.

        scores: (n_rows, 1 + n_pieces), up to a constant for each row the log-probability of what it says.
        """
        if not len(self._phrases) or not len(scores):
            return None
        losses = scores.max(axis=1, keepdims=True) - scores
        ends = self._aligned(losses)
        columns = np.arange(len(self._phrases))
        whole = np.minimum(ends[self._lengths - 1, columns], ends[self._lengths - 2, columns])
        n_said = np.maximum(_MIN_PIECES, (np.arange(len(ends)) + 1) // 2)[:, None]
        best = int(whole.argmin())
        if not np.isfinite(whole[best]):  # more pieces than rows
            return None
        states = self._states[: self._lengths[best], best]
        path, first, last = _best_path(losses, states)
        inside = float(path[first:last].sum())
        others = whole[self._meanings != self._meanings[best]]
        return PhraseMatch(
            text=self._phrases[best],
            per_piece=inside / (len(states) // 2),
            edge=float(path.sum()) - inside,
            peak=float(np.convolve(path, np.ones(_PEAK_ROWS)).max()),
            loss=float(whole[best]),
            ahead=float(others.min(initial=np.inf) - whole[best]),
            so_far=float((ends / n_said).min()),
        )

    def _aligned(self, losses: NDArray[np.float32]) -> NDArray[np.float32]:
        """The least loss of all rows that ends in each state of each phrase."""
        ends = np.full(self._states.shape, np.inf, np.float32)
        ends[0] = losses[0, 0]
        ends[1] = losses[0][self._states[1]]
        for row in losses[1:]:
            step = ends.copy()
            np.minimum(step[1:], ends[:-1], out=step[1:])
            np.minimum(step[2:], ends[:-2] + self._no_skip, out=step[2:])
            ends = step + row[self._states]
        return ends


class Phrasebooks:
    """One book for each language, made when a speech model's pieces are first seen; used from several threads."""

    def __init__(self, phrases: Mapping[str, Mapping[str, str]]) -> None:
        self._phrases = phrases
        self._made: tuple[tuple[str, ...], dict[str, Phrasebook]] | None = None

    def match(
        self, pieces: tuple[str, ...], scores: NDArray[np.float32], languages: Sequence[str]
    ) -> PhraseMatch | None:
        """The likeliest phrase of these languages; see Phrasebook."""
        made = self._made
        if made is None or made[0] is not pieces:
            books = {name: Phrasebook(pieces, own) for name, own in self._phrases.items()}
            self._made = made = (pieces, books)
        found = [made[1][name].match(scores) for name in languages if name in made[1]]
        matches = sorted((m for m in found if m is not None), key=lambda match: match.loss)
        if len(matches) < 2:
            return matches[0] if matches else None
        best, second = matches[:2]
        return replace(
            best,
            ahead=min(best.ahead, second.loss - best.loss),
            so_far=min(match.so_far for match in matches),
        )


def _spelled(phrase: str, ranks: Mapping[str, int]) -> list[int] | None:
    """The states of a phrase's pieces, merged in the order they were learnt; None when a letter has no piece."""
    parts = list(f" {phrase}")
    while True:
        pairs = [(ranks.get(a + b), i) for i, (a, b) in enumerate(pairwise(parts))]
        known = [(rank, i) for rank, i in pairs if rank is not None]
        if not known:
            break
        _, at = min(known)
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    if any(part not in ranks for part in parts):
        return None
    return [ranks[part] + 1 for part in parts]


def _best_path(
    losses: NDArray[np.float32], states: NDArray[np.int64]
) -> tuple[NDArray[np.float32], int, int]:
    """The loss of each row on a phrase's best path, and the rows from its first piece to after its last."""
    may_skip = np.zeros(len(states), bool)
    may_skip[2:] = (states[2:] != 0) & (states[2:] != states[:-2])
    ends = np.full(len(states), np.inf, np.float32)
    ends[:2] = losses[0][states[:2]]
    steps: list[NDArray[np.intp]] = []
    for row in losses[1:]:
        one = np.concatenate(([np.inf], ends[:-1]))
        two = np.where(may_skip, np.concatenate(([np.inf, np.inf], ends[:-2])), np.inf)
        options = np.stack((ends, one, two))
        steps.append(options.argmin(axis=0))
        ends = (options.min(axis=0) + row[states]).astype(np.float32)
    at = len(states) - (1 if ends[-1] <= ends[-2] else 2)
    path = [at]
    for step in reversed(steps):
        at -= int(step[at])
        path.append(at)
    said = states[path[::-1]]
    rows = np.flatnonzero(said)
    return losses[np.arange(len(losses)), said], int(rows[0]), int(rows[-1]) + 1
