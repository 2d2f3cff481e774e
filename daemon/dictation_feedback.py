"""What a person hears from dictation: earcons, and a voice that says which command was done. Both off unless configured.

Nothing is said into an utterance. The daemon's own microphone is deaf while the voice speaks; the tones are no speech to
the voice detector.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from audio.earcons import Earcon
from audio.events import CommandHeard, DictationEvent, Ended, Ready, Voice
from daemon.spoken_replies import SpokenReplies


class Player(Protocol):
    """What plays earcons; `audio.earcons.EarconPlayer` does."""

    def play(self, name: Earcon) -> None: ...


@dataclass(slots=True)
class DictationFeedback:
    """Hears the events of the daemon's own session, on its threads, one at a time."""

    player: Player | None
    replies: SpokenReplies | None
    _is_speech: bool = False

    def hear(self, event: DictationEvent) -> None:
        """Returns at once."""
        match event:
            case Voice(is_speech=is_speech):
                self._is_speech = is_speech
            case Ready():
                self._is_speech = False
                self._play("on")
            case CommandHeard(needs_confirmation=False) if not self._is_speech:
                if self.replies is not None:
                    self.replies.say(event.name)
                elif event.name != "stop":  # its own tone follows
                    self._play("done")
            case Ended(reason=reason):
                self._play("error" if reason == "error" else "off")

    def _play(self, name: Earcon) -> None:
        if self.player is not None:
            self.player.play(name)
