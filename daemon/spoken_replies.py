"""A voice that says which spoken command was done, where the system has one. Fixed words, never the user's.

Off unless configured: while it speaks the daemon's own microphone is deaf, or it would write the reply down.
"""

from __future__ import annotations

import shutil
import subprocess
import threading
import time
from collections.abc import Callable

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
_LONGEST_S = 2.5
_ECHO_S = 0.25  # loudspeaker and room go on after the voice


def find_voice(which: Callable[[str], str | None] = shutil.which) -> list[str] | None:
    """The command that speaks its last argument; None where there is none."""
    for name, *options in _VOICES:
        if path := which(name):
            return [path, *options]
    return None


class SpokenReplies:
    """Answers commands, one reply at a time; what comes meanwhile is not said.

    deafen: called with True before a reply and with False when it has died away, on a thread of its own.
    """

    def __init__(self, voice: list[str], deafen: Callable[[bool], None]) -> None:
        self._voice, self._deafen = voice, deafen
        self._speaking = threading.Lock()

    def say(self, command: str) -> None:
        """That a command was done. Any thread; returns at once."""
        phrase = _PHRASES[command]
        if self._speaking.acquire(blocking=False):
            threading.Thread(target=self._say, args=(phrase,), daemon=True).start()

    def _say(self, phrase: str) -> None:
        self._deafen(True)
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
            time.sleep(_ECHO_S)
            self._deafen(False)
            self._speaking.release()
