"""Events of a dictation as JSON: on its WebSocket, and as `dictation` events on `/v1/events`.

Times are seconds since the session began, from counted samples at 16 kHz, which `samples` gives exactly.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NotRequired

from typing_extensions import TypedDict

from api.errors import ErrorDetail, as_api_error
from audio.dictation import MicrophoneState
from audio.events import (
    CommandHeard,
    Commit,
    DeviceChanged,
    DictationEvent,
    Dropped,
    Ended,
    Failed,
    Final,
    Level,
    Partial,
    Ready,
    Voice,
)
from audio.pcm import SAMPLE_RATE


class TextChangeAnswer(TypedDict):
    """Replace `length_utf16` at `start_utf16`, counted from the start of `before`, by `text`."""

    start_utf16: int
    length_utf16: int
    text: str


class DictationEventAnswer(TypedDict):
    """One event; which of the fields it has depends on `type`.

    ready · vad {speech} · level {dbfs} · partial {text, stable_chars, rev} (a preview, never for the document) ·
    commit {text} (to be appended verbatim) · command {id, name, arguments, confidence, needs_confirmation, edit} ·
    dropped {ms} · final {text, kind, withheld} (the utterance is over) · device {state, name} · error {error} ·
    ended {reason, figures} (the last one).
    """

    type: str
    session: int
    t: NotRequired[float]
    t0: NotRequired[float]
    t1: NotRequired[float]
    samples: NotRequired[list[int]]
    utterance: NotRequired[int]
    speech: NotRequired[bool]
    dbfs: NotRequired[float]
    text: NotRequired[str]
    stable_chars: NotRequired[int]
    rev: NotRequired[int]
    kind: NotRequired[str]
    withheld: NotRequired[bool]
    id: NotRequired[int]
    name: NotRequired[str]
    arguments: NotRequired[dict[str, str | int | bool]]
    confidence: NotRequired[float]
    needs_confirmation: NotRequired[bool]
    edit: NotRequired[TextChangeAnswer | None]
    ms: NotRequired[float]
    state: NotRequired[str]
    error: NotRequired[ErrorDetail]
    reason: NotRequired[str]
    figures: NotRequired[dict[str, int | float]]


class MicrophoneAnswer(TypedDict):
    """The daemon's own microphone. state: off, arming (wait), listening, hearing (speech) or error."""

    state: str
    session: int | None
    device: str
    problem: str | None


def dictation_event(session: int, event: DictationEvent, request_id: str) -> DictationEventAnswer:
    """The JSON of an event."""
    if isinstance(event, Failed):
        rest: Any = as_api_error(event.error).body(request_id)
    else:
        tell = _REST.get(type(event))
        rest = tell(event) if tell else {}
    answer: Any = {"type": _TYPES[type(event)], "session": session, **_where(event), **rest}
    made: DictationEventAnswer = answer
    return made


def microphone_answer(state: MicrophoneState) -> MicrophoneAnswer:
    """The answer of `POST /v1/dictation`."""
    return {
        "state": state.state,
        "session": state.session,
        "device": state.device,
        "problem": state.problem,
    }


def _where(event: DictationEvent) -> dict[str, Any]:
    if isinstance(event, Partial | Commit | CommandHeard | Final):
        span = (event.start, event.end)
        t0, t1 = (round(sample / SAMPLE_RATE, 4) for sample in span)
        return {"utterance": event.utterance, "t0": t0, "t1": t1, "samples": list(span)}
    return {"t": round(event.at / SAMPLE_RATE, 4)}


def _command(event: CommandHeard) -> dict[str, Any]:
    edit: TextChangeAnswer | None = None
    if event.edit is not None:
        edit = {
            "start_utf16": event.edit.start_utf16,
            "length_utf16": event.edit.length_utf16,
            "text": event.edit.text,
        }
    return {
        "id": event.id,
        "name": event.name,
        "arguments": dict(event.arguments),
        "confidence": round(event.confidence, 4),
        "needs_confirmation": event.needs_confirmation,
        "edit": edit,
    }


def _ended(event: Ended) -> dict[str, Any]:
    figures = {name: round(value, 3) for name, value in event.figures.items()}
    return {"reason": event.reason, "figures": figures}


_REST: dict[type, Callable[[Any], dict[str, Any]]] = {
    Voice: lambda e: {"speech": e.is_speech},
    Level: lambda e: {"dbfs": e.dbfs},
    Partial: lambda e: {"text": e.text, "stable_chars": e.stable_utf16, "rev": e.revision},
    Commit: lambda e: {"text": e.text},
    CommandHeard: _command,
    Dropped: lambda e: {"ms": round(1000 * e.n_samples / SAMPLE_RATE, 1)},
    Final: lambda e: {"text": e.text, "kind": e.kind, "withheld": e.withheld},
    DeviceChanged: lambda e: {"state": e.state, "name": e.name},
    Ended: _ended,
}
_TYPES: dict[type, str] = {
    Ready: "ready",
    Voice: "vad",
    Level: "level",
    Partial: "partial",
    Commit: "commit",
    CommandHeard: "command",
    Dropped: "dropped",
    Final: "final",
    DeviceChanged: "device",
    Failed: "error",
    Ended: "ended",
}
