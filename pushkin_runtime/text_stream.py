"""Tokens of one alternative → text that may be shown: whole code points, no stop string, no healed part."""

from __future__ import annotations

from collections.abc import Sequence

from pushkin_runtime.tokenizer import StreamDetokenizer, TextTokenizer


class StopStrings:
    """Holds text back while it could still become a stop string."""

    def __init__(self, stop: Sequence[str]) -> None:
        self._stop = tuple(stop)
        self._held = ""
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
        if found:
            at, self.word = min(found)
            shown, self._held = self._held[:at], ""
            return shown
        keep = max((_overlap(self._held, s) for s in self._stop), default=0)
        cut = len(self._held) - keep
        shown, self._held = self._held[:cut], self._held[cut:]
        return shown

    def flush(self) -> str:
        """Return what was held back at the end of the text."""
        shown, self._held = self._held, ""
        return shown


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that begins `stop`."""
    for n in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:n]):
            return n
    return 0


class TextStream:
    """One alternative's text so far. healed: the start of the answer the client already has."""

    def __init__(self, tokenizer: TextTokenizer, stop: Sequence[str], healed: bytes) -> None:
        self._detokenizer = StreamDetokenizer(tokenizer)
        self._stops = StopStrings(stop)
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
