"""How predictable somebody's writing is, and the min-p that follows from it.

Of 70 English and 70 Russian authors (60,000 characters of each, public domain) those with a high MTLD are the ones whose
text compresses badly (PPMd, order 6; Spearman 0.52 and 0.63). How much sentence lengths vary says nothing about that
(0.08, −0.16), but how predictable the rhythm is; it has a quarter of the weight. The anchors are those authors'
tenth and ninetieth percentiles. The whole against bits a character: −0.50 and −0.59.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Protocol

from indexer.errors import IndexClosed
from indexer.portrait import LanguagePortrait, Portrait, portrait
from indexer.records import DocumentRecord
from indexer.types import Language
from pushkin_runtime.sampling import MIN_P_RANGE

MTLD_WEIGHT = 0.75
NEUTRAL = 0.5
NEUTRAL_WORDS = 2_000.0  # so many words pull half as far from the middle as endless ones


@dataclass(frozen=True, slots=True)
class Anchors:
    """(predictable, unpredictable). variation: of sentence lengths."""

    mtld: tuple[float, float]
    variation: tuple[float, float]


ANCHORS: dict[Language, Anchors] = {
    "en": Anchors(mtld=(76.0, 110.0), variation=(0.59, 0.88)),
    "ru": Anchors(mtld=(167.0, 376.0), variation=(0.68, 0.96)),
}


def predictability(found: Portrait) -> float:
    """0: rich words and restless sentences; 1: few words and even sentences; 0.5 where little is known."""
    n_words = sum(one.n_words for one in found.languages)
    if not n_words:
        return NEUTRAL
    mean = sum(one.n_words * _of_language(one) for one in found.languages) / n_words
    return NEUTRAL + (mean - NEUTRAL) * n_words / (n_words + NEUTRAL_WORDS)


def min_p_for(predictability: float) -> float:
    """0.05 for the least predictable writing to 0.15 for the most: formal text wants fewer surprises."""
    low, high = MIN_P_RANGE
    return low + (high - low) * min(1.0, max(0.0, predictability))


class ProfiledIndex(Protocol):
    """The part of `service.DocumentIndex` that is needed here."""

    @property
    def generation(self) -> int: ...

    def profiles(self) -> Future[tuple[list[DocumentRecord], dict[str, str]]]: ...


class MeasuredMinP:
    """The min-p of an index, for `PersonaParts.min_p`: used by the inference thread alone, never waits.

    When the index has changed the old value is given while the new one is worked out on the index's own thread.
    """

    def __init__(self, index: ProfiledIndex) -> None:
        self._index = index
        self._generation = -1
        self._value: float | None = None

    def __call__(self) -> float | None:
        """None while nothing is measured."""
        generation = self._index.generation
        if generation not in (-1, self._generation):
            try:
                self._index.profiles().add_done_callback(self._measure)
            except IndexClosed:
                return self._value
            self._generation = generation
        return self._value

    def _measure(self, reading: Future[tuple[list[DocumentRecord], dict[str, str]]]) -> None:
        if reading.cancelled() or reading.exception() is not None:
            self._generation = -1  # ask again
        else:
            self._value = measured_min_p(*reading.result())


def measured_min_p(
    documents: Sequence[DocumentRecord], profiles: Mapping[str, str]
) -> float | None:
    """The min-p that documents ask for; None when none has counts."""
    found = portrait(profiles, {document.id: document.weight for document in documents})
    return min_p_for(predictability(found)) if found.languages else None


def _of_language(one: LanguagePortrait) -> float:
    anchors = ANCHORS[one.language]
    rhythm = _between(one.sentence_words.variation, anchors.variation)
    if one.mtld is None:
        return rhythm
    return MTLD_WEIGHT * _between(one.mtld, anchors.mtld) + (1 - MTLD_WEIGHT) * rhythm


def _between(value: float, anchors: tuple[float, float]) -> float:
    """1 at the predictable anchor and beyond, 0 at the other."""
    predictable, unpredictable = anchors
    share = (unpredictable - value) / (unpredictable - predictable)
    return min(1.0, max(0.0, share))
