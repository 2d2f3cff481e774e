"""The seam between dictation and whatever turns sound into words."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

from audio.pcm import Samples
from audio.phrase_match import PhraseMatch
from pushkin_runtime.speech_types import DEFAULT_LIMITS, CommandLimits, SpokenWord

Kind = Literal["dict", "cmd", "none"]
"""The model's first token: text to write, something to do, or nothing said at all."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Recognition:
    """One pass. audio: (n,) float32 at 16 kHz, its first sample is `start` since the session began.

    before, after: the text around the caret, "" to recognise without it. is_final: the utterance is over, or seems so;
    a recogniser that needs silence after the last word adds it itself.
    """

    audio: Samples
    start: int
    before: str
    after: str
    languages: tuple[str, ...]
    max_tokens: int
    is_final: bool

    @property
    def end(self) -> int:
        """Samples since the session began."""
        return self.start + len(self.audio)


@dataclass(frozen=True, slots=True, kw_only=True)
class Hypothesis:
    """What was heard. p_command: the probability the model gave to its being a command.

    words: those of `text` with their samples since the audio of the pass began; None from a model that does not time them.
    phrase: which spoken command the whole utterance is likest; None from a model that cannot tell. limits: how much of both
    this model needs for a command.
    """

    kind: Kind
    text: str
    p_command: float
    n_tokens: int
    words: tuple[SpokenWord, ...] | None = None
    phrase: PhraseMatch | None = None
    limits: CommandLimits = DEFAULT_LIMITS


class Recognizer(Protocol):
    """Turns an utterance into words. Every session calls it on a thread of its own."""

    def recognize(self, wanted: Recognition, is_cancelled: Callable[[], bool]) -> Hypothesis:
        """Recognise; may return early, with anything, once `is_cancelled`.

        Raises AudioError, or what the runtime raises.
        """
