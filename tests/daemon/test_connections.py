"""Connections are bounded, and none is held by half a request."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import uvicorn

from daemon.connections import bounded_protocol

GUARD_S = 10.0
GET = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"
Connect = Callable[[], Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]


async def answer_ok(scope: Any, receive: Any, send: Any) -> None:
    headers = [(b"content-length", b"2")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"ok"})


@contextlib.asynccontextmanager
async def serving(**limits: Any) -> AsyncIterator[Connect]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        protocol = bounded_protocol(**limits)
        config = uvicorn.Config(answer_ok, http=protocol, lifespan="off", log_config=None)
        config.load()
        server = uvicorn.Server(config)
        server.lifespan = config.lifespan_class(config)
        await server.startup(sockets=[listener])
        writers: list[asyncio.StreamWriter] = []

        async def connect() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
            reader, writer = await asyncio.open_connection(*listener.getsockname())
            writers.append(writer)
            return reader, writer

        try:
            async with asyncio.timeout(GUARD_S):
                yield connect
        finally:
            for writer in writers:
                writer.close()
                with contextlib.suppress(ConnectionError):
                    await writer.wait_closed()
            await server.shutdown(sockets=[listener])


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.mark.anyio
async def test_one_connection_too_many_is_told_when_to_come_back() -> None:
    async with serving(limit=2) as connect:
        held = [await connect() for _ in range(2)]
        for reader, writer in held:
            writer.write(GET)
            assert (await reader.readuntil(b"ok")).startswith(b"HTTP/1.1 200")
        refused = await (await connect())[0].read()
        held[0][1].close()
        await held[0][1].wait_closed()
        answer = refused
        while not answer.startswith(b"HTTP/1.1 200"):  # its place is free a moment later
            reader, writer = await connect()
            writer.write(GET)
            with contextlib.suppress(ConnectionError):
                answer = await reader.read(12)

    assert refused.startswith(b"HTTP/1.1 503")
    assert b"retry-after: 1\r\n" in refused
    assert b'"code":"queue_full"' in refused


@pytest.mark.anyio
@pytest.mark.parametrize("sent", [b"", GET[:10], GET + GET[:10]])
async def test_a_connection_that_never_finishes_a_request_is_closed(sent: bytes) -> None:
    async with serving(headers_s=0.05) as connect:
        reader, writer = await connect()
        writer.write(sent)
        answer = await reader.read()  # up to the end

    assert answer.count(b"HTTP/1.1 200") == sent.count(GET)


@pytest.mark.anyio
async def test_a_connection_between_two_requests_is_kept() -> None:
    async with serving(headers_s=0.05) as connect:
        reader, writer = await connect()
        for _ in range(2):
            writer.write(GET)
            assert (await reader.readuntil(b"ok")).startswith(b"HTTP/1.1 200")
            await asyncio.sleep(
                0.1
            )  # longer than headers may take: the time itself is what is tested
