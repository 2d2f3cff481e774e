"""A real Runtime with the scripted engine behind a real application."""

from __future__ import annotations

import asyncio
import json
import queue
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import httpx
import pytest
from fastapi import FastAPI

from api.app import create_app
from api.metrics.instruments import Metrics
from api.metrics.observer import GenerationEnds
from api.scopes import TokenScope
from api.services import ApiLimits, GenerationHandle, Services, loopback_hosts
from api.tokens import FixedTokens
from pushkin_runtime.adapter_pool import AdapterOptions
from pushkin_runtime.engines.scripted_engine import ScriptedEngine
from pushkin_runtime.handle import GenerationHandle as RuntimeHandle
from pushkin_runtime.observer import Unobserved
from pushkin_runtime.runtime import Runtime, RuntimeOptions
from pushkin_runtime.tokenizer import TextTokenizer
from pushkin_runtime.types import (
    AdapterRef,
    AdapterStatus,
    Done,
    Event,
    EventSink,
    Failed,
    GenerationRequest,
    Health,
    RuntimeStatus,
    Task,
)

T = TypeVar("T")

TOKEN = "token-of-the-tests-0123456789"
HOST = "127.0.0.1:1799"
GUARD_S = 10.0


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class TappedRuntime:
    """A Runtime that tells the test what came in (`requests`) and how each generation ended (`ends`)."""

    def __init__(self, runtime: Runtime) -> None:
        self.inner = runtime
        self.requests: list[GenerationRequest] = []
        self.handles: list[RuntimeHandle] = []
        self.ends: queue.Queue[Done | Failed] = queue.Queue()
        self.first_events: queue.Queue[Event] = queue.Queue()

    def submit(self, request: GenerationRequest, sink: EventSink) -> GenerationHandle:
        self.requests.append(request)

        def tap(event: Event) -> None:
            sink(event)
            if isinstance(event, Done | Failed):
                self.ends.put(event)
            else:
                self.first_events.put(event)

        handle = self.inner.submit(request, tap)
        self.handles.append(handle)
        return handle

    def cancel(self, request_id: str) -> bool:
        return self.inner.cancel(request_id)

    def adapters(self) -> Future[list[AdapterStatus]]:
        return self.inner.adapters()

    def default_adapters(self, task: Task) -> tuple[AdapterRef, ...]:
        return self.inner.default_adapters(task)

    def load_adapter(self, name: str, *, pinned: bool) -> Future[AdapterStatus]:
        return self.inner.load_adapter(name, pinned=pinned)

    def unload_adapter(self, name: str) -> Future[AdapterStatus]:
        return self.inner.unload_adapter(name)

    def tokenizer(self) -> TextTokenizer:
        return self.inner.tokenizer()

    def wake(self) -> Future[None]:
        return self.inner.wake()

    def status(self) -> RuntimeStatus:
        return self.inner.status()

    def health(self) -> Health:
        return self.inner.health()

    async def end(self) -> Done | Failed:
        """The end of the generation that ends next."""
        return await _in_thread(self.ends.get, True, GUARD_S)

    async def submitted(self, n_requests: int) -> None:
        """Wait until this many requests have come in."""
        await _in_thread(until, lambda: len(self.handles) >= n_requests)

    async def ending(self) -> None:
        """Wait until the last generation has been told to end; the engine need not move for that."""
        await self.submitted(1)
        await _in_thread(until, lambda: self.handles[-1].end_reason() is not None)

    async def event(self) -> Event:
        """The next event that is not an end, of any generation."""
        return await _in_thread(self.first_events.get, True, GUARD_S)


@dataclass
class Daemon:
    """Everything a test needs to talk to the application and to steer the engine."""

    app: FastAPI
    services: Services
    runtime: TappedRuntime
    engine: ScriptedEngine
    permits: threading.Semaphore | None

    def client(self, **headers: str) -> httpx.AsyncClient:
        """A client with the token, or with exactly the headers given."""
        return httpx.AsyncClient(
            transport=httpx.ASGITransport(self.app),
            base_url=f"http://{HOST}",
            headers=headers or {"Authorization": f"Bearer {TOKEN}"},
        )


StartDaemon = Callable[..., Daemon]


@contextmanager
def running_daemons() -> Iterator[StartDaemon]:
    """A function that starts daemons, all of which are stopped at the end.

    parts: fields of `Services`, as they are.
    """
    started: list[Daemon] = []

    def start(
        texts: Sequence[str] = (" and so it goes.",),
        *,
        gated: bool = False,
        endless: bool = False,
        fail_after: int | None = None,
        limits: ApiLimits | None = None,
        tokens: Mapping[str, TokenScope] | None = None,
        adapters: AdapterOptions | None = None,
        idle_unload_s: float = 0,
        **parts: Any,
    ) -> Daemon:
        engine = ScriptedEngine(texts=texts, endless=endless)
        options = RuntimeOptions(
            model_dir=Path("unused"),
            engine="scripted",
            prefill_chunk=8,
            cache_reuse=256,
            adapters=adapters or AdapterOptions(),
            idle_unload_s=idle_unload_s,
        )
        metrics = Metrics()
        runtime = Runtime(options, create=lambda _choice, _options: engine)
        runtime.observe(GenerationEnds(metrics, parts.get("usage"), beyond=Unobserved()))
        runtime.start()
        until(lambda: runtime.status().state == "ready")
        permits = threading.Semaphore(0) if gated else None
        engine.permits = permits
        if fail_after is not None:
            engine.fail_at = engine.n_steps + fail_after
        tapped = TappedRuntime(runtime)
        services = Services(
            runtime=tapped,
            tokens=FixedTokens.of({TOKEN: "admin"} | dict(tokens or {})),
            allowed_hosts=loopback_hosts(1799),
            version="0.1.0",
            started_at=time.time(),
            limits=limits or ApiLimits(wrong_token_pause_s=0),
            metrics=metrics,
            **parts,
        )
        daemon = Daemon(create_app(services), services, tapped, engine, permits)
        started.append(daemon)
        return daemon

    yield start
    for daemon in started:
        if daemon.permits is not None:
            daemon.permits.release(100_000)
        assert daemon.runtime.inner.close(drain_s=GUARD_S)


@pytest.fixture
def start_daemon() -> Iterator[StartDaemon]:
    """`start_daemon(texts=..., gated=True, ...)`: a loaded daemon; gated ones work only when permitted."""
    with running_daemons() as start:
        yield start


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    """One daemon for a whole module: for tests that neither steer nor change it."""
    with running_daemons() as start:
        yield start()


def until(is_so: Callable[[], bool]) -> None:
    """Wait for what has no event to wait for."""
    give_up_at = time.monotonic() + GUARD_S
    while not is_so():
        assert time.monotonic() < give_up_at, "waited in vain"
        threading.Event().wait(0.001)


async def _in_thread(function: Callable[..., T], *args: object) -> T:
    return await asyncio.get_running_loop().run_in_executor(None, function, *args)


@dataclass
class AsgiCall:
    """One HTTP request driven by hand, so that the client can leave at a chosen moment."""

    app: FastAPI
    scope: dict[str, Any]
    inbox: asyncio.Queue[dict[str, Any]] = field(default_factory=asyncio.Queue)
    sent: asyncio.Queue[dict[str, Any]] = field(default_factory=asyncio.Queue)
    messages: list[dict[str, Any]] = field(default_factory=list)

    async def run(self) -> None:
        async def send(message: Any) -> None:
            self.messages.append(message)
            await self.sent.put(message)

        await self.app(self.scope, self.inbox.get, send)

    def send_body(self, body: bytes, *, more: bool = False) -> None:
        self.inbox.put_nowait({"type": "http.request", "body": body, "more_body": more})

    def leave(self) -> None:
        self.inbox.put_nowait({"type": "http.disconnect"})

    async def body_part(self) -> bytes:
        """The next part of the answer's body."""
        while True:
            async with asyncio.timeout(GUARD_S):
                message = await self.sent.get()
            if message["type"] == "http.response.body":
                return bytes(message["body"])

    @property
    def status(self) -> int:
        return int(self.messages[0]["status"])

    def json(self) -> Any:
        return json.loads(b"".join(m.get("body", b"") for m in self.messages[1:]))


OpenCall = Callable[..., AbstractAsyncContextManager[AsgiCall]]


@pytest.fixture
def open_call() -> OpenCall:
    """`open_call(daemon, path, json)`: the request is under way inside the block, finished after it."""

    @asynccontextmanager
    async def call(
        daemon: Daemon,
        path: str,
        body: object | None = None,
        headers: Sequence[tuple[bytes, bytes]] = (),
        method: str = "POST",
    ) -> AsyncIterator[AsgiCall]:
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": method,
            "path": path,
            "raw_path": path.encode(),
            "root_path": "",
            "query_string": b"",
            "scheme": "http",
            "client": ("127.0.0.1", 50000),
            "server": ("127.0.0.1", 1799),
            "headers": [
                (b"host", HOST.encode()),
                (b"authorization", f"Bearer {TOKEN}".encode()),
                (b"content-type", b"application/json"),
                *headers,
            ],
        }
        made = AsgiCall(daemon.app, scope)
        if body is not None:
            made.send_body(json.dumps(body).encode())
        task = asyncio.create_task(made.run())
        yield made
        async with asyncio.timeout(GUARD_S):
            await task

    return call


@dataclass(frozen=True)
class SseEvent:
    """One event as a client reads it."""

    event: str
    data: Any


def parse_events(text: str) -> list[SseEvent]:
    """A strict reader: `event` and one `data` line each, comments skipped."""
    events = []
    for block in text.removesuffix("\n\n").split("\n\n"):
        if block.startswith(":"):
            continue
        first, second = block.splitlines()
        name = first.removeprefix("event: ")
        events.append(SseEvent(name, json.loads(second.removeprefix("data: "))))
    return events


@pytest.fixture
def read_events() -> Callable[[str], list[SseEvent]]:
    return parse_events
