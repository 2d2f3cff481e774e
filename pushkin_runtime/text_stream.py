"""Tokens of one alternative → text that may be shown: whole code points, no stop string, no healed part, and
nothing of what follows the caret already."""

from __future__ import annotations

import re
from collections.abc import Sequence

from pushkin_runtime.tokenizer import StreamDetokenizer, TextTokenizer

_OPENING = re.compile(r"\W*\w+(?:\W+\w+){0,2}")  # three words, and what stands before them


def opening_of(suffix: str) -> str:
    """Return the beginning of the text after the caret by which a repetition of it is known; "" of a blank one."""
    found = _OPENING.match(suffix)
    return found[0] if found else suffix.strip()


class StopStrings:
    """Holds text back while it could still become a stop string.

    opening: a stop string too, but only as whole words; at the very beginning it may go on with the word before.
    """

    def __init__(self, stop: Sequence[str], opening: str = "") -> None:
        self._stop = tuple(stop)
        self._opening = opening
        self._held = ""
        self._before = ""  # the last character shown
        self.word = ""

    @property
    def is_stopped(self) -> bool:
        """Whether a stop string, `word`, was found."""
        return bool(self.word)

    def push(self, text: str) -> str:
        """Return what is safe to show; after a stop string nothing is."""
        if self.is_stopped:
            return ""
        self._held += text
        found = [(at, s) for s in self._stop if (at := self._held.find(s)) >= 0]
        if (place := self._opening_at(is_end=False)) is not None:
            found.append((place, self._opening))
        if found:
            return self._stopped(*min(found))
        keep = max((_overlap(self._held, s) for s in (*self._stop, self._opening)), default=0)
        if self._opening and self._held.endswith(self._opening):
            keep = max(keep, len(self._opening))  # its last word may go on
        return self._shown(len(self._held) - keep)

    def flush(self) -> str:
        """Return what was held back at the end of the text."""
        if (at := self._opening_at(is_end=True)) is not None:
            return self._stopped(at, self._opening)
        return self._shown(len(self._held))

    def _stopped(self, at: int, word: str) -> str:
        self.word = word
        shown, self._held = self._held[:at], ""
        return shown

    def _shown(self, n_chars: int) -> str:
        shown, self._held = self._held[:n_chars], self._held[n_chars:]
        self._before = shown[-1:] or self._before
        return shown

    def _opening_at(self, *, is_end: bool) -> int | None:
        """Where the opening stands as whole words; what ends the text may still go on unless `is_end`."""
        opening, start = self._opening, 0
        while opening and (at := self._held.find(opening, start)) >= 0:
            before = self._held[at - 1] if at else self._before
            after = self._held[at + len(opening) :][:1]
            splits_first = before.isalnum() and opening[0].isalnum()
            splits_last = opening[-1].isalnum() and (after.isalnum() or not (after or is_end))
            if not splits_first and not splits_last:
                return at
            start = at + 1
        return None


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that begins `stop`."""
    for n in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:n]):
            return n
    return 0


class TextStream:
    """One alternative's text so far. healed: the start of the answer the client already has. opening: of the text
    after the caret, at which it stops."""

    def __init__(
        self, tokenizer: TextTokenizer, stop: Sequence[str], healed: bytes, opening: str = ""
    ) -> None:
        self._detokenizer = StreamDetokenizer(tokenizer)
        self._stops = StopStrings(stop, opening)
        self._to_skip = len(healed.decode("utf-8", errors="ignore"))
        self.text = ""

    @property
    def stop_word(self) -> str:
        """The stop string that ended the text, "" if none has."""
        return self._stops.word

    def push(self, token: int) -> str:
        """Return the new text that `token` makes showable, possibly ""."""
        piece = self._detokenizer.push(token)
        skipped = min(self._to_skip, len(piece))
        self._to_skip -= skipped
        return self._show(self._stops.push(piece[skipped:]))

    def finish(self) -> str:
        """Return the rest, held back until now."""
        return self._show(self._stops.flush())

    def _show(self, text: str) -> str:
        self.text += text
        return text
