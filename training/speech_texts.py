"""What is read aloud for training and for scoring: words only, lower case, no punctuation, ё as е.

Sentences come from the corpora (the held-out authors' for scoring), phrases from `speech_phrases`. A phrase is for
scoring when the digest of its words says so, so the two sides never share a text.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from training.corpora import Work, all_works, held_out_works, training_works
from training.speech_phrases import COMMANDS, EVERYDAY, NEAR_MISSES, SPELLED, expand

Kind = Literal["dict", "cmd", "none"]
Side = Literal["train", "test"]
MAX_WORDS = 13
_CLAUSE_END = re.compile(r"[.!?;:,…—\n“”«»\"()]+")
_WORD = {"en": re.compile(r"[a-z]+(?:'[a-z]+)*"), "ru": re.compile(r"[а-я]+(?:-[а-я]+)*")}
_TEST_ONE_IN = 10


@dataclass(frozen=True, slots=True)
class Utterance:
    """One thing to be said: its words, and whether they are dictation or a command."""

    text: str
    language: str
    kind: Kind
    source: str


def words(text: str) -> str:
    """Return `text` as the model writes it and as it is scored: lower-case words with single blanks between."""
    text = text.lower().replace("’", "'").replace("ё", "е")
    return " ".join(re.sub(r"[^\w']+|_", " ", text).split())


def is_test(text: str) -> bool:
    """Whether a phrase is kept for scoring, by its words alone."""
    return hashlib.sha256(words(text).encode()).digest()[0] % _TEST_ONE_IN == 0


def clauses(works: Sequence[Work], language: str, n: int, seed: int) -> list[str]:
    """`n` clauses of 2 to MAX_WORDS ordinary words each, from all over the works."""
    rng = random.Random(f"{seed}:{language}")
    found: dict[str, None] = {}
    while len(found) < n:
        text = rng.choice(works).read()
        for _ in range(8):
            start = rng.randrange(max(1, len(text) - 1500))
            parts = _CLAUSE_END.split(text[start : start + 1500])[1:-1]
            good = [clause for part in parts if (clause := _clause(part, language))]
            for clause in rng.sample(good, min(3, len(good))):
                found[clause] = None
    return list(found)[:n]


def _clause(part: str, language: str) -> str | None:
    clause = " ".join(part.replace("-", " ").split()).lower().replace("’", "'").replace("ё", "е")
    n_words = clause.count(" ") + 1
    is_plain = all(_WORD[language].fullmatch(word) for word in clause.split(" "))
    return clause if is_plain and 2 <= n_words <= MAX_WORDS else None


def phrases(language: str, side: Side, counts: dict[str, int], seed: int) -> list[Utterance]:
    """`counts` of commands, near_misses, everyday and spelled, those of one side; repeats as they fall."""
    tables = {
        "command": COMMANDS,
        "near_miss": NEAR_MISSES,
        "everyday": EVERYDAY,
        "spelled": SPELLED,
    }
    made: list[Utterance] = []
    for source, n in counts.items():
        rng = random.Random(f"{seed}:{language}:{side}:{source}")
        kind: Kind = "cmd" if source == "command" else "dict"
        seen: dict[str, None] = {}
        for _ in range(200 * n):
            text = words(expand(rng.choice(tables[source][language]), language, rng))
            if is_test(text) == (side == "test") and (side == "train" or text not in seen):
                seen[text] = None
                made.append(Utterance(text, language, kind, source))
                if sum(u.source == source for u in made) == n:
                    break
    return made


def utterances(
    data: Path, cache: Path, side: Side, counts: dict[str, int], seed: int
) -> list[Utterance]:
    """Everything of one side, in an order that mixes it; counts are for each language, "clause" one of them."""
    every = all_works(data, cache)
    kept = training_works(every)[0] if side == "train" else []
    chosen: list[Utterance] = []
    for language in ("en", "ru"):
        if side == "train":
            works = [work for work in kept if work.language == language]
        else:
            works = [w for group in held_out_works(every, language).values() for w in group]
        texts = clauses(works, language, counts["clause"], seed)
        chosen += [Utterance(text, language, "dict", "clause") for text in texts]
        rest = {name: n for name, n in counts.items() if name != "clause"}
        chosen += phrases(language, side, rest, seed)
    random.Random(seed).shuffle(chosen)
    return chosen
