"""From a checked configuration to a serving process and back: the one place that ties the knots."""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import logging
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Protocol

from daemon import __version__
from daemon.auth_token import ensure_token
from daemon.config import Loaded
from daemon.dictation import build_dictation, build_recognizer
from daemon.editor_port import with_editor_port
from daemon.egress import forbid_outbound
from daemon.errors import DaemonError, LoadFailed
from daemon.guardian import Guardian
from daemon.instance import (
    Endpoint,
    InstanceLock,
    publish_endpoint,
    record_refusal,
    withdraw_endpoint,
)
from daemon.log_ids import LogIds, ensure_log_key
from daemon.logs import start_logging, stop_logging
from daemon.paths import Paths, prepare
from daemon.runtime_options import runtime_options
from daemon.server import Hooks, run_server
from daemon.sockets import Listeners, inherit_from_launchd, open_loopback, turn_away
from daemon.unix_socket import open_unix
from daemon.watchdog import Watchdog, end_dead

if TYPE_CHECKING:
    from fastapi import FastAPI

    from api.event_hub import EventHub
    from audio.dictation import Dictation
    from audio.recognizer import Recognizer
    from daemon.trace import Trace
    from indexer.embedding_desk import EmbeddingDesk
    from indexer.records import IndexEvent
    from indexer.service import DocumentIndex
    from pushkin_runtime.runtime import Runtime
    from usage.desk import UsageDesk

log = logging.getLogger(__name__)

_LOG_LIMIT = 1_000_000  # of files that nobody rotates
_N_FILES = 4096  # macOS gives a terminal's programs 256, fewer than there may be connections
_DICTATION_CLOSE_S = 1.0
_INDEX_CLOSE_S = 1.0  # the batch in hand; what is cut off there is done again


class Announcer(Protocol):
    """Tells the person or the script that started the daemon; called on the main thread."""

    def listening(self, listeners: Listeners) -> None:
        """The sockets are open, the model is loading."""

    def ready(self, endpoint: Endpoint, token: str | None, token_file: Path) -> None:
        """The model answers. token: None when the daemon runs without authentication."""

    def stopping(self) -> None:
        """No new work is taken; also called when the model could not be loaded."""


def settle_memory() -> None:
    """Turn the garbage collector on again after a start without it: looking through the 200,000 objects of the
    imports, which live for ever, costs a sixth of the start, and later a pause in the middle of a word."""
    gc.freeze()
    gc.enable()


def build_runtime(loaded: Loaded) -> Runtime:
    """Return the runtime of this configuration, not yet started; what its engine imports is imported.

    Two threads that import share one interpreter lock and take longer than one (measured: 2.9 s against 2.5 s).
    """
    from pushkin_runtime.engines.registry import choose_engine, import_engine
    from pushkin_runtime.errors import RuntimeFault
    from pushkin_runtime.runtime import Runtime

    options = runtime_options(loaded)
    try:
        runtime = Runtime(options)
    except RuntimeFault as error:
        raise LoadFailed(str(error)) from error
    with contextlib.suppress(RuntimeFault):  # loading finds it again and says so
        import_engine(choose_engine(options.engine), options.model_dir)
    return runtime


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """What `serve` needs. under_launchd: refusals exit 0, so that launchd does not retry for ever.

    build_recognizer: what turns speech into words. trace_file: see `daemon.trace`; written at the end and at every SIGUSR2.
    """

    loaded: Loaded
    announcer: Announcer
    under_launchd: bool = False
    build: Callable[[Loaded], Runtime] = build_runtime
    build_recognizer: Callable[[Runtime], Recognizer] = build_recognizer
    trace_file: Path | None = None


def serve(serving: Serving) -> None:
    """Run the daemon until it is told to stop; raises DaemonError when it cannot start.

    Never forks: launchd, systemd and a terminal all want the process they started.
    """
    paths = serving.loaded.paths
    signal.signal(signal.SIGTERM, _stop_while_starting)  # until the event loop takes it over
    harden_process()
    forbid_outbound(lambda event: log.warning("outbound refused", extra={"audit_event": event}))
    prepare(paths)
    with InstanceLock(paths.lock_file) as lock, _diagnostics(serving) as faults:
        withdraw_endpoint(paths)
        token = ensure_token(paths.token_file)
        try:
            with _listening(serving) as listeners:
                endpoint = Endpoint(
                    pid=os.getpid(),
                    port=listeners.port,
                    version=__version__,
                    unix_socket=listeners.unix_path,
                    editor_port=listeners.editor_port,
                )
                lock.record(endpoint)
                serving.announcer.listening(listeners)
                _run(serving, listeners, endpoint, token, faults)
        finally:
            withdraw_endpoint(paths)


def refuse_under_launchd(paths: Paths, error: Exception) -> None:
    """Leave word and release launchd's sockets; the caller then exits 0 and launchd lets it be."""
    with contextlib.suppress(DaemonError, OSError):
        prepare(paths)
        record_refusal(paths, str(error))
    with contextlib.suppress(DaemonError):
        inherited = inherit_from_launchd()
        if inherited:
            turn_away(inherited)


def harden_process() -> None:
    """Private files from the first byte, enough of them, and no core dumps: they would hold the user's text."""
    os.umask(0o077)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < _N_FILES:
        n_files = _N_FILES if hard == resource.RLIM_INFINITY else min(_N_FILES, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (n_files, hard))


def _run(
    serving: Serving, listeners: Listeners, endpoint: Endpoint, token: str, faults: IO[bytes]
) -> None:
    started = time.monotonic()
    gc.disable()  # until `settle_memory`
    runtime = serving.build(serving.loaded)
    trace = _start_trace(serving)
    if trace is not None:
        runtime.observe(trace)  # the loading of the default adapters too
    runtime.start()  # reads the model on its own thread while the web application is built here
    edge = build_edge(serving, runtime, listeners.port, trace)
    paths = serving.loaded.paths
    failures: list[str] = []
    patience = serving.loaded.config.runtime
    watchdog = Watchdog(
        runtime,
        grace_s=patience.restart_after_s,
        end=lambda: end_dead(faults),
        guard=lambda: Guardian(patience.stall_limit_s + patience.restart_after_s),
    )

    def ready() -> None:
        settle_memory()
        watchdog.start()
        publish_endpoint(paths, endpoint)
        edge.usage.start()
        edge.index.start()  # after the model: nobody waits for documents
        _condition(runtime, serving.loaded, edge.index)
        log.info("start finished", extra={"start_ms": round((time.monotonic() - started) * 1000)})
        shown = token if serving.loaded.config.server.auth else None
        serving.announcer.ready(endpoint, shown, paths.token_file)

    def failed(reason: str) -> bool:
        # Under launchd a daemon that stays and says why beats one that is restarted for ever.
        settle_memory()
        failures.append(reason)
        return not serving.under_launchd

    def stopping() -> None:
        watchdog.stop()
        edge.events.close()
        serving.announcer.stopping()

    app = with_editor_port(edge.app, listeners.editor_port)
    run_server(app, listeners.all, runtime, Hooks(ready, failed, stopping))
    edge.embeddings.close()
    edge.dictation.close(_DICTATION_CLOSE_S)
    edge.usage.close()
    edge.index.close(_INDEX_CLOSE_S)
    if trace is not None:
        trace.write()
    if failures and not serving.under_launchd:
        raise LoadFailed(failures[0])


@dataclass(frozen=True, slots=True)
class Edge:
    """The web application and what it was built around that needs starting or closing."""

    app: FastAPI
    index: DocumentIndex
    events: EventHub
    embeddings: EmbeddingDesk
    usage: UsageDesk
    dictation: Dictation


def build_edge(serving: Serving, runtime: Runtime, port: int, trace: Trace | None = None) -> Edge:
    """Return the application that answers on `port`; nothing is started."""
    from api.app import create_app
    from api.document_answers import index_event
    from api.event_hub import EventHub
    from api.metrics.instruments import Metrics
    from api.metrics.observer import GenerationEnds
    from api.pairing import Pairing
    from api.services import Services, loopback_hosts
    from daemon.index import build_embedding_desk, build_index
    from daemon.paired_clients import PairedClients
    from daemon.token_files import TokenFiles
    from pushkin_runtime.observer import Unobserved
    from usage.desk import UsageDesk

    loaded, events, metrics = serving.loaded, EventHub(), Metrics()
    usage = UsageDesk(loaded.paths.usage_file)
    runtime.observe(GenerationEnds(metrics, usage, beyond=trace or Unobserved()))

    def heard(event: IndexEvent) -> None:
        metrics.index.heard(event)
        if trace is not None:
            trace.index_heard(event)
        events.publish("index", index_event(event))
        if event.kind in ("deleted", "consent"):
            runtime.forget_personas()

    def pairing_ended(offer_id: str, how: str, client: str | None) -> None:
        events.publish("pairing", {"id": offer_id, "state": how, "client": client})

    index = build_index(
        loaded,
        is_busy=lambda: runtime.status().n_active + runtime.status().n_queued > 0,
        sink=heard,
    )
    embeddings = build_embedding_desk(loaded)
    dictation = build_dictation(loaded, events, lambda: serving.build_recognizer(runtime))
    app = create_app(
        Services(
            runtime=runtime,
            tokens=TokenFiles(loaded.paths),
            # The shipped editor knows no token: it may write, and change nothing.
            without_token=None if loaded.config.server.auth else "editor",
            allowed_hosts=loopback_hosts(port),
            version=__version__,
            started_at=time.time(),
            index=index,
            events=events,
            pairing=Pairing(PairedClients(loaded.paths.clients), pairing_ended),
            metrics=metrics,
            usage=usage,
            trace=trace,
            embedder=embeddings,
            dictation=dictation,
        )
    )
    return Edge(app, index, events, embeddings, usage, dictation)


def _condition(runtime: Runtime, loaded: Loaded, index: DocumentIndex) -> None:
    """Have answers sound like the user, where the model has what that needs; without it they do not."""
    from daemon.index import build_personas
    from indexer.errors import EmbeddingFailed, PersonaUnavailable

    try:
        personas = build_personas(loaded, index) if loaded.config.persona.persona else None
    except (EmbeddingFailed, PersonaUnavailable, OSError) as error:
        log.warning("no personas", extra={"error_type": type(error).__name__})
        return
    if personas is not None:
        runtime.use_personas(personas)


def _start_trace(serving: Serving) -> Trace | None:
    from daemon.trace import Trace

    if serving.trace_file is None:
        return None
    ids = LogIds(ensure_log_key(serving.loaded.paths.log_key_file))
    trace = Trace(serving.trace_file, ids)
    signal.signal(signal.SIGUSR2, lambda _number, _frame: trace.write_aside())
    return trace


def _stop_while_starting(_: int, __: object) -> None:
    raise SystemExit(0)


@contextlib.contextmanager
def _listening(serving: Serving) -> Iterator[Listeners]:
    """The sockets, open for the length of the block."""
    server = serving.loaded.config.server
    unix_path = serving.loaded.paths.unix_socket(server.unix_socket)
    with contextlib.ExitStack() as stack:
        inherited = inherit_from_launchd() if serving.under_launchd else None
        listeners = inherited or open_loopback(server.port)
        stack.callback(listeners.close)
        if unix_path is not None:
            unix_socket = stack.enter_context(open_unix(unix_path))
            listeners = replace(listeners, unix_socket=unix_socket)
        if server.editor_port:
            # An editor that is made to wait for an answer gives up, one that is refused asks again.
            editor = open_loopback(server.editor_port, backlog=None)
            stack.callback(editor.close)
            listeners = replace(listeners, editor=editor)
        yield listeners


@contextlib.contextmanager
def _diagnostics(serving: Serving) -> Iterator[IO[bytes]]:
    """Log to files for the life of the daemon: events, and the stacks of a native crash, whose file is given."""
    paths, level = serving.loaded.paths, serving.loaded.config.log.log_level
    if serving.under_launchd:
        _bound_log(sys.stderr.fileno())  # launchd's error log
    ids = LogIds(ensure_log_key(paths.log_key_file))
    handler = start_logging(paths.log_file, level, ids)
    with paths.faults_file.open("ab") as faults:
        _bound_log(faults.fileno())
        faulthandler.enable(faults)
        try:
            yield faults
        finally:
            faulthandler.disable()
            stop_logging(handler)


def _bound_log(descriptor: int) -> None:
    """Empty a log that has grown and that nobody rotates."""
    with contextlib.suppress(OSError):
        if os.fstat(descriptor).st_size > _LOG_LIMIT:
            os.ftruncate(descriptor, 0)
