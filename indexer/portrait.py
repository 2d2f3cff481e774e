"""The portrait: what the index has learned about somebody's writing, in numbers and single words."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from indexer.portrait_counts import LANGUAGES, MARKS, Counts, read_profile
from indexer.types import Language
from indexer.word_choice import WordChoice, word_choice

General = Callable[[Language], Mapping[str, float]]
"""The general frequencies of a language's words, such as `word_choice.general_frequencies`."""

SHORT_SENTENCE_WORDS = 5
LONG_SENTENCE_WORDS = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """Of lengths in words. variation: standard deviation ÷ mean."""

    lower_quartile: float
    median: float
    upper_quartile: float
    mean: float
    variation: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LanguagePortrait:
    """Writing in one language; rates are weighted by documents.

    sentence_histogram: share of sentences by length, position 0 is one word; the last holds all longer ones.
    contrast: mean of |ln(length of a sentence / of the next)|. mtld: of word forms. dialogue: share of words in
    lines that somebody speaks. marks: per 1,000 words.
    """

    language: Language
    n_words: int
    share: float
    sentence_words: Spread
    sentence_histogram: tuple[float, ...]
    short_sentences: float
    long_sentences: float
    contrast: float | None
    paragraph_words: Spread
    mtld: float | None
    dialogue: float
    marks: dict[str, float]
    words: WordChoice


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentShare:
    """How much of the portrait is a document's: its words times its weight, as a share of all such."""

    id: str
    n_words: int
    weight: float
    share: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Portrait:
    """languages: those that are understood, most words first. shares: of words, by any language.

    documents: those that were counted, greatest share first. n_uncounted: indexed before there were counts.
    """

    n_words: int
    shares: dict[str, float]
    languages: tuple[LanguagePortrait, ...]
    documents: tuple[DocumentShare, ...]
    n_uncounted: int


def portrait(
    profiles: Mapping[str, str], weights: Mapping[str, float], general: General | None = None
) -> Portrait:
    """Merge what `portrait_counts.profile` counted in each document.

    weights: of every indexed document, by id; a profile without one is left out. general: None compares no words.
    """
    found = {name: read_profile(text) for name, text in profiles.items() if name in weights}
    counted = {name: counts for name, counts in found.items() if counts is not None}
    documents = _shares(counted, weights)
    n_words = sum(document.n_words for document in documents)
    merged = {language: Counts() for language in LANGUAGES}
    shares = dict.fromkeys(LANGUAGES, 0.0) | {"other": 0.0}
    for document in documents:
        if not document.share:
            continue
        # All weights together leave the number of words as it is.
        weight = document.share * n_words / document.n_words
        counts = counted[document.id]
        for language, n in counts["n_words"].items():
            shares[language] += weight * n / n_words
        for language, one in counts["counts"].items():
            merged[language].add(one, weight)
    drawn = [
        _drawn(language, counts, n_words, general)
        for language, counts in merged.items()
        if counts.sentences
    ]
    return Portrait(
        n_words=n_words,
        shares={name: round(share, 4) for name, share in shares.items() if share},
        languages=tuple(sorted(drawn, key=lambda one: -one.n_words)),
        documents=documents,
        n_uncounted=len(weights) - len(counted),
    )


def _shares(
    counted: Mapping[str, Mapping[str, Any]], weights: Mapping[str, float]
) -> tuple[DocumentShare, ...]:
    sizes = {name: sum(counts["n_words"].values()) for name, counts in counted.items()}
    total = sum(weights[name] * n_words for name, n_words in sizes.items())
    shares = [
        DocumentShare(
            id=name,
            n_words=n_words,
            weight=weights[name],
            share=weights[name] * n_words / total if total else 0.0,
        )
        for name, n_words in sizes.items()
    ]
    return tuple(sorted(shares, key=lambda one: (-one.share, one.id)))


def _drawn(
    language: Language, counts: Counts, n_words: int, general: General | None
) -> LanguagePortrait:
    n_sentences = sum(counts.sentences.values())
    histogram = [counts.sentences[n] / n_sentences for n in range(1, max(counts.sentences) + 1)]
    return LanguagePortrait(
        language=language,
        n_words=round(counts.n_words),
        share=round(counts.n_words / n_words, 4),
        sentence_words=spread(counts.sentences),
        sentence_histogram=tuple(round(share, 4) for share in histogram),
        short_sentences=round(sum(histogram[:SHORT_SENTENCE_WORDS]), 4),
        long_sentences=round(sum(histogram[LONG_SENTENCE_WORDS - 1 :]), 4),
        contrast=round(counts.contrast / counts.n_neighbours, 3) if counts.n_neighbours else None,
        paragraph_words=spread(counts.paragraphs),
        mtld=round(counts.mtld_words / counts.mtld_factors, 1) if counts.mtld_factors else None,
        dialogue=round(counts.n_dialogue_words / counts.n_words, 4),
        marks={name: round(1000 * counts.marks[name] / counts.n_words, 2) for name in MARKS},
        words=word_choice(counts, general(language), language) if general else WordChoice(),
    )


def spread(histogram: Mapping[int, float]) -> Spread:
    """How lengths are spread. histogram: how many (not necessarily a whole number) of each length."""
    total = sum(histogram.values())
    mean = sum(length * n for length, n in histogram.items()) / total
    variance = sum(n * (length - mean) ** 2 for length, n in histogram.items()) / total
    lower, median, upper = (_quantile(histogram, total * share) for share in (0.25, 0.5, 0.75))
    return Spread(
        lower_quartile=lower,
        median=median,
        upper_quartile=upper,
        mean=round(mean, 2),
        variation=round(math.sqrt(variance) / mean, 3) if mean else 0.0,
    )


def _quantile(histogram: Mapping[int, float], rank: float) -> float:
    """The least length with that many at or below it."""
    seen = 0.0
    for length in sorted(histogram):
        seen += histogram[length]
        if seen >= rank * (1 - 1e-9):
            return float(length)
    return float(max(histogram))
