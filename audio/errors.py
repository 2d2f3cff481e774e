"""Errors of dictation; messages name formats, devices and limits, never what was said.

AudioError
├── FormatUnsupported      a sample type, rate or number of channels that is not taken
├── DeviceNotFound         no microphone, or none of this name
├── CaptureFailed          a microphone could not be opened, or was lost and did not come back
├── DigitalSilence         only exact zeros come: no permission, or a muted device
├── AudioUnreadable        a file that no decoder here reads
├── AudioTooLong           longer than one request may be
├── AudioStopped           a client that keeps a session open and sends nothing
├── SpeechUnavailable      no speech model, or a part of it is missing
├── DictationBusy          as many sessions as may be are open
└── DictationClosed        dictation is shutting down
"""

from __future__ import annotations


class AudioError(Exception):
    """Base of everything that can go wrong with sound; `param` is the request field."""

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class FormatUnsupported(AudioError):
    """The samples are of a kind that is not taken."""


class DeviceNotFound(AudioError):
    """There is no such microphone."""


class CaptureFailed(AudioError):
    """The microphone could not be opened or kept."""


class DigitalSilence(AudioError):
    """The microphone delivers exact zeros."""


class AudioUnreadable(AudioError):
    """The file is not sound, or of a kind that is not read."""


class AudioTooLong(AudioError):
    """The recording is longer than one request may be."""


class AudioStopped(AudioError):
    """No more sound came from the client."""


class SpeechUnavailable(AudioError):
    """There is nothing that could recognise speech."""


class DictationBusy(AudioError):
    """Too many sessions are open."""

    retry_after_s = 2


class DictationClosed(AudioError):
    """Dictation is shutting down."""
