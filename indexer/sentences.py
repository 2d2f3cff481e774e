"""Where sentences end. Russian by razdel; English by the rules below.

On 1,538 passages of the Brown corpus the rules find 91 % of the annotators' boundaries and 99.9 % of what they find is
one; pysbd finds fewer (84 % against 87 % on 300 of them), is wrong more often and takes a hundred times as long.
"""

from __future__ import annotations

import re

from indexer.types import Language

_ABBREVIATIONS = """mr mrs ms dr prof rev st sr jr hon gen col capt lt sgt maj cmdr adm gov sen rep pres supt messrs mme mlle
    co corp inc ltd bros dept dist univ assn no nos vol vols fig figs ch chap sec pp p ed eds est approx cf al vs viz
    e.g i.e etc a.m p.m u.s u.k u.n d.c ph.d m.d b.a m.a jan feb mar apr jun jul aug sep sept oct nov dec mon tue wed
    thu fri sat sun ave blvd rd mt ft"""
ABBREVIATIONS = frozenset(_ABBREVIATIONS.split())
_NEVER_LAST = """mr mrs ms dr prof rev st hon gen col capt lt sgt maj cmdr adm gov sen rep pres supt messrs mme mlle
    no nos vol vols fig figs ch chap sec pp cf vs viz e.g i.e approx mt ft"""
NEVER_LAST = frozenset(_NEVER_LAST.split())
"""What stands before a name or a number even when that begins with a capital."""

_STARTERS = """the a an this that these those it he she they we you i there here in on at for but and so then when while if
    as what who how why his her their our my your its all some many no not after before with by from to"""
STARTERS = frozenset(_STARTERS.split())
"""A sentence that begins with one of these ended before it, abbreviation or not."""

END = re.compile(
    r"""(?P<mark>[.!?…]+)(?P<close>["'”’»)\]]*)(?P<space>\s+)(?=["'“‘«(\[—–-]*\s?[A-ZА-ЯЁÀ-ÞŒŠŽ0-9])"""
)
TOKEN_BEFORE = re.compile(r"[\w.&'’-]+$")
WORD = re.compile(r"(\w+)")
LOOK_BACK = 40


def sentence_spans(text: str, language: Language) -> list[tuple[int, int]]:
    """(start, end) of each sentence of a paragraph, without the white space between them; covers all else."""
    if language == "ru":
        from razdel import sentenize

        return [(found.start, found.stop) for found in sentenize(text)]
    spans = []
    start = 0
    for match in END.finditer(text):
        if _is_end(text, match):
            spans.append((start, match.start("space")))
            start = match.end()
    if text[start:].strip():
        spans.append((start, len(text.rstrip())))
    return spans


def _is_end(text: str, match: re.Match[str]) -> bool:
    """A full stop after an abbreviation or an initial is none, but in the ways those end a sentence too."""
    if match["mark"] != "." or match["close"]:
        return True
    before = TOKEN_BEFORE.search(text, max(0, match.start() - LOOK_BACK), match.start())
    if before is None:
        return True
    word = before[0].lstrip("'’-").lower()
    if len(word) == 1 and word.isalpha():
        return word == "i"  # an initial; "it was I."
    if word in NEVER_LAST:
        return False
    if word in ABBREVIATIONS or re.fullmatch(r"(?:[a-z]\.)+[a-z]", word):
        return _next_word(text, match.end()) in STARTERS
    return True


def _next_word(text: str, at: int) -> str:
    match = WORD.search(text, at, at + LOOK_BACK)
    return match[1].lower() if match else ""
