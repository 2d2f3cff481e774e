"""What the routes need from the rest of the daemon, as one frozen object reached through `ServicesDep`."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Annotated, Protocol, cast

from fastapi import Depends, Request

from api.event_hub import EventHub
from api.metrics.instruments import HttpRequest, Metrics
from api.pairing import Pairing
from api.scopes import TokenScope
from api.tokens import TokenSource
from audio.dictation import Dictation
from audio.errors import SpeechUnavailable
from indexer.embedding_desk import Embedded
from indexer.errors import IndexClosed
from indexer.service import DocumentIndex
from pushkin_runtime.tokenizer import TextTokenizer
from pushkin_runtime.types import (
    AdapterRef,
    AdapterStatus,
    EventSink,
    GenerationRequest,
    Health,
    RuntimeStatus,
    Task,
)
from usage.desk import UsageDesk
from usage.errors import UsageClosed


class GenerationHandle(Protocol):
    """One submitted generation."""

    @property
    def request_id(self) -> str: ...

    def cancel(self) -> None:
        """Ask the generation to end: idempotent, from any thread, never blocks."""


class GenerationRuntime(Protocol):
    """The part of the runtime that the edge uses; every method may be called on the event loop."""

    def submit(self, request: GenerationRequest, sink: EventSink) -> GenerationHandle:
        """Queue a request; events reach `sink` on the inference thread.

        Raises RuntimeFault or AdapterError subclasses for what is refused outright.
        """

    def cancel(self, request_id: str) -> bool:
        """Cancel by id; True if that request was queued or running."""

    def adapters(self) -> Future[list[AdapterStatus]]:
        """Every installed adapter. Raises NotReady or Draining."""

    def default_adapters(self, task: Task) -> tuple[AdapterRef, ...]:
        """What a request that names none gets. Raises NotReady, Draining or AdapterError."""

    def load_adapter(self, name: str, *, pinned: bool) -> Future[AdapterStatus]:
        """Bring an adapter into memory. Raises AdapterError or RuntimeFault, now or from the future."""

    def unload_adapter(self, name: str) -> Future[AdapterStatus]:
        """Give back an adapter's memory. Raises as `load_adapter` does."""

    def tokenizer(self) -> TextTokenizer:
        """The loaded model's. Raises NotReady or Draining."""

    def wake(self) -> Future[None]:
        """Have a model that was unloaded loaded again; done when that has ended, or when there is nothing to do."""

    def status(self) -> RuntimeStatus: ...

    def health(self) -> Health: ...


class TextEmbedder(Protocol):
    """Texts → vectors for clients that ask; keeps nothing, so it needs no consent. name: what clients call it."""

    name: str

    def embed(self, texts: Sequence[str]) -> Future[Embedded]:
        """One vector per text, in order; returns at once. Raises IndexerError, now or from the future."""


@dataclass(slots=True)
class LoraChoice:
    """What the last `POST /lora-adapters` chose for requests without `lora`, until the daemon ends.

    None leaves it to the daemon, () is the bare base model. Read and written on the event loop.
    """

    chosen: tuple[AdapterRef, ...] | None = None


class RequestTrace(Protocol):
    """Whoever draws requests as spans."""

    def http_ended(self, request: HttpRequest) -> None:
        """A request ended just now; on the event loop, must not block."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiLimits:
    """Bounds of the transport; bounds of single fields are in `schemas.py`, where OpenAPI shows them.

    max_body_bytes: a JSON body, counted also while a chunked one arrives.
    max_document_bytes: the same for `PUT /v1/documents/{id}`, JSON or a form.
    max_audio_bytes: the same for a recording; OpenAI's limit of 25 MB, and the form around it.
    body_timeout_s: from the headers to the last byte of the body.
    ping_interval_s: an SSE comment is sent after this long without an event.
    max_open_requests, max_open_body_bytes: under way at once; see `admission.py`.
    send_timeout_s: a client that reads nothing of its answer for so long is left.
    wrong_token_pause_s: how long a refusal waits when there are many, see `api/brake.py`.
    """

    max_body_bytes: int = 4 * 1024 * 1024
    max_document_bytes: int = 52 * 1024 * 1024
    max_audio_bytes: int = 26 * 1024 * 1024
    body_timeout_s: float = 10.0
    ping_interval_s: float = 15.0
    max_open_requests: int = 256
    max_open_body_bytes: int = 256 * 1024 * 1024
    send_timeout_s: float = 60.0
    wrong_token_pause_s: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """Everything `create_app` needs.

    tokens: those that are valid. without_token: the scope of requests that carry none of them (`--no-auth`);
    None refuses them. The other guards always stay on. pairing: None where no client can be remembered.
    allowed_hosts: exact lower-case values of the Host header, see `loopback_hosts`.
    started_at: Unix time in seconds.
    index: the user's documents; None where there is none to speak of. events: closed when the daemon stops.
    dictation: sessions and the microphone; None where there are none.
    metrics: fed by the runtime's observer and by the edge. usage: statistics, likewise, if the user agrees.
    trace: told of requests while one is taken.
    embedder: of the index, but its own and for anybody's texts.
    """

    runtime: GenerationRuntime
    tokens: TokenSource
    allowed_hosts: frozenset[str]
    version: str
    started_at: float
    limits: ApiLimits = field(default_factory=ApiLimits)
    index: DocumentIndex | None = None
    events: EventHub = field(default_factory=EventHub)
    metrics: Metrics = field(default_factory=Metrics)
    usage: UsageDesk | None = None
    trace: RequestTrace | None = None
    embedder: TextEmbedder | None = None
    without_token: TokenScope | None = None
    lora: LoraChoice = field(default_factory=LoraChoice)
    pairing: Pairing | None = None
    dictation: Dictation | None = None

    def require_dictation(self) -> Dictation:
        """Dictation. Raises SpeechUnavailable where there is none to speak of."""
        if self.dictation is None:
            raise SpeechUnavailable("This daemon runs without dictation.")
        return self.dictation

    def __post_init__(self) -> None:
        if not self.allowed_hosts:
            raise ValueError("allowed_hosts: expected at least one host, got none")


def loopback_hosts(port: int) -> frozenset[str]:
    """The Host values of a daemon that listens on the loopback interface at `port`."""
    return frozenset(f"{name}:{port}" for name in ("127.0.0.1", "localhost", "[::1]"))


async def _services(request: Request) -> Services:
    return cast("Services", request.app.state.services)


async def _request_id(request: Request) -> str:
    return cast("str", request.state.request_id)


async def _index(request: Request) -> DocumentIndex:
    index = cast("Services", request.app.state.services).index
    if index is None:
        raise IndexClosed("This daemon runs without an index of documents.")
    return index


async def _dictation(request: Request) -> Dictation:
    return cast("Services", request.app.state.services).require_dictation()


async def _usage(request: Request) -> UsageDesk:
    usage = cast("Services", request.app.state.services).usage
    if usage is None:
        raise UsageClosed("This daemon keeps no usage statistics.")
    return usage


ServicesDep = Annotated[Services, Depends(_services)]
RequestIdDep = Annotated[str, Depends(_request_id)]
IndexDep = Annotated[DocumentIndex, Depends(_index)]
DictationDep = Annotated[Dictation, Depends(_dictation)]
UsageDep = Annotated[UsageDesk, Depends(_usage)]
