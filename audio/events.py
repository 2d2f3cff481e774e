"""What a dictation session tells. Positions are samples at 16 kHz since the session began, lost ones counted."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from audio.commands import Value
from audio.recognizer import Kind


@dataclass(frozen=True, slots=True, kw_only=True)
class TextChange:
    """Replace `length_utf16` units at `start_utf16` by `text`; offsets from the beginning of what the client sent as
    `before`, as the text is at this moment."""

    start_utf16: int
    length_utf16: int
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """The first samples have come: speak."""

    at: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Voice:
    """Speech began or ended, as the voice detector sees it."""

    at: int
    is_speech: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """Loudness of the last tenth of a second in dB below full scale; -120 is nothing at all."""

    at: int
    dbfs: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Partial:
    """A preview of the utterance under way. Its first `stable_utf16` units are committed; the rest may change.

    revision: rises with every preview of the session.
    """

    utterance: int
    text: str
    stable_utf16: int
    revision: int
    start: int
    end: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """Text to append, verbatim, its space before it included; never taken back but by a command."""

    utterance: int
    text: str
    start: int
    end: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandHeard:
    """Something to do. edit: the change of the text; None where none follows, or until it is confirmed.

    needs_confirmation: it was written as text, and `confirm` with this id does it instead.
    """

    id: int
    utterance: int
    name: str
    arguments: Mapping[str, Value]
    confidence: float
    needs_confirmation: bool
    edit: TextChange | None
    start: int
    end: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Dropped:
    """So much sound before `at` is lost; there is silence in its place."""

    at: int
    n_samples: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Final:
    """An utterance is over: all of its text has been committed. withheld: kept for a selection."""

    utterance: int
    kind: Kind
    text: str
    start: int
    end: int
    withheld: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceChanged:
    """state: "ready", "lost", "back", or "audible" after a digital silence."""

    at: int
    state: str
    name: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """Something went wrong; the session goes on unless Ended follows."""

    at: int
    error: Exception


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """The last event. reason: "stop", "command", "cancel", "error". figures: counts of the session."""

    at: int
    reason: Literal["stop", "command", "cancel", "error"]
    figures: Mapping[str, int | float] = field(default_factory=dict)


DictationEvent = (
    Ready
    | Voice
    | Level
    | Partial
    | Commit
    | CommandHeard
    | Dropped
    | Final
    | DeviceChanged
    | Failed
    | Ended
)

EventSink = Callable[[DictationEvent], None]
"""Receives every event of a session in order, on the session's threads, one at a time; must not block."""


def utf16_length(text: str) -> int:
    """The length of a text as an NSString has it."""
    return len(text.encode("utf-16-le", "surrogatepass")) // 2
