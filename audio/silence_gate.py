"""The last of three gates between silence and the document.

The first is the voice detector (no speech, no pass), the second the model's own `none`. This one looks at the words:
too many for the time, the same again and again, or an echo of the text the model was given.
"""

from __future__ import annotations

import math
from typing import Final

from audio.words import normals, pieces

TOKENS_PER_S: Final = (
    16.0  # fast speech in a small vocabulary; 6.5 English words and pieces in a large one
)
SPARE_TOKENS: Final = 8
CHARS_PER_S: Final = 30.0
_SPARE_CHARS = 12
_MAX_REPEATS = 4
_MAX_NGRAM = 6
_ECHO_WORDS = 5


def max_tokens(duration_s: float) -> int:
    """The most tokens a pass over so much sound may give."""
    return math.ceil(TOKENS_PER_S * duration_s) + SPARE_TOKENS


def is_too_fast(text: str, speech_s: float) -> bool:
    """Whether nobody could have said so much in the time that there was speech."""
    return len(text) > CHARS_PER_S * speech_s + _SPARE_CHARS


def without_loops(text: str) -> str:
    """The text up to where it begins to repeat itself more often than people do."""
    words, found = normals(text), pieces(text)
    for n in range(1, _MAX_NGRAM + 1):
        run = 1
        for at in range(n, len(words) - n + 1, 1):
            same = words[at : at + n] == words[at - n : at]
            run = _longer(words, at, n) if same else 1
            if run > _MAX_REPEATS:
                return "".join(found[:at])
    return text


def is_echo(text: str, context: str) -> bool:
    """Whether the words were said by the context we gave, perhaps, rather than by the user."""
    words, given = normals(text), normals(context)
    if len(words) < _ECHO_WORDS or len(given) < len(words):
        return False
    return any(given[i : i + len(words)] == words for i in range(len(given) - len(words) + 1))


def _longer(words: list[str], at: int, n: int) -> int:
    """How often in a row the `n` words before `at` stand, from there on."""
    unit, run = words[at - n : at], 1
    while words[at : at + n] == unit:
        run, at = run + 1, at + n
    return run
