"""What the portrait counts in a document, and how the counts of several become one.

Kept are numbers and single words: those that occur twice at least and are not names, the commonest of them.
What is left out is bounded: a word that is not in the list occurs `floor` times at most.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby, pairwise
from operator import attrgetter
from typing import Any

from indexer.language import WORD
from indexer.paragraphs import DIALOGUE
from indexer.sentences import sentence_spans
from indexer.types import Language, Paragraph

VERSION = 1
LANGUAGES: tuple[Language, ...] = ("en", "ru")
"""Others are only counted: sentences and words are not told apart well enough there."""

MAX_SENTENCE_WORDS = 100  # longer ones count as this long
PARAGRAPH_STEP_WORDS = 5
MAX_PARAGRAPH_WORDS = 300
MAX_KEPT_WORDS = 1_000
WORDS_PER_KEPT_WORD = 25  # a page must not be recognisable by its list
MIN_COUNT = 2
MIN_LOWER_SHARE = 0.2  # a word that is written with a capital more often is a name
ALWAYS_CAPITAL = frozenset({"i", "i'm", "i've", "i'll", "i'd"})

MTLD_THRESHOLD = 0.72
MTLD_MIN_WORDS = 50
MTLD_MAX = 500.0  # English authors have about 100, Russian ones, with their endings, about 200

MARKS = {
    "comma": re.compile(","),
    "semicolon": re.compile(";"),
    "colon": re.compile(":"),
    "dash": re.compile(r"(?<=[^\n])[—–―]|(?<!-)--(?!-)|(?<=\S) -(?= )"),  # none that opens a line
    "ellipsis": re.compile(r"…|\.{3,}"),
    "question": re.compile(r"\?"),
    "exclamation": re.compile("!"),
    "bracket": re.compile(r"\("),
    "quote": re.compile('[«“„]|(?<![^\\s(\\[—–-])"'),  # opening ones
}
STRETCH = re.compile(r'\n(?=[—–―"“«„]|-\s)')
"""A line that somebody speaks begins a sentence, whatever the one before ended with."""


@dataclass(slots=True, kw_only=True)
class Counts:
    """Of one language, in one document or several; weighted ones are not whole numbers.

    sentences, paragraphs: how many by their length in words. contrast: sum of |ln(length / next length)| over
    neighbouring sentences, and how many pairs. mtld_factors: words that MTLD was measured on, divided by it.
    words: the kept ones. floor: how often a word that no document keeps can occur. floor_not_for: what of that
    does not hold for a word, because some documents keep it. n_using: how many do.
    """

    n_words: float = 0.0
    n_dialogue_words: float = 0.0
    sentences: Counter[int] = field(default_factory=Counter)
    paragraphs: Counter[int] = field(default_factory=Counter)
    marks: Counter[str] = field(default_factory=Counter)
    contrast: float = 0.0
    n_neighbours: float = 0.0
    mtld_words: float = 0.0
    mtld_factors: float = 0.0
    words: Counter[str] = field(default_factory=Counter)
    floor: float = 0.0
    floor_not_for: Counter[str] = field(default_factory=Counter)
    n_using: Counter[str] = field(default_factory=Counter)
    n_documents: int = 0

    def at_most(self, word: str) -> float:
        """How often a word occurs at most."""
        return self.words[word] + self.floor - self.floor_not_for[word]

    def add(self, document: Mapping[str, Any], weight: float) -> None:
        """Add what `profile` counted in one document and one language."""
        self.n_words += weight * document["n_words"]
        self.n_dialogue_words += weight * document["n_dialogue_words"]
        _add(self.sentences, {int(n): count for n, count in document["sentences"].items()}, weight)
        _add(
            self.paragraphs, {int(n): count for n, count in document["paragraphs"].items()}, weight
        )
        _add(self.marks, document["marks"], weight)
        total, n_pairs = document["contrast"]
        self.contrast += weight * total
        self.n_neighbours += weight * n_pairs
        if document["mtld"] is not None:
            self.mtld_words += weight * document["n_words"]
            self.mtld_factors += weight * document["n_words"] / document["mtld"]
        _add(self.words, document["words"], weight)
        self.floor += weight * document["floor"]
        _add(self.floor_not_for, dict.fromkeys(document["words"], document["floor"]), weight)
        self.n_using.update(document["words"].keys())
        self.n_documents += 1


def profile(paragraphs: Sequence[Paragraph]) -> str:
    """Count in the paragraphs of a document, in their order; JSON that `read_profile` reads."""
    counted: dict[str, Any] = {}
    by_language = attrgetter("language")
    for language, group in groupby(sorted(paragraphs, key=by_language), by_language):
        found = list(group)
        if language in LANGUAGES:
            counted[language] = _counted(found, language)
    languages = Counter[str]()
    for paragraph in paragraphs:
        languages[paragraph.language] += paragraph.n_words
    return json.dumps(
        {"version": VERSION, "n_words": languages, "counts": counted},
        ensure_ascii=False,
        separators=(",", ":"),
    )


def read_profile(text: str) -> dict[str, Any] | None:
    """What `profile` counted; None where another version did, or the JSON is not what it should be."""
    try:
        found = json.loads(text)
        if found["version"] != VERSION:
            return None
        for counts in found["counts"].values():
            Counts().add(counts, 1.0)
    except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError):
        return None
    return dict(found)


def folded(word: str) -> str:
    """A word as it is counted: ё as е, because most people write one for the other."""
    return word.lower().replace("’", "'").replace("ё", "е")


def mtld(words: Sequence[str]) -> float | None:
    """Measure of textual lexical diversity (McCarthy & Jarvis 2010), MTLD_MAX at most.

    The mean length of stretches in which the share of different words stays at MTLD_THRESHOLD or above,
    read forwards and backwards. None for fewer than MTLD_MIN_WORDS words.
    """
    if len(words) < MTLD_MIN_WORDS:
        return None
    both = (_n_factors(words), _n_factors(reversed(words)))
    lengths = [len(words) / n_factors if n_factors else math.inf for n_factors in both]
    return min(MTLD_MAX, sum(lengths) / 2)


def _n_factors(words: Iterable[str]) -> float:
    n_factors, n_words = 0.0, 0
    types: set[str] = set()
    for word in words:
        types.add(word)
        n_words += 1
        if len(types) / n_words < MTLD_THRESHOLD:
            n_factors, n_words = n_factors + 1, 0
            types.clear()
    if n_words:
        n_factors += (1 - len(types) / n_words) / (1 - MTLD_THRESHOLD)
    return n_factors


def _counted(paragraphs: Sequence[Paragraph], language: Language) -> dict[str, Any]:
    """The counts of one language in one document, as JSON has them."""
    sentences, lines, marks = Counter[int](), Counter[int](), Counter[str]()
    written: list[str] = []
    contrast, n_neighbours, n_dialogue_words = 0.0, 0, 0
    for paragraph in paragraphs:
        lengths = []
        for stretch in STRETCH.split(paragraph.text):
            for start, end in sentence_spans(stretch, language):
                words = WORD.findall(stretch, start, end)
                if words:
                    lengths.append(min(len(words), MAX_SENTENCE_WORDS))
                    written += words
        sentences.update(lengths)
        contrast += sum(abs(math.log(a / b)) for a, b in pairwise(lengths))
        n_neighbours += max(0, len(lengths) - 1)
        for line in paragraph.text.split("\n"):
            n_words = sum(1 for _ in WORD.finditer(line))
            if not n_words:
                continue
            lines[_step(n_words)] += 1
            n_dialogue_words += n_words if DIALOGUE.match(line) else 0
        for name, mark in MARKS.items():
            marks[name] += sum(1 for _ in mark.finditer(paragraph.text))
    richness = mtld([folded(word) for word in written])
    kept, floor = _kept_words(written)
    return {
        "n_words": len(written),
        "n_dialogue_words": n_dialogue_words,
        "sentences": dict(sorted(sentences.items())),
        "paragraphs": dict(sorted(lines.items())),
        "marks": dict(marks),
        "contrast": [round(contrast, 3), n_neighbours],
        "mtld": None if richness is None else round(richness, 2),
        "words": kept,
        "floor": floor,
    }


def _kept_words(written: Sequence[str]) -> tuple[dict[str, int], int]:
    """The commonest words that are no names, and how often any other can occur."""
    forms = Counter(written)
    counts, n_lower = Counter[str](), Counter[str]()
    for form, count in forms.items():
        word = folded(form)
        counts[word] += count
        n_lower[word] += count if form == form.lower() else 0
    common = [
        (word, count)
        for word, count in counts.most_common()
        if count >= MIN_COUNT
        and (word in ALWAYS_CAPITAL or n_lower[word] > MIN_LOWER_SHARE * count)
    ]
    n_kept = min(MAX_KEPT_WORDS, len(written) // WORDS_PER_KEPT_WORD)
    floor = common[n_kept][1] if n_kept < len(common) else MIN_COUNT - 1
    return dict(common[:n_kept]), floor


def _step(n_words: int) -> int:
    rounded = -(-n_words // PARAGRAPH_STEP_WORDS) * PARAGRAPH_STEP_WORDS
    return min(rounded, MAX_PARAGRAPH_WORDS)


def _add(counter: Counter[Any], counts: Mapping[Any, float], weight: float) -> None:
    for key, count in counts.items():
        counter[key] += weight * count  # type: ignore[assignment]  # Counter is typed for whole numbers
