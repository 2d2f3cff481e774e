"""A transcript in the five formats of OpenAI's `POST /v1/audio/transcriptions`, and as its stream."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Any, Literal

from api.errors import ApiError
from api.json_text import json_bytes
from audio.files import Segment, Transcript

Granularity = Literal["segment", "word"]
SEGMENTS: frozenset[Granularity] = frozenset(("segment",))
ResponseFormat = Literal["json", "text", "srt", "vtt", "verbose_json"]

_MEDIA_TYPES: dict[ResponseFormat, str] = {
    "json": "application/json",
    "verbose_json": "application/json",
    "text": "text/plain; charset=utf-8",
    "srt": "application/x-subrip; charset=utf-8",
    "vtt": "text/vtt; charset=utf-8",
}
_LANGUAGES = {"en": "english", "ru": "russian"}


def media_type(form: ResponseFormat) -> str:
    """What the answer's Content-Type says."""
    return _MEDIA_TYPES[form]


def rendered(
    transcript: Transcript,
    form: ResponseFormat,
    language: str | None,
    granularities: Collection[Granularity] = SEGMENTS,
) -> bytes:
    """The body of the answer. Raises ApiError for words that have no times."""
    render = _RENDERERS.get(form)
    if render is not None:
        return render(transcript.segments).encode()
    body: dict[str, Any] = {"text": transcript.text}
    if form == "verbose_json":
        body = {
            "task": "transcribe",
            "language": _LANGUAGES.get(language or "", language or "unknown"),
            "duration": round(transcript.duration_s, 3),
            **body,
        }
        if "word" in granularities:
            body["words"] = [word for segment in transcript.segments for word in _words(segment)]
        if "segment" in granularities:
            body["segments"] = [_verbose(i, s) for i, s in enumerate(transcript.segments)]
    return json_bytes(body)


def delta_frame(segment: Segment, *, is_first: bool) -> bytes:
    """A streamed segment; deltas joined are the text."""
    text = segment.text if is_first else f" {segment.text}"
    return _frame({"type": "transcript.text.delta", "delta": text})


def done_frame(transcript: Transcript) -> bytes:
    """The end of a stream."""
    return _frame({"type": "transcript.text.done", "text": transcript.text})


def error_frame(body: object) -> bytes:
    """An error after the first byte; OpenAI's clients raise it."""
    return _frame(body)


def _frame(body: object) -> bytes:
    return b"data: %b\n\n" % json_bytes(body)


def _verbose(number: int, segment: Segment) -> dict[str, Any]:
    """A segment as Whisper's clients expect it; what only Whisper knows is 0."""
    return {
        "id": number,
        "seek": 0,
        "start": round(segment.start_s, 3),
        "end": round(segment.end_s, 3),
        "text": segment.text,
        "tokens": [],
        "temperature": 0.0,
        "avg_logprob": 0.0,
        "compression_ratio": 0.0,
        "no_speech_prob": 0.0,
    }


def _words(segment: Segment) -> list[dict[str, Any]]:
    if segment.words is None:
        raise ApiError(
            "invalid_value",
            "`timestamp_granularities[]` must be `segment`: this speech model does not time single words",
            param="timestamp_granularities[]",
        )
    return [
        {"word": word.text, "start": round(word.start_s, 3), "end": round(word.end_s, 3)}
        for word in segment.words
    ]


def _text(segments: Iterable[Segment]) -> str:
    return " ".join(segment.text for segment in segments) + "\n"


def _srt(segments: Iterable[Segment]) -> str:
    return "".join(
        f"{i}\n{_time(s.start_s, ',')} --> {_time(s.end_s, ',')}\n{s.text}\n\n"
        for i, s in enumerate(segments, 1)
    )


def _vtt(segments: Iterable[Segment]) -> str:
    return "WEBVTT\n\n" + "".join(
        f"{_time(s.start_s, '.')} --> {_time(s.end_s, '.')}\n{_escaped(s.text)}\n\n"
        for s in segments
    )


def _escaped(text: str) -> str:
    """WebVTT reads `<` and `&` as markup."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _time(seconds: float, mark: str) -> str:
    ms = round(seconds * 1000)
    hours, minutes = ms // 3_600_000, ms // 60_000 % 60
    return f"{hours:02}:{minutes:02}:{ms // 1000 % 60:02}{mark}{ms % 1000:03}"


_RENDERERS: dict[ResponseFormat, Callable[[Iterable[Segment]], str]] = {
    "text": _text,
    "srt": _srt,
    "vtt": _vtt,
}
