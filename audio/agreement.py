"""LocalAgreement-2: a word is committed when two passes in a row agree on it, and never taken back.

After Macháček et al., "Turning Whisper into Real-Time Transcription System" (arXiv:2307.14743), on normal words.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from audio.words import align_prefix, common_prefix, pieces

_TRAILING = re.compile(r"[^\w\s]+$")


@dataclass(frozen=True, slots=True)
class Committed:
    """Newly committed text, white space included. start, end: samples; what was heard when it first showed."""

    text: str
    start: int
    end: int


class Agreement:
    """The words of one utterance. `n_contradicted`: committed words that later passes would have otherwise."""

    def __init__(self, start: int) -> None:
        self._committed: list[str] = []
        self._tentative: list[str] = []
        self._shown_at: list[
            int
        ] = []  # per tentative word: the end of the pass that first had it here
        self._start = start
        self.n_contradicted = 0

    @property
    def committed(self) -> str:
        """The committed text; it only grows."""
        return "".join(self._committed)

    @property
    def tentative(self) -> str:
        """What the last pass had beyond it."""
        return "".join(self._tentative)

    def update(self, text: str, heard_to: int, *, hold: int) -> Committed | None:
        """Take a pass over the audio up to sample `heard_to`; commit what it and the pass before share.

        hold: how many of the newest words to keep back: 1 while somebody may still be saying the last one,
        many while the utterance may yet turn out to be a command.
        """
        owed, tail = self._beyond_commits(text)
        n_shared = common_prefix(tail, self._tentative)
        return self._commit(owed, tail, max(0, min(n_shared, len(tail) - hold)), heard_to)

    def settle(self, text: str, heard_to: int) -> Committed | None:
        """Commit all words of a pass that ends in silence; the speaker may go on.

        The last one's punctuation waits: a pause is not always the end of a sentence.
        """
        owed, tail = self._beyond_commits(text)
        if tail:
            tail[-1] = _TRAILING.sub("", tail[-1]) or tail[-1]
        return self._commit(owed, tail, len(tail), heard_to)

    def finish(self, text: str, heard_to: int) -> Committed | None:
        """Commit everything that a last, clean pass has beyond the commits."""
        owed, tail = self._beyond_commits(text)
        if owed and not tail:
            self._tentative, self._shown_at = [], []
            self._committed.append(owed)
            return Committed(owed, self._start, max(self._start, heard_to))
        return self._commit(owed, tail, len(tail), heard_to)

    def _beyond_commits(self, text: str) -> tuple[str, list[str]]:
        """The punctuation that the last committed word has by now, and the words after it."""
        words = pieces(text)
        if not self._committed:
            return "", words
        at, n_edits = align_prefix(self._committed, words)
        self.n_contradicted = max(self.n_contradicted, n_edits)
        last, now = self._committed[-1].strip(), words[at - 1].strip() if at else ""
        owed = now.removeprefix(last) if now.startswith(last) else ""
        return owed if _TRAILING.fullmatch(owed) else "", words[at:]

    def _commit(self, owed: str, tail: list[str], n: int, heard_to: int) -> Committed | None:
        n_shared = common_prefix(tail, self._tentative)
        shown_at = self._shown_at[:n_shared] + [heard_to] * (len(tail) - n_shared)
        new, self._tentative, self._shown_at = tail[:n], tail[n:], shown_at[n:]
        if not new:
            return None
        if self._committed:
            space = "" if new[0][:1].isspace() else " "
            new[0] = owed + space + new[0]
        start, end = self._start, max(self._start, shown_at[n - 1])
        self._committed += new
        self._start = end
        return Committed("".join(new), start, end)
