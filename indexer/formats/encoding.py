"""Bytes of a text file → text. Byte order marks, strict UTF-8, UTF-16 by its zeros, then Russian or Latin by letters.

charset-normalizer is not used: on texts of a sentence or two it takes Russian for other code pages several times as
often (`benchmarks/extraction.py` counts it), and a document here is either English or Russian.
"""

from __future__ import annotations

import codecs
import math
import re
from typing import Literal

from indexer.errors import DocumentUnsupported

MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
CANDIDATES = {"cp1252": 0, "cp1251": 0, "koi8_r": 2, "cp866": 2, "mac_cyrillic": 5, "mac_roman": 5}
"""In order of preference between equals: English with typographic quotes is the same in the first two. How rare the
encoding is counts against it: what a sentence may look like by chance in two of them is the commoner one."""

SAMPLE_BYTES = 65_536
N_SLICES = 32
BINARY = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f]")
MAX_BINARY_SHARE = 0.003

# Per mille of letters in Russian prose.
RUSSIAN_SHARES = """о110 е85 а80 и73 н67 т63 с55 р47 в45 л44 к35 м32 д30 п28 у26 я20 ы19 ь17 г17 з16 б16 ч14 й12 х10
    ж9 ш7 ю6 ц5 щ4 э3 ф3 ё2 ъ0.5"""
RUSSIAN = {share[0]: float(share[1:]) / 1000 for share in RUSSIAN_SHARES.split()}
RARITY = {letter: -math.log(share) for letter, share in RUSSIAN.items()}
OPENING = frozenset("«“„‘‚")
CLOSING = frozenset("»”’")
PUNCTUATION = frozenset("—–…\u00a0") | OPENING | CLOSING
SIGNS = frozenset("№§°·•©®™±×€†")  # no letter touches these

RUSSIAN_WORD = re.compile("[А-Яа-яЁё]{3}")

Fit = Literal["punctuation", "sign", "alike", "mixed", "case", "foreign", "junk"]
COSTS: dict[Fit, float] = {
    "punctuation": 3.0,
    "sign": 5.0,
    "alike": 5.0,  # a Latin letter with a mark, among Latin letters
    "mixed": 7.0,  # letters of two scripts side by side
    "case": 6.0,  # a capital after a small letter: how KOI8-R and code page 1251 look through each other
    "foreign": 7.0,
    "junk": 9.0,
}


def decode(content: bytes) -> tuple[str, str]:
    """(text, name of its encoding). Raises DocumentUnsupported for what is not text."""
    for mark, encoding in MARKS:
        if content.startswith(mark):
            return content[len(mark) :].decode(encoding, "replace"), encoding
    wide = _utf16_without_mark(content)
    if wide is not None:
        return content.decode(wide, "replace"), wide
    if len(BINARY.findall(content[:SAMPLE_BYTES])) > MAX_BINARY_SHARE * len(content[:SAMPLE_BYTES]):
        raise DocumentUnsupported("The document is neither text nor of a known binary format.")
    try:
        return content.decode("utf-8"), "utf-8"
    except UnicodeDecodeError:
        pass
    if _is_damaged_utf8(content):
        return content.decode("utf-8", "replace"), "utf-8"
    encoding = eight_bit_encoding(content)
    return content.decode(encoding, "replace"), encoding


def _utf16_without_mark(content: bytes) -> str | None:
    """English has a zero, Russian a four in every other byte."""
    sample = content[:4096]
    if len(sample) < 8 or len(content) % 2:
        return None
    for encoding, high in (("utf-16-le", sample[1::2]), ("utf-16-be", sample[0::2])):
        if (high.count(0) + high.count(4)) > 0.7 * len(high) and b"\x00" in sample:
            return encoding
    return None


def _is_damaged_utf8(content: bytes) -> bool:
    """Cut in the middle of a character, or a few bad bytes among many good sequences."""
    kept = content.decode("utf-8", "ignore")
    n_good = len(kept.encode("utf-8")) - sum(1 for character in kept if character < "\x80")
    n_bad = len(content) - len(kept.encode("utf-8"))
    return n_good > 0 and (n_bad * 20 <= n_good or _is_cut(content))


def _is_cut(content: bytes) -> bool:
    try:
        content.decode("utf-8")
    except UnicodeDecodeError as error:
        return error.reason == "unexpected end of data"
    return False


def eight_bit_encoding(content: bytes) -> str:
    """The likeliest of `CANDIDATES` by the letters and their neighbours."""
    sample = _sample(content)
    return min(CANDIDATES, key=lambda encoding: CANDIDATES[encoding] + _cost(sample, encoding))


def is_cyrillic_cp1251(content: bytes) -> bool:
    """Whether bytes declared as Western European are Russian in code page 1251."""
    sample = _sample(content)
    if RUSSIAN_WORD.search(sample.decode("cp1251", "replace")) is None:
        return False
    return _cost(sample, "cp1251") < _cost(sample, "cp1252")


def _sample(content: bytes) -> bytes:
    """Slices from all over a long file: it may begin in English and go on in Russian."""
    if len(content) <= SAMPLE_BYTES:
        return content
    step = len(content) // N_SLICES
    size = SAMPLE_BYTES // N_SLICES
    return b" ".join(content[at : at + size] for at in range(0, len(content), step))


def _cost(sample: bytes, encoding: str) -> float:
    """How unlike Russian or Latin text the bytes from 0x80 up are, in this encoding."""
    text = sample.decode(encoding, "replace")
    total = 0.0
    before = " "
    for at, character in enumerate(text):
        if character >= "\x80":
            after = text[at + 1] if at + 1 < len(text) else " "
            total += _character_cost(character, before, after)
        before = character
    return total


def _character_cost(character: str, before: str, after: str) -> float:
    if character in PUNCTUATION:
        return _punctuation_cost(character, before, after)
    if not character.isalpha():
        is_lone_sign = character in SIGNS and not (before.isalpha() or after.isalpha())
        return COSTS["sign" if is_lone_sign else "junk"]
    if character < "\u0250":
        is_alone = not (before.isalpha() or after.isalpha())
        is_mixed = "\u0400" <= before <= "\u04ff" or "\u0400" <= after <= "\u04ff"
        return COSTS["mixed"] if is_alone or is_mixed else COSTS["alike"]
    if _is_latin(before) or _is_latin(after):
        return COSTS["mixed"]
    small = character.lower()
    if small not in RUSSIAN:
        return COSTS["foreign"]
    is_shouted = character != small and before.islower()
    # -ln of the share, about 2.2 for о and 7.6 for ъ; capitals are a tenth as frequent.
    return RARITY[small] + (COSTS["case"] if is_shouted else 1.0 if character != small else 0.0)


def _punctuation_cost(character: str, before: str, after: str) -> float:
    """Quotes that open after a letter, close before a word or open before a small one are letters misread."""
    if character in OPENING and (before.isalpha() or after.isspace()):
        return COSTS["mixed"]
    if character in CLOSING and after.isalpha() and not before.isalpha():
        return COSTS["mixed"]
    if character in OPENING and after.islower() and before.isspace():
        return COSTS["sign"]
    return COSTS["punctuation"]


def _is_latin(character: str) -> bool:
    return character.isalpha() and character < "\u0250"
