"""The recogniser of the product: the runtime's speech encoder, and the language model that reads what it heard."""

from __future__ import annotations

import queue
import uuid
from collections.abc import Callable
from concurrent.futures import Future
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from audio.command_phrases import closed_phrases
from audio.pcm import SAMPLE_RATE
from audio.phrase_match import Phrasebooks, PhraseMatch
from audio.recognizer import Hypothesis, Recognition
from pushkin_runtime.errors import EngineFailed
from pushkin_runtime.speech_types import SpeechInfo, SpeechRows
from pushkin_runtime.types import (
    Control,
    Done,
    Event,
    EventSink,
    Failed,
    GenerationRequest,
    GenerationResult,
)

T = TypeVar("T")

_LOOK_S = 0.05
_DEADLINE_S = 60.0
_LOAD_S = 120.0
_MAX_PHRASE_S = 6.0  # what takes longer to say is no command
_TAIL = np.zeros(int(0.3 * SAMPLE_RATE), np.float32)  # of silence, or the last word is cut off


class SpeechHandle(Protocol):
    """A submitted generation."""

    def cancel(self) -> None: ...


class SpeechRuntime(Protocol):
    """The part of the runtime that recognition uses."""

    def load_speech(self) -> Future[SpeechInfo]: ...

    def encode_speech(self, samples: NDArray[np.float32]) -> Future[SpeechRows]: ...

    def submit(self, request: GenerationRequest, sink: EventSink) -> SpeechHandle: ...


class RuntimeRecognizer:
    """Used on the threads of sessions; the work is done on the inference thread."""

    def __init__(self, runtime: SpeechRuntime) -> None:
        self._runtime = runtime
        self._books = Phrasebooks(closed_phrases())

    def prepare(self) -> SpeechInfo:
        """Load the speech model. Raises NotReady, CapabilityMissing when none is installed, ModelError."""
        return self._runtime.load_speech().result(_LOAD_S)

    def recognize(self, wanted: Recognition, is_cancelled: Callable[[], bool]) -> Hypothesis:
        """Encode and decode, greedily. Raises a RuntimeFault."""
        audio = np.concatenate((wanted.audio, _TAIL)) if wanted.is_final else wanted.audio
        rows = _awaited(self._runtime.encode_speech(audio), is_cancelled)
        result = None if rows is None else self._decoded(wanted, rows, is_cancelled)
        if rows is None or result is None or result.speech is None:
            return Hypothesis(kind="none", text="", p_command=0.0, n_tokens=0)
        return Hypothesis(
            kind=result.speech.kind,
            text=result.choices[0].text,
            p_command=result.speech.probabilities[1],
            n_tokens=result.usage.completion_tokens,
            words=rows.words,
            phrase=self._phrase(rows, wanted.languages),
            limits=rows.limits,
        )

    def _phrase(self, rows: SpeechRows, languages: tuple[str, ...]) -> PhraseMatch | None:
        """The likeliest spoken command, on the calling thread: a few milliseconds for a second of speech."""
        if rows.scores is None or rows.n_samples > _MAX_PHRASE_S * SAMPLE_RATE:
            return None
        return self._books.match(rows.pieces, rows.scores, languages)

    def _decoded(
        self, wanted: Recognition, rows: SpeechRows, is_cancelled: Callable[[], bool]
    ) -> GenerationResult | None:
        """The model's answer; None once nobody wants it."""
        request = GenerationRequest(
            request_id=f"dictate_{uuid.uuid4().hex[:24]}",
            task="dictate",
            text=wanted.before,
            after=wanted.after,
            speech=rows,
            max_tokens=wanted.max_tokens,
            control=Control(language=wanted.languages[0] if len(wanted.languages) == 1 else None),
            deadline_ms=int(1000 * _DEADLINE_S),
        )
        events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        handle = self._runtime.submit(request, events.put)
        try:
            return _result(events, is_cancelled)
        finally:
            handle.cancel()


def _result(
    events: queue.SimpleQueue[Event], is_cancelled: Callable[[], bool]
) -> GenerationResult | None:
    while not is_cancelled():
        try:
            event = events.get(timeout=_LOOK_S)
        except queue.Empty:
            continue
        if isinstance(event, Failed):
            raise event.error
        if isinstance(event, Done):
            return event.result
    return None


def _awaited(future: Future[T], is_cancelled: Callable[[], bool]) -> T | None:
    for _ in range(int(_DEADLINE_S / _LOOK_S)):
        try:
            return future.result(_LOOK_S)
        except TimeoutError:
            if is_cancelled():
                future.cancel()
                return None
    raise EngineFailed(f"the speech encoder gave no answer in {_DEADLINE_S:g} s")
