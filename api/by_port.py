"""Several applications in one server, told apart by the port a connection came in at."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.types import ASGIApp, Receive, Scope, Send


class ByPort:
    """Sends a request to the application of its socket's port, which no header can change; the rest to `main`."""

    def __init__(self, main: ASGIApp, others: Mapping[int, ASGIApp]) -> None:
        self._main = main
        self._others = others

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        server = scope.get("server")  # (host, port), or (path, None) of a Unix socket
        app = self._others.get(server[1], self._main) if server else self._main
        await app(scope, receive, send)
