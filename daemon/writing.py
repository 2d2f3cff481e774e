"""What the command line writes with: the same events whether a daemon or this process does the work."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, Protocol

Task = Literal["continue", "rephrase", "story"]

Body = dict[str, Any]
"""The JSON body of `POST /v1/<task>`, without `stream`; only the fields the user gave."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """Something delays the first token; `what` is for a spinner."""

    what: str


@dataclass(frozen=True, slots=True)
class Piece:
    """Text to append to choice `index`."""

    index: int
    text: str


@dataclass(frozen=True, slots=True)
class Finished:
    """The whole answer, as the API documents it."""

    answer: dict[str, Any]


WritingEvent = Waiting | Piece | Finished


class Writer(Protocol):
    """Writes; closing the iterator early cancels the generation."""

    def write(self, task: Task, body: Body) -> Iterator[WritingEvent]: ...
