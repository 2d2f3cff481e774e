"""A served application with dictation that hears by an oracle, for tests that speak WebSocket and multipart to it."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import uvicorn
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from api.app import create_app
from api.dictation_events import dictation_event
from api.event_hub import EventHub
from api.scopes import TokenScope
from api.services import Services, loopback_hosts
from api.tokens import FixedTokens
from audio.dictation import Dictation, DictationOptions
from audio.oracle import OracleRecognizer, TimedWord
from audio.pcm import to_samples
from audio.recognizer import Recognizer
from audio.session import Hearing
from audio.vad import SpeechDetector
from benchmarks import espeak
from benchmarks.espeak import Spoken

ADMIN, MENUBAR = "admin-token-of-the-tests", "menubar-token-of-the-tests"
SENTENCE = "the quick brown fox jumps over the lazy dog"


@functools.cache
def spoken(text: str = SENTENCE) -> Spoken:
    return espeak.speak(text)


def oracle(sound: Spoken, p_command: float = 0.0) -> OracleRecognizer:
    words = [TimedWord(w.text, w.start, w.end, p_command) for w in sound.words]
    return OracleRecognizer(words, reference=to_samples(sound.pcm))


@functools.cache
def detector() -> SpeechDetector:
    return SpeechDetector()


@dataclass
class Served:
    """A running server and its dictation."""

    port: int
    dictation: Dictation
    events: EventHub
    published: list[Any] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def connect(self, token: str = ADMIN, **headers: str) -> ClientConnection:
        return connect(
            f"ws://127.0.0.1:{self.port}/v1/dictation",
            additional_headers={"Authorization": f"Bearer {token}", **headers},
            proxy=None,
            open_timeout=10,
            close_timeout=5,
        )


@contextmanager
def served(
    runtime: Any, recognizer: Recognizer | Exception | None, options: DictationOptions | None = None
) -> Iterator[Served]:
    """Serve an application around `runtime`; an exception for a recogniser is what loading one raises."""

    def make_hearing() -> Hearing:
        if isinstance(recognizer, Exception):
            raise recognizer
        assert recognizer is not None
        return Hearing(detector(), recognizer)

    hub, published = EventHub(), []

    def publish(session: int, event: Any) -> None:
        published.append(dictation_event(session, event, request_id=""))

    dictation = Dictation(make_hearing, publish, options)
    tokens: dict[str, TokenScope] = {ADMIN: "admin", MENUBAR: "menubar"}
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        services = Services(
            runtime=runtime,
            tokens=FixedTokens.of(tokens),
            allowed_hosts=loopback_hosts(port),
            version="0.1.0",
            started_at=time.time(),
            events=hub,
            dictation=dictation,
        )
        config = uvicorn.Config(
            create_app(services),
            log_config=None,
            lifespan="off",
            ws="websockets-sansio",
            ws_max_size=2**20,
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listener])))
        thread.start()
        try:
            yield Served(port, dictation, hub, published)
        finally:
            dictation.close(5)
            server.should_exit = True
            thread.join(10)
            assert not thread.is_alive()


def start(socket_: ClientConnection, **fields: Any) -> None:
    """Send the first message."""
    socket_.send(json.dumps({"type": "start", **fields}))


def send_sound(socket_: ClientConnection, pcm: np.ndarray, n: int = 6401) -> None:
    """Send samples in pieces of an odd size, as fast as they are taken."""
    data = pcm.astype("<i2").tobytes()
    for at in range(0, len(data), n):
        socket_.send(data[at : at + n])


def hear(socket_: ClientConnection) -> list[dict[str, Any]]:
    """Every event until the server closes."""
    events = []
    with contextlib.suppress(ConnectionClosed):
        while True:
            events.append(json.loads(socket_.recv(30)))
    return events


def text_of(events: list[dict[str, Any]]) -> str:
    """What a client would have written."""
    return "".join(event["text"] for event in events if event["type"] == "commit")
