"""Who needs the model waits while it is loaded again: an idle daemon gives its memory back, and nobody is refused for it.

Within the layer of admission: who waits has passed the security checks and holds a place.
"""

from __future__ import annotations

import asyncio

from starlette.types import ASGIApp, Receive, Scope, Send

from api.services import GenerationRuntime

WAIT_S = 60.0  # then the route says itself that the model is not there

# What cannot be answered without the model, and what begins with it.
_NEED_MODEL = frozenset(
    {
        *("/v1/continue", "/v1/rephrase", "/v1/story", "/v1/warm", "/v1/dictation"),
        *("/v1/completions", "/v1/audio/transcriptions", "/v1/adapters", "/v1/models"),
        *("/completion", "/completions", "/infill", "/apply-template", "/tokenize", "/detokenize"),
        *("/lora-adapters", "/props"),
    }
)
_BELOW = "/v1/adapters/"


class WakingMiddleware:
    """Reads no body; a client that leaves meanwhile is noticed afterwards."""

    def __init__(self, app: ASGIApp, runtime: GenerationRuntime) -> None:
        self._app = app
        self._runtime = runtime

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan" and _needs_model(scope["path"]):
            waking = self._runtime.wake()
            if not waking.done():
                await asyncio.wait([asyncio.wrap_future(waking)], timeout=WAIT_S)
        await self._app(scope, receive, send)


def _needs_model(path: str) -> bool:
    return path in _NEED_MODEL or path.startswith(_BELOW)
