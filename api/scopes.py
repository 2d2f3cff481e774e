"""Which token may use which route: one table, and what it does not name is closed to all but `admin`.

The scopes are ordered, each includes the ones before it: `menubar` sees the state and switches dictation,
`editor` writes and keeps documents, `admin` changes what the daemon is. A route has the lowest that will do.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Literal

TokenScope = Literal["menubar", "editor", "admin"]
RouteScope = Literal["open", "menubar", "editor", "admin"]

WEBSOCKET = "WEBSOCKET"

_RANK: dict[RouteScope, int] = {"open": 0, "menubar": 1, "editor": 2, "admin": 3}

# "METHOD pattern", the pattern as the route spells it; a WebSocket's method is WEBSOCKET.
ROUTES: dict[str, RouteScope] = {
    "GET /health": "open",
    "GET /v1/health": "open",
    "POST /v1/pair": "open",  # asks for a code instead
    "POST /v1/pairings": "admin",
    "DELETE /v1/pairings/{pairing_id}": "admin",
    "GET /v1/status": "menubar",
    "GET /v1/events": "menubar",
    "POST /v1/continue": "editor",
    "POST /v1/rephrase": "editor",
    "POST /v1/story": "editor",
    "POST /v1/warm": "editor",
    "DELETE /v1/requests/{request_id}": "editor",
    "GET /v1/models": "editor",
    "GET /v1/models/{model_id}": "editor",
    "GET /v1/adapters": "editor",
    "POST /v1/adapters/{name}/load": "admin",
    "POST /v1/adapters/{name}/unload": "admin",
    "GET /v1/documents": "editor",
    "PUT /v1/documents/{document_id}": "editor",
    "GET /v1/documents/{document_id}": "editor",
    "DELETE /v1/documents/{document_id}": "editor",
    "POST /v1/index/rebuild": "admin",
    "GET /v1/consent": "editor",
    "PUT /v1/consent": "editor",
    "POST /v1/folders": "admin",
    "DELETE /v1/folders/{name}": "admin",
    "GET /v1/persona": "editor",
    "DELETE /v1/persona": "admin",
    "GET /v1/persona/export": "admin",
    "POST /completion": "editor",
    "POST /completions": "editor",
    "POST /tokenize": "editor",
    "POST /detokenize": "editor",
    "POST /embedding": "editor",
    "POST /embeddings": "editor",
    "POST /apply-template": "editor",
    "POST /infill": "editor",
    "GET /lora-adapters": "editor",
    "POST /lora-adapters": "editor",
    "GET /props": "editor",
    "POST /props": "admin",
    "GET /slots": "editor",
    "POST /slots/{id_slot}": "editor",
    "POST /v1/completions": "editor",
    "POST /v1/embeddings": "editor",
    "POST /v1/audio/transcriptions": "editor",
    "POST /v1/feedback": "editor",
    "GET /v1/stats": "admin",
    "DELETE /v1/stats": "admin",
    "PUT /v1/stats/consent": "admin",
    "GET /v1/stats/export": "admin",
    "GET /v1/stats/pairs": "admin",
    "WEBSOCKET /v1/dictation": "editor",
    "POST /v1/dictation": "menubar",
    "GET /metrics": "menubar",
    # Named in the contract, without a route yet: 404.
    "POST /v1/score": "editor",
    "POST /v1/persona/vector": "editor",
}

SCOPES: tuple[TokenScope, ...] = ("menubar", "editor", "admin")


def covers(held: TokenScope, needed: RouteScope) -> bool:
    """Whether a token of scope `held` may use a route that needs `needed`."""
    return _RANK[held] >= _RANK[needed]


def broadest(scopes: Iterable[TokenScope]) -> TokenScope | None:
    """The scope that includes the others; None of none."""
    return max(scopes, key=_RANK.__getitem__, default=None)


class RouteTable:
    """The table, ready to be asked for the scope of a request."""

    def __init__(self, routes: Mapping[str, RouteScope]) -> None:
        from starlette.routing import compile_path  # the command line reads this module too

        self._exact: dict[tuple[str, str], RouteScope] = {}
        self._patterns: list[tuple[str, re.Pattern[str], RouteScope]] = []
        for name, scope in routes.items():
            method, _, path = name.partition(" ")
            if "{" in path:
                self._patterns.append((method, compile_path(path)[0], scope))
            else:
                self._exact[method, path] = scope

    def needed(self, method: str, path: str) -> RouteScope | None:
        """The scope of a request's route, the highest where several fit; None for what is not named."""
        exact = self._exact.get((method, path))
        found = [] if exact is None else [exact]
        found += [
            scope
            for its_method, pattern, scope in self._patterns
            if its_method == method and pattern.match(path)
        ]
        return max(found, key=_RANK.__getitem__, default=None)

    def methods(self, path: str) -> list[str]:
        """The methods that the table names for a path, in alphabetical order."""
        exact = {method for method, its_path in self._exact if its_path == path}
        by_pattern = {method for method, pattern, _ in self._patterns if pattern.match(path)}
        return sorted(exact | by_pattern)
