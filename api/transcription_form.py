"""OpenAI's form for `POST /v1/audio/transcriptions`: one file in memory, and fields that are checked like JSON."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import cast, get_args

from starlette.datastructures import FormData, UploadFile
from starlette.requests import Request

from api.errors import ApiError
from api.json_text import printable
from api.transcription_answers import SEGMENTS, Granularity, ResponseFormat
from api.uploads import read_form
from audio.files import Transcription

MAX_PROMPT_CHARS = 20_000
_FIELDS = (
    "file", "model", "language", "prompt", "response_format", "temperature", "timestamp_granularities[]",
    "stream", "chunking_strategy", "include[]",
)  # fmt: skip
_TRUTH = {"true": True, "1": True, "false": False, "0": False}


@dataclass(frozen=True, slots=True, kw_only=True)
class TranscriptionForm:
    """What a client asked for."""

    content: bytes
    language: str | None
    prompt: str
    response_format: ResponseFormat
    stream: bool
    granularities: frozenset[Granularity] = SEGMENTS

    def wanted(self) -> Transcription:
        """The order for recognition."""
        languages = (self.language,) if self.language else ("en", "ru")
        return Transcription(languages=languages, prompt=self.prompt)


async def read_transcription(request: Request) -> TranscriptionForm:
    """Read the form. Raises ApiError."""
    form = await read_form(
        request,
        max_fields=16,
        max_field_bytes=4 * MAX_PROMPT_CHARS,
        hint="send one `file`, and `model`",
    )
    try:
        return await _checked(form)
    finally:
        await form.close()


async def _checked(form: FormData) -> TranscriptionForm:
    unknown = [name for name in form if name not in _FIELDS]
    if unknown:
        raise ApiError(
            "unknown_field",
            f"`{printable(unknown[0])}` is not a field here; known are {', '.join(_FIELDS)}",
            param=printable(unknown[0]),
        )
    file = form.get("file")
    if not isinstance(file, UploadFile):
        raise ApiError(
            "missing_field", "`file` is required: the recording, as a file", param="file"
        )
    if not form.get("model"):
        raise ApiError("missing_field", "`model` is required; any name will do", param="model")
    _check_temperature(_text(form, "temperature"))
    response_format = _text(form, "response_format") or "json"
    if response_format not in get_args(ResponseFormat):
        choices = ", ".join(get_args(ResponseFormat))
        raise ApiError(
            "invalid_value", f"`response_format` must be one of {choices}", param="response_format"
        )
    content = await file.read()
    if not content:
        raise ApiError("invalid_value", "`file` is empty", param="file")
    return TranscriptionForm(
        content=content,
        language=_language(_text(form, "language")),
        prompt=_text(form, "prompt")[-MAX_PROMPT_CHARS:],
        response_format=cast("ResponseFormat", response_format),
        stream=_stream(_text(form, "stream")),
        granularities=_granularities(form, response_format),
    )


def _text(form: FormData, name: str) -> str:
    value = form.get(name)
    return value if isinstance(value, str) else ""


def _language(text: str) -> str | None:
    if not text:
        return None
    if not (text.isascii() and text.isalpha() and 2 <= len(text) <= 3):
        raise ApiError(
            "invalid_value", "`language` must be a code such as en or ru", param="language"
        )
    return text.lower()


def _granularities(form: FormData, response_format: str) -> frozenset[Granularity]:
    found = form.getlist("timestamp_granularities[]") or ["segment"]
    if not set(found) <= set(get_args(Granularity)):
        raise ApiError(
            "invalid_value",
            f"`timestamp_granularities[]` must be of {', '.join(get_args(Granularity))}",
            param="timestamp_granularities[]",
        )
    if "word" in found and response_format != "verbose_json":
        raise ApiError(
            "invalid_value",
            "words are timed in `verbose_json` alone: set `response_format`",
            param="timestamp_granularities[]",
        )
    return frozenset(cast("list[Granularity]", found))


def _stream(text: str) -> bool:
    if not text:
        return False
    if text.lower() not in _TRUTH:
        raise ApiError("invalid_value", "`stream` must be true or false", param="stream")
    return _TRUTH[text.lower()]


def _check_temperature(text: str) -> None:
    """Recognition is greedy: any temperature is taken, and none changes it."""
    try:
        value = float(text or 0)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 1:
        raise ApiError("invalid_value", "`temperature` must be from 0 to 1", param="temperature")
