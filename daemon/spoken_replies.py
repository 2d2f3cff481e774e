"""A voice that says which spoken command was done, where the system has one. Fixed words, never the user's.

Off unless configured: a microphone without echo cancellation hears it too.
"""

from __future__ import annotations

import shutil
import subprocess
import threading
from collections.abc import Callable

from audio.events import CommandHeard, DictationEvent

_VOICES = (("say",), ("spd-say", "--wait"), ("espeak-ng",))
_PHRASES = {
    "delete": "deleted",
    "replace": "replaced",
    "insert": "done",
    "scratch": "scratched",
    "undo": "undone",
    "stop": "stopped listening",
    "select": "listening for a part",
}
_LONGEST_S = 5.0


def find_voice(which: Callable[[str], str | None] = shutil.which) -> list[str] | None:
    """The command that speaks its last argument; None where there is none."""
    for name, *options in _VOICES:
        if path := which(name):
            return [path, *options]
    return None


class SpokenReplies:
    """Hears a session's events and answers commands; one reply at a time, what comes meanwhile is not said."""

    def __init__(self, voice: list[str]) -> None:
        self._voice = voice
        self._speaking = threading.Lock()

    def hear(self, event: DictationEvent) -> None:
        """Any thread; returns at once."""
        if not isinstance(event, CommandHeard) or event.needs_confirmation:
            return
        phrase = _PHRASES[event.name]
        if self._speaking.acquire(blocking=False):
            threading.Thread(target=self._say, args=(phrase,), daemon=True).start()

    def _say(self, phrase: str) -> None:
        try:
            subprocess.run(
                [*self._voice, phrase],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                timeout=_LONGEST_S,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired):
            pass  # a reply that cannot be given is not worth an error
        finally:
            self._speaking.release()
