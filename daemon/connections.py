"""Open connections, bounded: in number, below the limit on open files which the log and the index need too, and
in how long one may be held without a whole request."""

from __future__ import annotations

import asyncio
from typing import Any

from pushkin_runtime.pace import Pace

MAX_CONNECTIONS = 512
HEADERS_S = (
    20.0  # from the connection, or the first byte of a further request, to the end of its headers
)

_BODY = (
    b'{"error":{"code":"queue_full","message":"too many connections are open; close some",'
    b'"type":"server_error","param":null,"request_id":""}}'
)
_REFUSAL = (
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nconnection: close\r\n"
    b"retry-after: %d\r\ncontent-length: %d\r\n\r\n%b"
)


def bounded_protocol(
    limit: int = MAX_CONNECTIONS, headers_s: float = HEADERS_S
) -> type[asyncio.Protocol]:
    """Return uvicorn's protocol with at most `limit` connections; one more is told so and closed."""
    from uvicorn.protocols.http.auto import AutoHTTPProtocol

    pace = Pace()

    class BoundedProtocol(AutoHTTPProtocol):  # type: ignore[misc, valid-type]
        is_refused = False
        headers_timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            if len(self.connections) >= limit:
                self.is_refused = True
                transport.write(_REFUSAL % (pace.retry_after_s(), len(_BODY), _BODY))
                transport.close()
                return
            super().connection_made(transport)
            self.watch_headers()

        def data_received(self, data: bytes) -> None:
            if not self.is_refused:
                super().data_received(data)
                self.watch_headers()

        def connection_lost(self, exc: Exception | None) -> None:
            _stop(self.headers_timer)
            if not self.is_refused:
                super().connection_lost(exc)
                pace.moved(is_wanted=bool(self.connections))

        def watch_headers(self) -> None:
            """Give the request whose headers are still to come its time; uvicorn would wait for ever."""
            if _is_served(self):
                _stop(self.headers_timer)
                self.headers_timer = None
            elif self.headers_timer is None:
                self.headers_timer = self.loop.call_later(headers_s, self.transport.close)

    return BoundedProtocol


def _is_served(protocol: Any) -> bool:
    """Whether a request is being answered, or the connection has become a WebSocket's."""
    cycle = protocol.cycle
    return protocol not in protocol.connections or (cycle and not cycle.response_complete)


def _stop(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()
