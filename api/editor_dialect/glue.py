"""White space glued to the visible text after it: the editor drops a piece that has nothing else."""

from __future__ import annotations

from dataclasses import replace

from pushkin_runtime.types import Delta, Event


class WhitespaceGlue:
    """Changes the events of one generation with one choice; what is blank at the end stays held."""

    def __init__(self) -> None:
        self._held = ""

    def __call__(self, event: Event) -> Event:
        if not isinstance(event, Delta):
            return event
        text = self._held + event.text
        self._held = "" if text.strip() else text
        return replace(event, text="" if self._held else text)
