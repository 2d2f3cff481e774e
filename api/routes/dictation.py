"""Dictation: `WS /v1/dictation` for clients that send sound, `POST` to switch the daemon's own microphone."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TypeVar, cast

from fastapi import APIRouter, WebSocket
from pydantic import ValidationError
from starlette.websockets import WebSocketDisconnect, WebSocketState

from api.dictation_events import MicrophoneAnswer, dictation_event, microphone_answer
from api.dictation_schemas import ControlMessage, StartMessage, SwitchBody
from api.errors import ApiError, as_api_error, log_failure
from api.json_route import StrictJsonRoute
from api.json_text import JsonRefused, json_bytes, parse_json
from api.responses import error_responses
from api.schemas import Body
from api.services import DictationDep, Services
from api.validation import refusal
from audio.events import DictationEvent, Ended, Failed, Level, Partial
from audio.session import DictationSession

router = APIRouter(tags=["dictation"], route_class=StrictJsonRoute)

M = TypeVar("M", bound=Body)

START_S = 10.0
ROOM_S = 30.0
MAX_WAITING = 1000  # events of a client that does not read; previews are left out from half of it
_SLICE_S = 0.25
_NORMAL, _REFUSED, _TRY_LATER = 1000, 1008, 1013


@router.post(
    "/v1/dictation",
    summary="Switch the daemon's own microphone; what is said comes as `dictation` events on /v1/events",
    responses=error_responses(400, 401, 403, 404, 415, 421, 501, 503),
)
async def switch_dictation(body: SwitchBody, dictation: DictationDep) -> MicrophoneAnswer:
    switched = dictation.switch(body.action, body.session_options())
    return microphone_answer(await asyncio.wrap_future(switched))


@router.websocket("/v1/dictation")
async def dictate(socket: WebSocket) -> None:
    await socket.accept()
    client = _Client(socket)
    try:
        await client.serve()
    except WebSocketDisconnect:
        pass
    except Exception as error:  # noqa: BLE001 - past the handshake only a message can tell
        await client.refuse(error)
    finally:
        client.leave()


class _Client:
    """One WebSocket, from its start message to the end of its session; lives on the event loop."""

    def __init__(self, socket: WebSocket) -> None:
        self._socket = socket
        self._request_id: str = socket.state.request_id
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[DictationEvent] = asyncio.Queue()
        self._session: DictationSession | None = None
        self._number = 0

    async def serve(self) -> None:
        """Run the session. Raises what it fails with before it begins, WebSocketDisconnect when the client leaves."""
        services = cast("Services", self._socket.app.state.services)
        start = await self._start_message()
        opened = services.require_dictation().open(
            start.session_options(), start.pcm_format(), self._hear
        )
        self._number, session = await asyncio.wrap_future(opened)
        self._session = session
        sending = asyncio.create_task(self._send_events())
        receiving = asyncio.create_task(self._receive(session))
        try:
            done, _ = await asyncio.wait({sending, receiving}, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                await task
            await sending  # after `stop` the rest of the events is still to come
        finally:
            for task in (sending, receiving):
                task.cancel()
            await asyncio.gather(sending, receiving, return_exceptions=True)

    async def refuse(self, error: Exception) -> None:
        """Tell the client why, and close."""
        log_failure(error, self._request_id)
        api_error = as_api_error(error)
        later = api_error.status_code == 503
        with contextlib.suppress(WebSocketDisconnect, RuntimeError):
            await self._send_error(api_error)
            await self._close(_TRY_LATER if later else _REFUSED)

    def leave(self) -> None:
        """The client has gone, or all is said: an unfinished session is given up."""
        if self._session is not None:
            self._session.cancel()

    def _hear(self, event: DictationEvent) -> None:
        """The session's sink, on its threads."""
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody listens any more
            self._loop.call_soon_threadsafe(self._put, event)

    def _put(self, event: DictationEvent) -> None:
        n_waiting = self._events.qsize()
        if n_waiting > MAX_WAITING // 2 and isinstance(event, Partial | Level):
            return
        if n_waiting >= MAX_WAITING and not isinstance(event, Ended) and self._session is not None:
            self._session.cancel("error")
        self._events.put_nowait(event)

    async def _send_events(self) -> None:
        while True:
            event = await self._events.get()
            if isinstance(event, Failed):
                log_failure(event.error, self._request_id)
            await self._send(dictation_event(self._number, event, self._request_id))
            if isinstance(event, Ended):
                await self._close(_NORMAL)
                return

    async def _receive(self, session: DictationSession) -> None:
        """Take sound and messages until the client stops; a session that ended by itself takes no more."""
        while True:
            message = await self._socket.receive()
            if message["type"] == "websocket.disconnect":
                raise WebSocketDisconnect(message.get("code", _NORMAL))
            sound = message.get("bytes")
            if sound is not None:
                await self._feed(session, sound)
            elif not await self._obey(session, message.get("text") or ""):
                await self._await_leaving()

    async def _obey(self, session: DictationSession, text: str) -> bool:
        """Do what a message asks; whether more may come. What is not understood is answered and changes nothing."""
        try:
            message = _checked(ControlMessage, text)
            if message.type == "confirm" and not session.confirm(message.id):
                raise ApiError(
                    "command_not_offered",
                    "this command is not offered (any more): the text has gone on",
                    param="id",
                )
        except ApiError as error:
            await self._send_error(error)
            return True
        if message.type == "stop":
            session.stop()
        elif message.type == "cancel":
            session.cancel()
        return message.type == "confirm"

    async def _await_leaving(self) -> None:
        while True:
            message = await self._socket.receive()
            if message["type"] == "websocket.disconnect":
                raise WebSocketDisconnect(message.get("code", _NORMAL))

    async def _feed(self, session: DictationSession, sound: bytes) -> None:
        """Hand over sound as fast as there is room: a client that is too fast waits, and loses nothing."""
        size = session.form.frame_bytes * max(1, int(_SLICE_S * session.form.rate))
        for at in range(0, len(sound), size):
            await self._await_room(session)
            session.feed(sound[at : at + size])

    async def _await_room(self, session: DictationSession) -> None:
        n_samples = int(session.form.rate * _SLICE_S) + 1
        if session.ring.n_free >= n_samples:
            return
        has_room = asyncio.Event()
        session.when_room(n_samples, lambda: self._loop.call_soon_threadsafe(has_room.set))
        try:
            async with asyncio.timeout(ROOM_S):
                await has_room.wait()
        except TimeoutError:
            raise ApiError(
                "dictation_stalled", f"recognition has not moved for {ROOM_S:g} s: begin again"
            ) from None

    async def _start_message(self) -> StartMessage:
        try:
            async with asyncio.timeout(START_S):
                message = await self._socket.receive()
        except TimeoutError:
            raise ApiError(
                "invalid_request", f"the first message did not come within {START_S:g} s"
            ) from None
        if message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(message.get("code", _NORMAL))
        if message.get("text") is None:
            raise ApiError(
                "invalid_request",
                'sound came before the first message: send {"type": "start", "format": "s16le", '
                '"rate": 16000, "channels": 1} as text first',
                param="type",
            )
        return _checked(StartMessage, message["text"])

    async def _send_error(self, error: ApiError) -> None:
        await self._send({"type": "error", "session": self._number, **error.body(self._request_id)})

    async def _send(self, body: object) -> None:
        await self._socket.send_text(json_bytes(body).decode())

    async def _close(self, code: int) -> None:
        if self._socket.application_state is WebSocketState.CONNECTED:
            await self._socket.close(code)


def _checked(kind: type[M], text: str) -> M:
    """A message, parsed and validated. Raises ApiError."""
    try:
        return kind.model_validate(parse_json(text.encode("utf-8", "surrogatepass")))
    except JsonRefused as error:
        raise ApiError(error.code, str(error), param=error.param) from None
    except ValidationError as error:
        raise refusal(
            [{**found, "loc": ("body", *found["loc"])} for found in error.errors()]
        ) from None
