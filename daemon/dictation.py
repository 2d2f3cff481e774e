"""Dictation of a configuration: its voice detector, its recogniser and its microphone, tied together."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from api.event_hub import EventHub
    from audio.dictation import Dictation
    from audio.recognizer import Recognizer
    from audio.session import Hearing
    from daemon.config import Loaded
    from pushkin_runtime.runtime import Runtime


def build_dictation(loaded: Loaded, events: EventHub, runtime: Runtime) -> Dictation:
    """Return dictation, with nothing loaded and no device opened yet."""
    from api.dictation_events import dictation_event
    from audio.dictation import Dictation, DictationOptions
    from audio.events import DictationEvent

    def make_hearing() -> Hearing:
        from audio.session import Hearing
        from audio.vad import SpeechDetector

        return Hearing(SpeechDetector(), build_recognizer(runtime))

    def publish(session: int, event: DictationEvent) -> None:
        events.publish("dictation", dictation_event(session, event, request_id=""))

    device = loaded.config.dictation.microphone or None
    return Dictation(make_hearing, publish, DictationOptions(device=device))


def build_recognizer(runtime: Runtime) -> Recognizer:
    """Return the runtime's own recogniser, its speech model loaded. Raises a RuntimeFault."""
    from audio.runtime_recognizer import RuntimeRecognizer

    recognizer = RuntimeRecognizer(runtime)
    recognizer.prepare()
    return recognizer
