"""A transcript in the five formats of OpenAI's `POST /v1/audio/transcriptions`, and as its stream."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Literal, NotRequired

from typing_extensions import TypedDict

from api.errors import ApiError
from api.json_text import json_bytes
from api.sse import data_frame
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
TEXT_TYPES = tuple(kind.partition(";")[0] for kind in _MEDIA_TYPES.values() if "charset" in kind)
_LANGUAGES = {"en": "english", "ru": "russian"}


class TranscriptSegment(TypedDict):
    """One utterance, in seconds from the start; what only Whisper knows is 0 or empty."""

    id: int
    seek: int
    start: float
    end: float
    text: str
    tokens: list[int]
    temperature: float
    avg_logprob: float
    compression_ratio: float
    no_speech_prob: float


class TranscriptWord(TypedDict):
    """In seconds from the start."""

    word: str
    start: float
    end: float


class TranscriptAnswer(TypedDict):
    """`json` has `text` alone, `verbose_json` has what `timestamp_granularities[]` asks for."""

    task: NotRequired[Literal["transcribe"]]
    language: NotRequired[str]
    duration: NotRequired[float]
    text: str
    segments: NotRequired[list[TranscriptSegment]]
    words: NotRequired[list[TranscriptWord]]


class TranscriptDelta(TypedDict):
    """More text, in a stream."""

    type: Literal["transcript.text.delta"]
    delta: str


class TranscriptDone(TypedDict):
    """The whole text, at the end of a stream."""

    type: Literal["transcript.text.done"]
    text: str


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
    body: TranscriptAnswer = {"text": transcript.text}
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
    delta: TranscriptDelta = {"type": "transcript.text.delta", "delta": text}
    return data_frame(delta)


def done_frame(transcript: Transcript) -> bytes:
    """The end of a stream."""
    done: TranscriptDone = {"type": "transcript.text.done", "text": transcript.text}
    return data_frame(done)


def _verbose(number: int, segment: Segment) -> TranscriptSegment:
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


def _words(segment: Segment) -> list[TranscriptWord]:
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
