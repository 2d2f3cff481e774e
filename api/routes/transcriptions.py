"""`POST /v1/audio/transcriptions`: recordings to text, as OpenAI's clients ask for it."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Request, Response
from starlette.requests import ClientDisconnect

from api.errors import ErrorBody, as_api_error, log_failure
from api.responses import answers, error_responses, json_text, unnamed_events
from api.services import DictationDep, RequestIdDep
from api.sse import PING, EventStream, data_frame
from api.transcription_answers import (
    TEXT_TYPES,
    TranscriptAnswer,
    TranscriptDelta,
    TranscriptDone,
    delta_frame,
    done_frame,
    media_type,
    rendered,
)
from api.transcription_form import TranscriptionForm, read_transcription
from audio.dictation import Dictation
from audio.files import Segment, Transcript

router = APIRouter(tags=["dictation"])

_PING_S = 15.0
_FORM: dict[str, Any] = {
    "type": "object",
    "required": ["file", "model"],
    "properties": {
        "file": {
            "type": "string",
            "format": "binary",
            "description": "wav, flac, mp3, ogg (Vorbis, Opus), aiff, m4a, mp4 or webm; 25 MiB, 4 h.",
        },
        "model": {
            "type": "string",
            "minLength": 1,
            "description": "Any name: there is one speech model.",
        },
        "language": {"type": "string", "example": "ru"},
        "prompt": {"type": "string"},
        "response_format": {
            "type": "string",
            "enum": ["json", "text", "srt", "vtt", "verbose_json"],
            "default": "json",
        },
        "temperature": {"type": "number", "minimum": 0, "maximum": 1},
        "timestamp_granularities[]": {"type": "array", "items": {"enum": ["segment", "word"]}},
        "stream": {"type": "boolean", "default": False},
        "chunking_strategy": {"type": "string"},
        "include[]": {"type": "array", "items": {"type": "string"}},
    },
    "additionalProperties": False,
}
EVENTS = unnamed_events("TranscriptEvent", json_text(TranscriptDelta, TranscriptDone, ErrorBody))
_ANSWER = answers(TranscriptAnswer, stream=EVENTS)
_ANSWER["content"] |= {kind: {"schema": {"type": "string"}} for kind in TEXT_TYPES}
_BODY = {"required": True, "content": {"multipart/form-data": {"schema": _FORM}}}


@router.post(
    "/v1/audio/transcriptions",
    summary="Transcribe a recording; nothing is written to the disk",
    response_class=Response,
    responses={
        200: _ANSWER,
        **error_responses(400, 401, 403, 413, 415, 421, 422, 501, 503),
    },
    openapi_extra={"requestBody": _BODY},
)
async def create_transcription(
    request: Request, dictation: DictationDep, request_id: RequestIdDep
) -> Response:
    form = await read_transcription(request)
    running = _Running(dictation, form)
    if form.stream:
        first = await running.first(request)
        return EventStream(_frames(running, first, request_id, request))
    transcript = await running.transcript(request)
    body = rendered(transcript, form.response_format, form.language, form.granularities)
    return Response(body, media_type=media_type(form.response_format))


class _Running:
    """One recording being recognised; given up when its client leaves."""

    def __init__(self, dictation: Dictation, form: TranscriptionForm) -> None:
        loop = asyncio.get_running_loop()
        self._segments: asyncio.Queue[Segment | None] = asyncio.Queue()
        self._is_left = threading.Event()

        def heard(segment: Segment | None) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(self._segments.put_nowait, segment)

        future = dictation.transcribe(form.content, form.wanted(), heard, self._is_left.is_set)
        future.add_done_callback(lambda _: heard(None))
        self._future = asyncio.wrap_future(future)

    def leave(self) -> None:
        """Nobody waits for it any more."""
        self._is_left.set()

    async def transcript(self, client: Request) -> Transcript:
        """Wait for the end. Raises what it fails with, or ClientDisconnect."""
        watch = asyncio.create_task(_gone(client))
        try:
            waiting: set[asyncio.Future[Any]] = {watch, self._future}
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            if not self._future.done():
                raise ClientDisconnect
            return self._future.result()
        finally:
            watch.cancel()
            self.leave()

    async def first(self, client: Request) -> Segment | None:
        """The first segment, None if there is none: what fails before it fails with a status code."""
        watch = asyncio.create_task(_gone(client))
        segment = asyncio.create_task(self._segments.get())
        try:
            waiting: set[asyncio.Future[Any]] = {watch, segment}
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            if not segment.done():
                raise ClientDisconnect
            if segment.result() is None:
                await self._future
            return segment.result()
        except BaseException:
            self.leave()
            raise
        finally:
            watch.cancel()
            segment.cancel()

    async def next(self, timeout_s: float) -> Segment | None:
        """The next segment, None at the end. Raises TimeoutError when there is none in time."""
        async with asyncio.timeout(timeout_s):
            return await self._segments.get()

    async def end(self) -> Transcript:
        """The whole, once `next` gave None. Raises what it failed with."""
        return await self._future


async def _frames(
    running: _Running, segment: Segment | None, request_id: str, client: Request
) -> AsyncIterator[bytes]:
    watch = asyncio.create_task(_gone(client))
    watch.add_done_callback(lambda _: running.leave())
    is_first = True
    try:
        while segment is not None:
            yield delta_frame(segment, is_first=is_first)
            is_first, segment = False, None
            while segment is None:
                try:
                    segment = await running.next(_PING_S)
                    break
                except TimeoutError:
                    yield PING
        yield done_frame(await running.end())
    except Exception as error:  # noqa: BLE001 - past the headers only a frame can tell
        log_failure(error, request_id)
        yield data_frame(as_api_error(error).body(request_id))
    finally:
        running.leave()
        watch.cancel()


async def _gone(client: Request) -> None:
    while (await client.receive())["type"] != "http.disconnect":
        pass
