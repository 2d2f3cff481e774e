"""The traffic of the load: what a client of each kind does, and whether the daemon answered as it should.

A kind that the daemon does not serve is left out, so the mix may name what is still to come.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
from websockets.exceptions import WebSocketException
from websockets.sync.client import connect

from benchmarks import espeak
from benchmarks.harness import Target
from benchmarks.http_client import Body, Broken, Client, Refused
from benchmarks.soak_load import Tally, Worker

TEXTS = (
    "The old house stood by the river, and ",
    "The old house stood by the river, and nobody had lived in it since ",
    "It was late in the autumn when she ",
    "Старый дом стоял у реки, и никто ",
    "Была поздняя осень, когда он ",
)
N_TOKENS = 12
LEAVE_SHARE = 0.2
N_DOCUMENTS = 6  # of each client that keeps documents
JOB_TIMEOUT_S = 60.0
NOISE_RATE = 16_000
BURST_BYTES = 16_000  # half a second
SENTENCES = (
    "The old house stood by the river.",
    "It was late in the autumn, and nobody had lived in it since.",
    "Delete the last sentence.",
)
FILED = (
    *("push: done", "push: unchanged", "list: 200", "read: 200", "delete: 200"),
    *("read: 404", "delete: 404"),  # it is not there (yet)
)


class Traffic(Protocol):
    """One client. `do` sends job `number` and notes how it ended; `close` closes its connections."""

    tally: Tally

    def do(self, number: int) -> None: ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """How to ask for the greedy continuation of a text, and where its text is in an answer and in an event.

    body: makes the request once. A prompt of tokens has no persona, which changes while documents are indexed.
    """

    path: str
    body: Callable[[Client, str], Body]
    text: Callable[[Any], str]
    delta: Callable[[Any], str]


def _tokens(client: Client, text: str) -> list[int]:
    answer = client.call("POST", "/tokenize", {"content": text, "add_special": True})
    return list(answer.data.get("tokens", ()))


DIALECTS = {
    "native": Dialect(
        path="/v1/continue",
        body=lambda _, text: {
            "text": text,
            "max_tokens": N_TOKENS,
            "sampling": {"temperature": 0},
            "adapters": [],
            "persona": "off",
        },
        text=lambda answer: answer["choices"][0]["text"],
        delta=lambda event: event.get("text", ""),
    ),
    "llama": Dialect(
        path="/completion",
        body=lambda client, text: {
            "prompt": _tokens(client, text),
            "n_predict": N_TOKENS,
            "temperature": 0,
        },
        text=lambda answer: answer["content"],
        delta=lambda event: event.get("content", ""),
    ),
    "openai": Dialect(
        path="/v1/completions",
        body=lambda client, text: {
            "prompt": _tokens(client, text),
            "max_tokens": N_TOKENS,
            "temperature": 0,
        },
        text=lambda answer: answer["choices"][0]["text"],
        delta=lambda event: "".join(choice["text"] for choice in event.get("choices", ())),
    ),
}


class CheckedClient:
    """Asks for greedy continuations and compares each with the one it was given before the load."""

    def __init__(self, target: Target, number: int, dialect: Dialect) -> None:
        self.tally = Tally()
        self._dialect = dialect
        self._client = Client(target, program=f"load-{dialect.path.strip('/')}-{number}")
        self._bodies = {text: dialect.body(self._client, text) for text in TEXTS}
        self._expected = {text: self._ask(text) for text in TEXTS}

    def close(self) -> None:
        self._client.close()

    def do(self, number: int) -> None:
        chance = random.Random(number)
        text = chance.choice(TEXTS)
        leaves_after = chance.randrange(1, 6) if chance.random() < LEAVE_SHARE else None
        try:
            if leaves_after is not None:
                outcome = self._leave(text, leaves_after)
            else:
                written = self._read(text) if chance.random() < 0.5 else self._ask(text)
                outcome = "right" if written == self._expected[text] else "another text"
        except Refused as error:
            outcome = f"{error.status} {error.code}"
        except (OSError, Broken) as error:
            outcome = f"broken: {error!r}"
        _note(self.tally, outcome, ("right", "left"))

    def _ask(self, text: str) -> str:
        answer = self._client.call("POST", self._dialect.path, self._bodies[text])
        if answer.status != 200:
            raise Refused(answer.status, answer.data)
        self.tally.n_tokens += N_TOKENS
        return self._dialect.text(answer.data)

    def _read(self, text: str) -> str:
        parts: list[str] = []
        for event in self._client.stream(self._dialect.path, self._bodies[text]):
            if event.name == "error" or "error" in event.data:
                return f"error event: {event.data}"
            if event.name in ("delta", "message"):
                delta = self._dialect.delta(event.data)
                if delta and not parts:
                    self.tally.ttft_ms.append(event.at_ms)
                parts.append(delta)
        return "".join(parts)

    def _leave(self, text: str, after: int) -> str:
        with contextlib.closing(
            self._client.stream(self._dialect.path, self._bodies[text])
        ) as events:
            for _ in itertools.islice(events, after):
                pass
        return "left"


class Librarian:
    """Pushes, reads and deletes documents, and waits for what it pushed to be indexed."""

    def __init__(self, target: Target, number: int) -> None:
        self.tally = Tally()
        self._number = number
        self._client = Client(target, program=f"load-documents-{number}")
        self._client.call("PUT", "/v1/consent", {"global": "on"})

    def close(self) -> None:
        self._client.close()

    def do(self, number: int) -> None:
        chance = random.Random(number)
        document = f"load-{self._number}-{chance.randrange(N_DOCUMENTS)}"
        act = chance.choices(("push", "read", "list", "delete"), (6, 2, 1, 1))[0]
        try:
            outcome = self._act(act, document, number)
        except (OSError, Broken) as error:
            outcome = f"broken: {error!r}"
        _note(self.tally, f"{act}: {outcome}", FILED)

    def _act(self, act: str, document: str, number: int) -> str:
        path = f"/v1/documents/{document}"
        if act == "push":
            return self._push(path, number)
        method = "DELETE" if act == "delete" else "GET"
        answer = self._client.call(method, "/v1/documents" if act == "list" else path)
        return str(answer.status)

    def _push(self, path: str, number: int) -> str:
        # With consent: what was deleted does not come back without it.
        body = {"text": page(number), "revision": time.monotonic_ns(), "consent": True}
        pushed = self._client.call("PUT", path, body)
        if pushed.status != 202:
            return f"{pushed.status} {pushed.data['error']['code']}"
        give_up_at = time.monotonic() + JOB_TIMEOUT_S
        while time.monotonic() < give_up_at:
            job = self._client.call("GET", path).data.get("job")
            if job is None or job["finished_at"] is not None:
                return _ending(job)
            time.sleep(0.05)
        return "not indexed in time"


def _ending(job: dict[str, Any] | None) -> str:
    """How a job ended, with the error's code if it failed."""
    if job is None:
        return "None"
    return f"failed: {job['error_code']}" if job["state"] == "failed" else str(job["state"])


class Dictator:
    """Says a sentence over `WS /v1/dictation`, faster than anybody could, and waits for the end.

    What is recognised is nobody's business here (`benchmarks.dictation` asks that), only that every session begins,
    hears an utterance and ends. Without espeak-ng it is noise, in which nothing has to be heard.
    """

    def __init__(self, target: Target, number: int) -> None:
        self.tally = Tally()
        self._spoken = [] if espeak.is_missing() else [_said(sentence) for sentence in SENTENCES]
        self._target = target
        self._number = number

    def close(self) -> None:
        """Each session had a connection of its own."""

    def do(self, number: int) -> None:
        chance = random.Random(number)
        leaves = chance.random() < LEAVE_SHARE
        try:
            outcome = self.dictate(number, leaves=leaves)
        except (OSError, WebSocketException) as error:
            outcome = f"broken: {error!r}"
        _note(self.tally, outcome, ("left", "ended"))

    def dictate(self, number: int, *, leaves: bool) -> str:
        """One session; returns "ended", "left", or what else came."""
        url = f"ws://{self._target.host}:{self._target.port}/v1/dictation"
        headers = {"Authorization": f"Bearer {self._target.token}"}
        with connect(url, additional_headers=headers, open_timeout=JOB_TIMEOUT_S) as socket:
            socket.send(json.dumps({"type": "start", "rate": NOISE_RATE}))
            for burst in self._sound(number):  # it is ready once it has heard something
                socket.send(burst)
            if leaves:
                return "left"
            socket.send(json.dumps({"type": "stop"}))
            while True:
                event = json.loads(socket.recv(JOB_TIMEOUT_S))
                if event["type"] == "error":
                    return f"error {event['error']['code']}"
                if event["type"] == "ended":
                    is_heard = event["figures"]["n_utterances"] or not self._spoken
                    return "ended" if is_heard else "heard nothing"

    def _sound(self, number: int) -> Iterator[bytes]:
        if not self._spoken:
            yield from _noise(number)
            return
        pcm = self._spoken[number % len(self._spoken)]
        for at in range(0, len(pcm), BURST_BYTES):
            yield pcm[at : at + BURST_BYTES]


def _said(sentence: str) -> bytes:
    """s16le at NOISE_RATE, with the silence that ends an utterance."""
    assert espeak.RATE == NOISE_RATE
    return espeak.speak(sentence).pcm.astype("<i2").tobytes() + bytes(2 * NOISE_RATE)


def _noise(number: int) -> Iterator[bytes]:
    """Half a second of noise, half of silence, twice: s16le at NOISE_RATE."""
    n_samples = NOISE_RATE // 2
    for seed in range(2):
        noise = np.random.default_rng(number + seed).integers(-9000, 9000, n_samples, "<i2")
        yield noise.tobytes()
        yield bytes(2 * n_samples)


def page(number: int) -> str:
    """A document of some paragraphs, a part of which is in others too."""
    chance = random.Random(number)
    sentences = [f"{chance.choice(TEXTS)}{chance.randrange(40)} years went by." for _ in range(24)]
    return "\n\n".join(" ".join(sentences[start : start + 4]) for start in range(0, 24, 4))


Make = Callable[[Target, int], Traffic]

KINDS: dict[str, Make] = {
    "mixed": Worker,  # every task of the native dialect, three in ten cancelled in every way
    "documents": Librarian,
    "dictation": Dictator,
    **{name: partial(CheckedClient, dialect=dialect) for name, dialect in DIALECTS.items()},
}
DEFAULT_MIX = {"mixed": 7, "native": 3, "llama": 2, "openai": 1, "documents": 2, "dictation": 1}


def is_served(target: Target, kind: str) -> bool:
    """Whether the daemon knows what clients of this kind ask for."""
    if kind == "dictation":
        with contextlib.suppress(OSError, WebSocketException):
            return Dictator(target, 0).dictate(0, leaves=False) == "ended"
        return False
    dialect = DIALECTS.get(kind)
    if dialect is None:
        return True
    with Client(target) as client:
        return client.call("POST", dialect.path, dialect.body(client, TEXTS[0])).status != 404


def _note(tally: Tally, outcome: str, right: tuple[str, ...]) -> None:
    tally.outcomes[outcome] += 1
    if outcome not in right:
        tally.wrong[outcome] += 1
    tally.n_done += 1
