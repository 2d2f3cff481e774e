"""Writing without a daemon: the model is loaded into this process for one call.

Bodies, defaults and errors are the API's own, so that a result does not depend on who did the work.
"""

from __future__ import annotations

import gc
import queue
import secrets
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from daemon.client import fault
from daemon.errors import DaemonError, LoadFailed
from daemon.lifecycle import build_runtime, harden_process, settle_memory
from daemon.log_ids import LogIds
from daemon.trace import Trace
from daemon.writing import Body, Finished, Piece, Task, Waiting, WritingEvent

if TYPE_CHECKING:
    from daemon.config import Loaded
    from pushkin_runtime.types import Event, GenerationRequest

_LOOK_S = 0.5
_CLOSE_S = 3.0
_REQUEST_ID = "local"


class LocalWriter:
    """Owns a runtime for the length of a `with` block; used from one thread."""

    def __init__(self, loaded: Loaded, trace_file: Path | None = None) -> None:
        """trace_file: gets what ran when, at the end; see `daemon.trace`."""
        ids = LogIds(
            secrets.token_bytes()
        )  # nothing is logged that an id would have to be found by
        self._trace = None if trace_file is None else Trace(trace_file, ids)
        self._runtime = build_runtime(loaded)
        if self._trace is not None:
            self._runtime.observe(self._trace)

    def __enter__(self) -> LocalWriter:
        harden_process()
        gc.disable()
        self._runtime.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._runtime.close(drain_s=_CLOSE_S)
        if self._trace is not None:
            self._trace.write()

    def write(self, task: Task, body: Body) -> Iterator[WritingEvent]:
        """Yield the events of one generation; closing the iterator cancels it."""
        request = _request(task, body)  # imports the API while the model loads on its own thread
        yield Waiting("loading the model")
        self._await_ready()
        events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        try:
            handle = self._runtime.submit(request, events.put)
        except Exception as error:
            raise _translate(error) from error
        try:
            yield from _until_done(events)
        finally:
            handle.cancel()

    def _await_ready(self) -> None:
        while not self._runtime.wait_loaded(_LOOK_S):
            pass  # short waits, so that Ctrl-C is heard everywhere
        status = self._runtime.status()
        settle_memory()
        if status.state != "ready":
            raise LoadFailed(status.error or "The model could not be loaded.")


def _until_done(events: queue.SimpleQueue[Event]) -> Iterator[WritingEvent]:
    from api.answers import generation_answer
    from pushkin_runtime.types import Delta, Done, Failed, Progress

    while True:
        event = events.get()
        match event:
            case Delta(index, text):
                yield Piece(index, text)
            case Progress():
                yield Waiting("reading the text")
            case Done(result):
                yield Finished(dict(generation_answer(result)))
                return
            case Failed(error):
                raise _translate(error) from error


def _request(task: Task, body: Body) -> GenerationRequest:
    from pydantic import ValidationError

    from api.schemas import ContinueBody, RephraseBody, StoryBody

    bodies: dict[Task, type[ContinueBody | RephraseBody | StoryBody]]
    bodies = {"continue": ContinueBody, "rephrase": RephraseBody, "story": StoryBody}
    try:
        return bodies[task].model_validate(body).to_request(_REQUEST_ID)
    except ValidationError as error:
        # Brings in the web framework, so only when there is something to say.
        from api.validation import refusal

        findings = [{**finding, "loc": ("body", *finding["loc"])} for finding in error.errors()]
        raise _translate(refusal(findings)) from None


def _translate(error: Exception) -> DaemonError:
    from api.errors import as_api_error

    answer = as_api_error(error)
    return fault(dict(answer.body(_REQUEST_ID)["error"]), status=answer.status_code)
