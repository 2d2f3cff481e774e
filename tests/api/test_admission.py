"""What may be under way at once is bounded; whoever is refused is told when to come back."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest
from starlette.requests import ClientDisconnect

from api.admission import AdmissionMiddleware, client_of
from api.request_record import RequestRecord
from api.services import ApiLimits

pytestmark = pytest.mark.anyio

WORDS = {"text": "x", "max_tokens": 4}
TYPIST = "typist/1.0"


def as_program(daemon: Any, name: str) -> httpx.AsyncClient:
    client: httpx.AsyncClient = daemon.client()
    client.headers["user-agent"] = name
    return client


async def test_requests_are_done_for_whom_they_come_from(start_daemon) -> None:
    daemon = start_daemon()
    async with as_program(daemon, "greedy/1.0") as one, as_program(daemon, TYPIST) as other:
        for client in (one, other, one):
            assert (await client.post("/v1/continue", json=WORDS)).status_code == 200

    clients = [request.client for request in daemon.runtime.requests]
    assert clients[0] == clients[2] != clients[1]
    assert all(len(client) == 16 for client in clients)  # a digest, nothing of a token


async def test_a_client_leaves_places_for_others_and_health_needs_none(
    start_daemon, open_call
) -> None:
    daemon = start_daemon(gated=True, limits=ApiLimits(max_open_requests=4))
    agent = [(b"user-agent", b"greedy/1.0")]
    async with (
        open_call(daemon, "/v1/continue", WORDS, agent),
        open_call(daemon, "/v1/continue", WORDS, agent),
        open_call(daemon, "/v1/story", {"prompt": "x"}, agent),
    ):
        await daemon.runtime.submitted(3)
        async with as_program(daemon, "greedy/1.0") as one, as_program(daemon, TYPIST) as other:
            refused = await one.post("/v1/continue", json=WORDS)
            health = await one.get("/health")
            waiting = asyncio.create_task(other.post("/v1/continue", json=WORDS))
            await daemon.runtime.submitted(4)
            daemon.permits.release(10_000)
            written = await waiting

    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "queue_full")
    assert int(refused.headers["retry-after"]) >= 1
    assert health.status_code == 200
    assert written.status_code == 200


async def test_bodies_in_memory_are_bounded(start_daemon, open_call) -> None:
    daemon = start_daemon(limits=ApiLimits(max_open_body_bytes=1000))
    body = {"text": "x" * 600}
    length = [(b"content-length", b"612")]
    async with open_call(daemon, "/v1/continue", None, length) as slow, daemon.client() as client:
        await asyncio.sleep(0)  # it runs until it waits for its body
        refused = await client.post("/v1/continue", json=body)
        small = await client.post("/v1/continue", json=WORDS)
        slow.leave()

    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "queue_full")
    assert small.status_code == 200


async def test_who_does_not_read_is_left() -> None:
    gone = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        try:
            await send({"type": "http.response.start", "status": 200, "headers": []})
        except ClientDisconnect:
            gone.set()

    async def never_read(message: Any) -> None:
        await asyncio.Event().wait()

    scope = {
        "type": "http",
        "path": "/v1/continue",
        "method": "POST",
        "headers": [],
        "state": {"record": RequestRecord()},
    }
    admission = AdmissionMiddleware(app, ApiLimits(send_timeout_s=0.01))
    await admission(scope, asyncio.Event().wait, never_read)

    assert gone.is_set()
    assert client_of(scope) == scope["state"]["record"].client  # type: ignore[index]
