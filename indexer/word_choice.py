"""Words that somebody uses more, or less, than people do on the whole.

Log-odds against the frequencies of wordfreq, with those frequencies as the prior: "Fightin' Words", Monroe, Colaresi
& Quinn 2008, equations 16 and 22, where the other text is so long that its variance is nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from indexer.language import WORD
from indexer.portrait_counts import Counts, folded
from indexer.types import Language

N_WORDS = 20
PRIOR_WORDS = 2_000.0  # the prior weighs as much as a text of this length
MIN_LOG_ODDS = math.log(2)
MIN_Z = 3.0
MIN_COUNT_FAVOURITE = 4.0
MIN_FREQUENCY_SHUNNED = 2e-4
MIN_LETTERS_SHUNNED = 3
MIN_DOCUMENTS = 2  # that use a favourite, where there are more: else it may be their subject

# Names are not counted, so it is not known whether somebody shuns them.
_PROPER_EN = """america american april august australia british california canada chicago china chinese christmas david
    december england english europe european february france french friday george german germany god india
    international internet january jesus john july june king london lord march may michael monday november october
    paul president russia russian saturday september south north east west street sunday texas trump united
    university washington york"""
_PROPER_RU = """александр андрей бог владимир германии дмитрий европы иван киев михаил москва москве москвы николай
    петербурге путин путина рф россии россию россия санкт сергей ссср сша украина украине украины франции"""
PROPER: dict[Language, frozenset[str]] = {
    "en": frozenset(_PROPER_EN.split()),
    "ru": frozenset(_PROPER_RU.split()),
}


@dataclass(frozen=True, slots=True)
class WordUse:
    """per_million: of the user's words. general_per_million: of everybody's. z: how sure the difference is."""

    word: str
    per_million: float
    general_per_million: float
    z: float


@dataclass(frozen=True, slots=True)
class WordChoice:
    """Favourites first come first; so do the most shunned. A shunned word's per_million is a bound from above."""

    favourite: tuple[WordUse, ...] = ()
    shunned: tuple[WordUse, ...] = ()


def general_frequencies(language: Language) -> dict[str, float]:
    """How often people use each of some ten thousand words, as a share of all words (wordfreq).

    Takes a tenth of a second and 30 MB, which are given back with the dictionary.
    """
    import wordfreq

    found: dict[str, float] = {}
    for word, frequency in wordfreq.get_frequency_dict(language, "small").items():
        found[folded(word)] = found.get(folded(word), 0.0) + frequency
    wordfreq.get_frequency_dict.cache_clear()
    wordfreq.get_frequency_list.cache_clear()
    return found


def word_choice(
    counts: Counts, general: Mapping[str, float], language: Language, n_words: int = N_WORDS
) -> WordChoice:
    """Compare what was counted with general frequencies; only words that those have."""
    min_documents = MIN_DOCUMENTS if counts.n_documents > MIN_DOCUMENTS else 1
    favourite = [
        _use(word, count, counts.n_words, general[word])
        for word, count in counts.words.items()
        if word in general
        and count >= MIN_COUNT_FAVOURITE
        and counts.n_using[word] >= min_documents
    ]
    shunned = [
        _use(word, counts.at_most(word), counts.n_words, frequency)
        for word, frequency in general.items()
        if frequency >= MIN_FREQUENCY_SHUNNED
        and len(word) >= MIN_LETTERS_SHUNNED
        and WORD.fullmatch(word)  # wordfreq has figures too
        and word not in PROPER.get(language, ())
    ]
    loved = [use for use, log_odds in favourite if log_odds >= MIN_LOG_ODDS and use.z >= MIN_Z]
    avoided = [use for use, log_odds in shunned if log_odds <= -MIN_LOG_ODDS and use.z <= -MIN_Z]
    loved.sort(key=lambda use: (-use.z, use.word))
    avoided.sort(key=lambda use: (use.z, use.word))
    return WordChoice(tuple(loved[:n_words]), tuple(avoided[:n_words]))


def _use(word: str, count: float, n_words: float, general: float) -> tuple[WordUse, float]:
    """A word with its log-odds against general use."""
    prior = PRIOR_WORDS * general
    here = count + prior
    log_odds = math.log(here / (n_words + PRIOR_WORDS - here)) - math.log(general / (1 - general))
    z = log_odds * math.sqrt(here)
    per_million = 1e6 * count / n_words if n_words else 0.0
    return WordUse(word, round(per_million, 1), round(1e6 * general, 1), round(z, 2)), log_odds
