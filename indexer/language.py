"""English, Russian or something else: by script, by letters that give a neighbour away, by the commonest words."""

from __future__ import annotations

import re
from typing import NamedTuple

from indexer.types import Language

CYRILLIC_SHARE = 0.7
LATIN_SHARE = 0.7
MIN_WORDS_FOR_VOTE = 12
SAMPLE_CHARS = 4_000

NOT_RUSSIAN = re.compile("[іїєґўјљњћђџѓќѕәғқңөұүһҳҷӯ]", re.IGNORECASE)
OLD_RUSSIAN = re.compile("[ѣѳѵ]", re.IGNORECASE)
"""Before 1918 Russian had i, and ъ at the end of words."""

MAX_FOREIGN_LETTERS = 0.01
MAX_HARD_SIGNS = 0.012  # of the letters; Bulgarian has two per cent, Russian a twentieth of one

WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)?")
COMMON_WORDS = {
    "en": """the of and to a in that is was he for it with as his on be at by i this had not are but from or have an
        they which one you were her all she there would their we him been has when who will more no if out so said
        what up its about into than them can only other my me your do did""",
    "de": """der die das und ist in den von zu mit sich des auf für nicht ein eine dem im er es sie auch als an nach
        wie war ich wir aus bei noch nur über zum""",
    "fr": """le la les des et de un une est en que qui dans pour pas sur au il elle ne se ce plus par avec je nous
        vous son sa ses mais été du aux cette""",
    "es": """el la los las de y en que un una es por con no se para su al lo como más del fue pero sus le ha este
        está muy sin sobre""",
    "it": """il lo la gli le di e un una è che in per non con del della si da al sono come ma più dei nel alla anche
        ha questo""",
    "pt": """o a os as de e um uma que em não para com por se do da no na mais como foi mas seu sua ao dos das é
        são""",
    "nl": """de het een en van in is dat op te zijn met voor niet aan er om ook als maar bij uit was hij ze naar dan
        nog wel""",
    "pl": """i w na z do się nie że jest to o jak ale po za od przez dla czy był tak jego już tylko przy""",
}
VOTES = {language: frozenset(words.split()) for language, words in COMMON_WORDS.items()}


class Letters(NamedTuple):
    """How many letters of each script."""

    cyrillic: int
    latin: int
    all: int


def language_of(text: str) -> Language:
    """The language of a paragraph; the commoner script's where two are mixed."""
    sample = text[:SAMPLE_CHARS]
    letters = count_letters(sample)
    if letters.all == 0:
        return "other"
    if letters.cyrillic >= CYRILLIC_SHARE * letters.all or letters.cyrillic > letters.latin:
        if letters.cyrillic + letters.latin < LATIN_SHARE * letters.all:
            return "other"
        return "ru" if _is_russian(sample, letters.cyrillic) else "other"
    if letters.latin + letters.cyrillic < LATIN_SHARE * letters.all:
        return "other"
    return "en" if _is_english(sample) else "other"


def count_letters(text: str) -> Letters:
    """Letters of the two scripts and of all, other scripts too."""
    cyrillic = sum("\u0400" <= c <= "\u04ff" for c in text)
    latin = sum("a" <= c <= "z" or "A" <= c <= "Z" or "\u00c0" <= c <= "\u024f" for c in text)
    return Letters(cyrillic, latin, sum(map(str.isalpha, text)))


def _is_russian(text: str, n_cyrillic: int) -> bool:
    if OLD_RUSSIAN.search(text):
        return True
    n_foreign = len(NOT_RUSSIAN.findall(text))
    n_hard = text.count("ъ") + text.count("Ъ")
    if n_foreign > max(1, MAX_FOREIGN_LETTERS * n_cyrillic):
        return False
    return n_hard <= max(2, MAX_HARD_SIGNS * n_cyrillic)


def _is_english(text: str) -> bool:
    """By vote of the commonest words; short texts without any are taken for English."""
    words = [word.lower() for word in WORD.findall(text)]
    counts = {language: sum(word in common for word in words) for language, common in VOTES.items()}
    best = max(counts.values())
    if counts["en"] == best:
        return best > 0 or len(words) < MIN_WORDS_FOR_VOTE or text.isascii()
    return False
