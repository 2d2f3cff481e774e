"""Words as recognition compares them: what differs only in case, punctuation or ё is the same word."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

_PIECE = re.compile(r"\s*\S+")
_EDGES = re.compile(r"^[^\w]+|[^\w]+$")


def pieces(text: str) -> list[str]:
    """The words of a text, each with the white space before it; joined they are the text, less its tail."""
    return _PIECE.findall(text)


def normal(piece: str) -> str:
    """A word without case, white space, outer punctuation and ё; a lone mark stays itself."""
    word = unicodedata.normalize("NFC", piece).strip().casefold().replace("ё", "е")
    word = word.replace("’", "'")
    return _EDGES.sub("", word) or word


def normals(text: str) -> list[str]:
    """The normal words of a text."""
    return [normal(piece) for piece in pieces(text)]


def common_prefix(a: Sequence[str], b: Sequence[str]) -> int:
    """How many first words two texts share."""
    n = 0
    for x, y in zip(a, b, strict=False):
        if normal(x) != normal(y):
            break
        n += 1
    return n


def align_prefix(done: Sequence[str], text: Sequence[str]) -> tuple[int, int]:
    """How many first words of `text` correspond best to all of `done`, and in how many edits.

    The last row of Levenshtein's table; of equally good ends the one nearest to the length of `done`.
    """
    row = list(range(len(text) + 1))
    for i, word in enumerate(done, 1):
        previous, row[0] = row[0], i
        for j, other in enumerate(text, 1):
            cost = previous + (normal(word) != normal(other))
            previous, row[j] = row[j], min(cost, row[j] + 1, row[j - 1] + 1)
    best = min(range(len(row)), key=lambda j: (row[j], abs(j - len(done))))
    return best, row[best]
