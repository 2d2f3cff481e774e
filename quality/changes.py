"""What changed between two versions of a text, word by word.

The changes are in order, do not overlap, and turn the original into the revision exactly. Tokens
are words (with inner apostrophes and hyphens), runs of whitespace, and single symbols; a letter is
never cut from its combining marks, nor an emoji from its modifiers.

Categories, the first that fits:
  whitespace      only spaces and line breaks differ
  capitalisation  the same letters in another case
  punctuation     only characters that are neither letters, digits nor spaces differ (spaces may too)
  insertion       words were added
  deletion        words were removed
  spelling        one word became another one or two letters away (Damerau, optimal alignment)
  wording         anything else
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import accumulate
from typing import Literal

Kind = Literal["insert", "delete", "replace"]
Category = Literal[
    "whitespace", "capitalisation", "punctuation", "insertion", "deletion", "spelling", "wording"
]

_MARKS = "\u0300-\u036f\u0483-\u0489\u20d0-\u20f0\ufe0e\ufe0f"
_SKIN = "\U0001f3fb-\U0001f3ff"
_WORD = rf"\w[\w{_MARKS}]*"
_TOKEN = re.compile(
    rf"""
      \s+
    | {_WORD}(?:['’ʼ\-‐‑]{_WORD})*
    | [\U0001f1e6-\U0001f1ff]{{2}}                                # a flag
    | [^\w\s][{_MARKS}{_SKIN}]*(?:\u200d[^\s][{_MARKS}{_SKIN}]*)*  # a symbol or joined emoji
    """,
    re.VERBOSE,
)

# Beyond this many pairs of equal words the middle is reported as one replacement: the matcher's work
# grows faster than the pairs, and this many may take it 0.05 s. Prose of 800 words has fewer.
_MAX_EQUAL_PAIRS = 10_000


@dataclass(frozen=True, slots=True)
class Change:
    """`old` stands at `offset_utf16` of the original, in UTF-16 code units, and becomes `new`."""

    kind: Kind
    offset_utf16: int
    length_utf16: int
    old: str
    new: str
    category: Category


def tokenize(text: str) -> list[str]:
    """Cut a text into tokens that, joined, are the text."""
    return _TOKEN.findall(text)


def changes_between(original: str, revision: str) -> list[Change]:
    """The changes that turn `original` into `revision`, in order of their place in `original`."""
    before, after = tokenize(original), tokenize(revision)
    # offsets[i]: UTF-16 length of the first i tokens
    offsets = list(accumulate(map(utf16_length, before), initial=0))
    found: list[Change] = []
    for i1, i2, j1, j2 in _differing_spans(before, after):
        old, new = "".join(before[i1:i2]), "".join(after[j1:j2])
        found.append(
            Change(
                kind=_kind(old, new),
                offset_utf16=offsets[i1],
                length_utf16=offsets[i2] - offsets[i1],
                old=old,
                new=new,
                category=_category(old, new),
            )
        )
    return found


def apply_changes(original: str, changes: Sequence[Change]) -> str:
    """The revision that `changes` of `changes_between` describe."""
    source = original.encode("utf-16-le")
    pieces: list[bytes] = []
    end = 0
    for change in changes:
        pieces += [source[end : 2 * change.offset_utf16], change.new.encode("utf-16-le")]
        end = 2 * (change.offset_utf16 + change.length_utf16)
    return b"".join([*pieces, source[end:]]).decode("utf-16-le")


def utf16_length(text: str) -> int:
    """Length in UTF-16 code units."""
    if text.isascii():
        return len(text)
    return len(text.encode("utf-16-le", "surrogatepass")) // 2


def _differing_spans(
    before: Sequence[str], after: Sequence[str]
) -> Iterator[tuple[int, int, int, int]]:
    """(i1, i2, j1, j2) of tokens that differ; what the texts share at both ends is left out first."""
    shorter = min(len(before), len(after))
    start = next((i for i in range(shorter) if before[i] != after[i]), shorter)
    n_tail = next(
        (i for i in range(shorter - start) if before[-1 - i] != after[-1 - i]), shorter - start
    )
    old, new = before[start : len(before) - n_tail], after[start : len(after) - n_tail]
    if _n_equal_words(old, new) > _MAX_EQUAL_PAIRS:
        yield start, start + len(old), start, start + len(new)
        return
    # Junk to the matcher joins matches of words, it never starts one.
    matcher = SequenceMatcher(_is_glue, old, new, autojunk=False)
    for tag, i1, i2, j1, j2 in matcher.get_opcodes():
        if tag == "replace" and _is_word_for_word(old[i1:i2], new[j1:j2]):
            for i, j in zip(range(i1, i2), range(j1, j2), strict=True):
                if old[i] != new[j]:
                    yield start + i, start + i + 1, start + j, start + j + 1
        elif tag != "equal":
            yield start + i1, start + i2, start + j1, start + j2


def _n_equal_words(old: Sequence[str], new: Sequence[str]) -> int:
    """How many pairs of an old and a new word are equal."""
    counts = Counter(old)
    return sum(n * counts[token] for token, n in Counter(new).items() if not _is_glue(token))


def _is_glue(token: str) -> bool:
    """Whether a token stands between words: white space or punctuation."""
    return token.isspace() or unicodedata.category(token[0]).startswith("P")


def _is_word_for_word(old: Sequence[str], new: Sequence[str]) -> bool:
    """Whether the same gaps separate as many words, so that each can be reported on its own."""
    return len(old) == len(new) and all(
        x == y or not (_is_glue(x) or _is_glue(y)) for x, y in zip(old, new, strict=True)
    )


def _kind(old: str, new: str) -> Kind:
    if not old:
        return "insert"
    return "replace" if new else "delete"


def _category(old: str, new: str) -> Category:
    if _without_spaces(old) == _without_spaces(new):
        return "whitespace"
    if old.lower() == new.lower():
        return "capitalisation"
    old_words, new_words = _words(old), _words(new)
    if old_words == new_words:
        return "punctuation"
    if not old_words:
        return "insertion"
    if not new_words:
        return "deletion"
    if len(old_words) == len(new_words) == 1 and _is_misspelling(old_words[0], new_words[0]):
        return "spelling"
    return "wording"


def _without_spaces(text: str) -> str:
    return "".join(text.split())


def _words(text: str) -> list[str]:
    return [token for token in tokenize(text) if token[0].isalnum()]


def _is_misspelling(old: str, new: str) -> bool:
    longest = max(len(old), len(new))
    if longest > 40 or abs(len(old) - len(new)) > 2:
        return False
    return edit_distance(old.lower(), new.lower()) <= (1 if longest <= 4 else 2)


def edit_distance(a: str, b: str) -> int:
    """Insertions, deletions, substitutions and swaps of neighbours (optimal string alignment)."""
    previous: list[int] = []
    current = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        older, previous, current = previous, current, [i]
        for j, y in enumerate(b, 1):
            best = min(previous[j] + 1, current[j - 1] + 1, previous[j - 1] + (x != y))
            if i > 1 and j > 1 and x == b[j - 2] and a[i - 2] == y:
                best = min(best, older[j - 2] + 1)
            current.append(best)
    return current[-1]
