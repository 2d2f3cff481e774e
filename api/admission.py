"""How much may be under way at once: requests, and bytes of bodies in memory. What is beyond is refused with
the time to come back, before its body is read; and nobody holds a place by not reading the answer.

The innermost layer: only what has passed the security checks takes a place. What tells of the daemon's own
state takes none, so that it is always told.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.errors import ApiError
from api.request_record import record_of
from api.security import body_rules
from api.services import ApiLimits
from pushkin_runtime.pace import Pace

_ALWAYS = frozenset({"/health", "/v1/health", "/metrics", "/v1/status"})


class AdmissionMiddleware:
    """Counts what is under way, by client; a client may have three quarters of the places."""

    def __init__(self, app: ASGIApp, limits: ApiLimits) -> None:
        self._app = app
        self._limits = limits
        self._open: Counter[str] = Counter()
        self._n_body_bytes = 0
        self._pace = Pace()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in _ALWAYS:
            return await self._app(scope, receive, send)
        client = record_of(scope).client = client_of(scope)
        n_bytes = _body_bytes(scope, self._limits)
        refusal = self._refusal(client, n_bytes)
        if refusal is not None:
            answer = refusal.response(scope["state"]["request_id"], scope["path"])
            return await answer(scope, receive, send)
        self._open[client] += 1
        self._n_body_bytes += n_bytes
        try:
            await self._app(scope, receive, _impatient(send, self._limits.send_timeout_s))
        finally:
            self._open -= Counter((client,))
            self._n_body_bytes -= n_bytes
            self._pace.moved(is_wanted=bool(self._open))

    def _refusal(self, client: str, n_bytes: int) -> ApiError | None:
        n_open, limit = self._open.total(), self._limits.max_open_requests
        is_full = n_open >= limit or self._open[client] >= limit - limit // 4
        max_bytes = self._limits.max_open_body_bytes
        if not is_full and (not n_bytes or self._n_body_bytes + n_bytes <= max_bytes):
            return None
        return ApiError(
            "queue_full",
            f"{n_open} requests with bodies of {self._n_body_bytes} bytes are under way, "
            f"{self._open[client]} of them from this client; ask again in a moment",
            headers={"Retry-After": str(self._pace.retry_after_s(len(self._open)))},
        )


def _impatient(send: Send, timeout_s: float) -> Send:
    """Wrap `send`: a client that does not read leaves, as far as we are concerned."""

    async def send_in_time(message: Message) -> None:
        try:
            async with asyncio.timeout(timeout_s):
                await send(message)
        except TimeoutError:
            raise ClientDisconnect from None

    return send_in_time


def client_of(scope: Scope) -> str:
    """Whom a request is served for, as far as fairness goes: a digest of its credential and its program's name.

    Programs that share a token are told apart by User-Agent. A connection would say nothing: a client has one
    for each request under way.
    """
    wanted = (b"authorization", b"x-api-key", b"user-agent")
    sent = sorted((name, value) for name, value in scope["headers"] if name in wanted)
    return hashlib.sha256(repr(sent).encode()).hexdigest()[:16]


def _body_bytes(scope: Scope, limits: ApiLimits) -> int:
    """What a body may take in memory: its length if it is said, else as much as it may have."""
    for name, value in scope["headers"]:
        if name == b"content-length":
            return int(value)  # the security layer has seen that it is a number
        if name == b"transfer-encoding":
            return body_rules(scope, limits).max_bytes
    return 0
