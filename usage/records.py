"""What is kept and told. Frozen data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pushkin_runtime.types import Task

Outcome = Literal["shown", "accepted", "edited", "rejected"]
Recorded = Literal["recorded", "off", "unknown_request"]


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageConsent:
    """What the user decided. counts: numbers without text. texts: suggestions with what became of them.

    Times are Unix seconds, None: never decided.
    """

    counts: bool = False
    texts: bool = False
    counts_decided_at: float | None = None
    texts_decided_at: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """The text of a request, for preference pairs. prompt: what was to be continued or said otherwise."""

    prompt: str
    suffix: str
    before: str
    after: str
    instruction: str
    language: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What is remembered of an answer until its feedback comes; in memory only.

    adapters: as shown, "continue + formal:0.5", "" for none. lengths: of the choices, in code points.
    asked, choices: None unless the user agreed to texts.
    """

    request_id: str
    task: Task
    adapters: str
    min_p: float
    persona_strength: float
    lengths: tuple[int, ...]
    asked: Asked | None = None
    choices: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Feedback:
    """What became of one choice. accepted_chars: code points that were taken, None: all of them.

    text: what the user made of it, for "edited"; dropped unless they agreed to texts.
    """

    request_id: str
    choice: int
    outcome: Outcome
    accepted_chars: int | None = None
    text: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Suggestion:
    """A choice that a person saw, as the statistics keep it. day: "2026-11-27", UTC."""

    day: str
    task: str
    adapters: str
    min_p: float
    persona_strength: float
    outcome: Outcome
    n_chars: int
    accepted_chars: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Erased:
    """What was forgotten. n_bytes: overwritten on disk."""

    n_suggestions: int
    n_texts: int
    n_bytes: int
