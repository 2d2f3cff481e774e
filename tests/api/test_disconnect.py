"""A client that leaves cancels its generation: in prefill and in decode, streaming or not."""

from __future__ import annotations

import asyncio
import socket
import time

import httpx
import pytest
import uvicorn

from api.app import create_app
from api.services import Services, loopback_hosts
from api.tokens import FixedTokens
from pushkin_runtime.types import Delta, Done, Progress, Started

pytestmark = pytest.mark.anyio

LONG = "word " * 40  # 25 prefill chunks of 8 byte tokens


@pytest.mark.parametrize("stream", [False, True])
async def test_leaving_in_the_middle_of_a_prefill_stops_it(start_daemon, open_call, stream):
    daemon = start_daemon(gated=True, endless=True)
    body = {"text": LONG, "stream": stream, "max_tokens": 1000}
    n_steps = daemon.engine.n_steps

    async with open_call(daemon, "/v1/continue", body) as call:
        daemon.permits.release(2)
        while not isinstance(await daemon.runtime.event(), Started | Progress):
            pass
        call.leave()

    await daemon.runtime.ending()
    daemon.permits.release(1)
    end = await daemon.runtime.end()
    assert isinstance(end, Done)
    assert {choice.finish_reason for choice in end.result.choices} == {"cancelled"}
    assert daemon.engine.n_steps == n_steps


@pytest.mark.parametrize("stream", [False, True])
async def test_leaving_in_the_middle_of_decoding_stops_within_two_steps(
    start_daemon, open_call, stream
):
    daemon = start_daemon(gated=True, endless=True)
    body = {"text": "A", "stream": stream, "max_tokens": 1000}
    n_before = daemon.engine.n_steps + daemon.engine.n_prefills
    n_permits = 10

    async with open_call(daemon, "/v1/continue", body) as call:
        daemon.permits.release(n_permits)
        while not isinstance(await daemon.runtime.event(), Delta):
            pass
        call.leave()

    await daemon.runtime.ending()
    daemon.permits.release(20)
    end = await daemon.runtime.end()
    assert isinstance(end, Done)
    assert end.result.choices[0].finish_reason == "cancelled"
    assert daemon.engine.n_steps + daemon.engine.n_prefills <= n_before + n_permits + 2


async def test_leaving_before_the_body_is_complete_starts_nothing(start_daemon, open_call):
    daemon = start_daemon()
    async with open_call(daemon, "/v1/continue") as call:
        call.send_body(b'{"text": "A', more=True)
        call.leave()

    assert daemon.runtime.requests == []


async def test_a_closed_connection_frees_the_engine_behind_a_real_server(start_daemon):
    daemon = start_daemon(gated=True, endless=True)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        services = Services(
            runtime=daemon.runtime,
            tokens=FixedTokens(),
            without_token="editor",
            allowed_hosts=loopback_hosts(port),
            version="0.1.0",
            started_at=time.time(),
        )
        config = uvicorn.Config(create_app(services), log_config=None, lifespan="off")
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        wanted = {"text": LONG, "stream": True, "max_tokens": 1000}
        daemon.permits.release(4)
        async with (
            httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client,
            client.stream("POST", "/v1/continue", json=wanted) as response,
        ):
            assert response.status_code == 200
            first = await anext(response.aiter_lines())
        await daemon.runtime.ending()
        daemon.permits.release(1)
        end = await daemon.runtime.end()
        server.should_exit = True
        await serving

    assert first == "event: start"
    assert isinstance(end, Done)
    assert end.result.choices[0].finish_reason == "cancelled"
