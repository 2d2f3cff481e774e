"""Dictation of a configuration: its voice detector, its recogniser and its microphone, tied together."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from daemon.paths import adapter_roots, bundled_models, find_model

if TYPE_CHECKING:
    from api.event_hub import EventHub
    from audio.dictation import Dictation
    from audio.recognizer import Recognizer
    from audio.session import Hearing
    from daemon.config import Loaded
    from pushkin_runtime.runtime import Runtime


def build_dictation(
    loaded: Loaded, events: EventHub, make_recognizer: Callable[[], Recognizer]
) -> Dictation:
    """Return dictation, with nothing loaded and no device opened yet; make_recognizer: called when it is needed."""
    from api.dictation_events import dictation_event
    from audio.dictation import Dictation, DictationOptions
    from audio.earcons import EarconPlayer
    from audio.events import DictationEvent
    from daemon.dictation_feedback import DictationFeedback
    from daemon.spoken_replies import SpokenReplies, find_voice
    from pushkin_runtime.speech_folder import is_installed

    def make_hearing() -> Hearing:
        from audio.session import Hearing
        from audio.vad import SpeechDetector

        return Hearing(SpeechDetector(), make_recognizer())

    settings = loaded.config.dictation
    voice = find_voice() if settings.spoken_replies else None
    feedback = DictationFeedback(
        player=EarconPlayer() if settings.earcons else None,
        replies=SpokenReplies(voice, lambda is_deaf: dictation.deafen(is_deaf)) if voice else None,
    )

    def publish(session: int, event: DictationEvent) -> None:
        feedback.hear(event)
        events.publish("dictation", dictation_event(session, event, request_id=""))

    roots = adapter_roots(find_model(loaded.config.runtime.model, loaded.paths), loaded.paths)
    models = (loaded.paths.models, bundled_models())
    options = DictationOptions(
        device=settings.microphone or None, is_installed=lambda: is_installed(roots, models)
    )
    dictation = Dictation(make_hearing, publish, options)
    return dictation


def build_recognizer(runtime: Runtime) -> Recognizer:
    """Return the runtime's own recogniser, its speech model loaded. Raises a RuntimeFault."""
    from audio.runtime_recognizer import RuntimeRecognizer

    recognizer = RuntimeRecognizer(runtime)
    recognizer.prepare()
    return recognizer
