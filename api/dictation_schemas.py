"""What clients may send about dictation: messages of the WebSocket, and the switch of the microphone."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from api.schemas import MAX_TEXT_CHARS, Body
from audio.pcm import MAX_CHANNELS, MAX_RATE, MIN_RATE, PcmFormat
from audio.segmenter import SegmenterOptions
from audio.session import SessionOptions
from audio.streaming import Mode, StreamingOptions

Language = Annotated[str, Field(pattern=r"^[a-z]{2,3}$")]
_COMMAND_PAUSE_S = 0.3


class _Listening(Body):
    """What every dictation has."""

    mode: Mode = Field(
        "auto",
        description="`dictate` takes nothing for a command, `command` nothing for text; `auto` decides by utterance.",
    )
    languages: list[Language] = Field(["en", "ru"], min_length=1, max_length=8)
    before: str = Field(
        "",
        max_length=MAX_TEXT_CHARS,
        description="The text before the caret; edits count from its start.",
    )
    after: str = Field("", max_length=MAX_TEXT_CHARS, description="The text after the caret.")
    levels: bool = Field(False, description="Also tell the loudness, ten times a second.")

    def session_options(self) -> SessionOptions:
        """The options of the session this asks for."""
        pauses = SegmenterOptions(endpoint_s=_COMMAND_PAUSE_S if self.mode == "command" else 0.5)
        return SessionOptions(
            streaming=StreamingOptions(
                mode=self.mode,
                languages=tuple(self.languages),
                after=self.after,
                segmenter=pauses,
            ),
            before=self.before,
            levels=self.levels,
        )


class StartMessage(_Listening):
    """The first message: how the sound will be. PCM follows in binary messages, cut anywhere."""

    type: Literal["start"]
    format: str = Field("s16le", max_length=32, description="s16le or f32le, interleaved.")
    rate: int = Field(16_000, ge=MIN_RATE, le=MAX_RATE, description="Samples a second.")
    channels: int = Field(1, ge=1, le=MAX_CHANNELS)

    def pcm_format(self) -> PcmFormat:
        """The format. Raises FormatUnsupported."""
        return PcmFormat(encoding=self.format, rate=self.rate, channels=self.channels)


class ControlMessage(Body):
    """What may be sent besides sound, after `start`.

    stop: no more sound; what has come is recognised to the end. cancel: end at once, what is not committed is
    forgotten. confirm: do the offered command `id` (`needs_confirmation`) instead of the text it was written as.
    """

    type: Literal["stop", "cancel", "confirm"]
    id: int = Field(0, ge=0, le=2**31)


class SwitchBody(_Listening):
    """`POST /v1/dictation`: the daemon's own microphone. The options are for `on`, and `toggle` when it is off."""

    action: Literal["on", "off", "toggle", "cancel"]
    source: Literal["microphone"] = "microphone"
