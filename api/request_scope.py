"""The outermost layer: gives each request its id, one log event, and an answer to what nobody caught."""

from __future__ import annotations

import re
import time
import uuid

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.errors import as_api_error, log_failure
from api.request_record import RequestRecord, request_ended
from api.services import Services

_CLIENT_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")


class RequestScopeMiddleware:
    """Sets `request.state.request_id`, sends it back as `X-Request-Id`, forbids caching.

    A client's own `X-Request-Id` is used when it is well formed and no open request has it; else the
    daemon makes one (`req_` and 24 hex digits).
    """

    def __init__(self, app: ASGIApp, services: Services) -> None:
        self._app = app
        self._services = services
        self._open_ids: set[str] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self._app(scope, receive, send)
        request_id = self._choose_id(scope)
        scope.setdefault("state", {})["request_id"] = request_id
        self._open_ids.add(request_id)
        try:
            await self._run(scope, receive, send, request_id)
        finally:
            self._open_ids.discard(request_id)

    async def _run(self, scope: Scope, receive: Receive, send: Send, request_id: str) -> None:
        started = time.perf_counter()
        record = scope["state"]["record"] = RequestRecord()
        extra_headers = [
            (b"x-request-id", request_id.encode()),
            (b"cache-control", b"no-store"),
            (b"x-content-type-options", b"nosniff"),
        ]

        async def receive_counted() -> Message:
            message = await receive()
            record.received(message)
            return message

        async def send_with_id(message: Message) -> None:
            record.sent(message)
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), *extra_headers]
            await send(message)

        try:
            await self._app(scope, receive_counted, send_with_id)
        except Exception as error:  # noqa: BLE001 - uvicorn would log its message, which may quote text
            log_failure(error, request_id)
            if not record.status and scope["type"] == "http":
                answer = as_api_error(error).response(request_id, scope["path"])
                await answer(scope, receive, send_with_id)
        request_ended(scope, record, request_id, time.perf_counter() - started, self._services)

    def _choose_id(self, scope: Scope) -> str:
        given = [value for name, value in scope["headers"] if name == b"x-request-id"]
        if len(given) == 1 and _CLIENT_ID.fullmatch(given[0]):
            request_id: str = given[0].decode()
            if request_id not in self._open_ids:
                return request_id
        return f"req_{uuid.uuid4().hex[:24]}"
