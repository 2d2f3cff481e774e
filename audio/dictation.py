"""Dictation for the whole daemon: sessions of clients, the daemon's own microphone, recordings. One object, owned by it.

What takes time (loading, opening a device) happens on one thread, so that a key, a menu and a command line
that all switch dictation are heard one after another. Callers get futures.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Literal, TypeVar

from audio.capture import CaptureHooks, CaptureOptions, Microphone
from audio.devices import Device, list_devices, refresh
from audio.errors import DictationBusy, DictationClosed
from audio.events import DeviceChanged, DictationEvent, Ended, EventSink, Failed, Ready, Voice
from audio.files import Segment, Transcript, Transcription, transcribe
from audio.pcm import PcmFormat
from audio.ring import Ring
from audio.session import DictationSession, Hearing, SessionOptions

log = logging.getLogger("pushkin.audio")

MAX_SESSIONS = 4
MAX_TRANSCRIPTIONS = 4  # the waiting ones included
_AT_ONCE = 2
_RING_S = 10.0

T = TypeVar("T")

Action = Literal["on", "off", "toggle", "cancel"]
State = Literal["off", "arming", "listening", "hearing", "error"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DictationOptions:
    """device: the microphone's name, None for the default one. is_installed: looks whether there is a speech model."""

    device: str | None = None
    is_installed: Callable[[], bool] = lambda: True


@dataclass(frozen=True, slots=True, kw_only=True)
class MicrophoneState:
    """Of the daemon's own microphone. session: its number; None before the first. problem: after an error."""

    state: State = "off"
    session: int | None = None
    device: str = ""
    problem: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DictationLoad:
    """What is going on. is_loaded: the speech model is in memory. totals: the figures of the `n_ended` sessions,
    summed (`audio.streaming.Counts`)."""

    state: State
    is_installed: bool
    is_loaded: bool
    n_sessions: int
    n_transcriptions: int
    n_ended: int
    totals: Mapping[str, float]


@dataclass(slots=True)
class _Listening:
    """The daemon's own session, and the microphone it hears."""

    number: int
    microphone: Microphone
    session: DictationSession


@dataclass(slots=True)
class _Sessions:
    """The sessions of clients that have not ended."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    running: dict[int, DictationSession] = field(default_factory=dict)
    n_made: int = 0
    n_ended: int = 0
    totals: Counter[str] = field(default_factory=Counter)


class Dictation:
    """Every method may be called on any thread and returns at once."""

    def __init__(
        self,
        make_hearing: Callable[[], Hearing],
        publish: Callable[[int, DictationEvent], None],
        options: DictationOptions | None = None,
    ) -> None:
        """make_hearing: loads what a session hears with; may take its time and raise SpeechUnavailable or a
        RuntimeFault. publish: gets the events of the daemon's own microphone, with the session's number."""
        self._make_hearing = make_hearing
        self._publish = publish
        self._options = options or DictationOptions()
        self._hearing: Hearing | None = None
        self._sessions = _Sessions()
        self._listening: _Listening | None = None
        self._state = MicrophoneState()
        self._is_closed = False
        self._control = ThreadPoolExecutor(1, "dictation")
        self._files = ThreadPoolExecutor(_AT_ONCE, "transcription")
        self._n_files = 0

    @property
    def microphone(self) -> MicrophoneState:
        """How the daemon's own microphone is."""
        return self._state

    def load(self) -> DictationLoad:
        """Look at everything."""
        with self._sessions.lock:
            return DictationLoad(
                state=self._state.state,
                is_installed=self._options.is_installed(),
                is_loaded=self._hearing is not None,
                n_sessions=len(self._sessions.running),
                n_transcriptions=self._n_files,
                n_ended=self._sessions.n_ended,
                totals=dict(self._sessions.totals),
            )

    def open(
        self, options: SessionOptions, form: PcmFormat, sink: EventSink
    ) -> Future[tuple[int, DictationSession]]:
        """Begin a session that its client feeds; its number, and it. Ends with the client's `stop` or `cancel`.

        The future raises DictationBusy, SpeechUnavailable or a RuntimeFault.
        """
        return self._submit(lambda: self._open(options, form, Ring(int(_RING_S * form.rate)), sink))

    def switch(self, action: Action, options: SessionOptions) -> Future[MicrophoneState]:
        """Turn the daemon's own microphone on or off; "cancel" forgets what is being said.

        The future raises AudioError, SpeechUnavailable or a RuntimeFault.
        """
        return self._submit(lambda: self._switch(action, options))

    def deafen(self, is_deaf: bool) -> None:
        """Have the daemon's own microphone hear silence, or hear again: while we speak ourselves."""
        listening = self._listening
        if listening is not None:
            listening.microphone.is_deaf = is_deaf

    def devices(self) -> Future[list[Device]]:
        """The microphones of this machine. The future raises CaptureFailed."""

        def look() -> list[Device]:
            if self._listening is None:
                refresh()
            return list_devices()

        return self._submit(look)

    def transcribe(
        self,
        content: bytes,
        wanted: Transcription,
        heard: Callable[[Segment], None],
        is_cancelled: Callable[[], bool],
    ) -> Future[Transcript]:
        """Recognise a recording; `heard` is called on a thread of its own.

        Raises DictationBusy or DictationClosed, the future AudioError, SpeechUnavailable or a RuntimeFault.
        """
        if self._is_closed:
            raise DictationClosed("dictation is shutting down")
        with self._sessions.lock:
            if self._n_files >= MAX_TRANSCRIPTIONS:
                raise DictationBusy("enough recordings are being transcribed; try again")
            self._n_files += 1
        hearing = self._submit(self._ready_hearing)

        def work() -> Transcript:
            return transcribe(
                content, wanted, hearing.result(), heard, lambda: self._is_closed or is_cancelled()
            )

        future = self._files.submit(work)
        future.add_done_callback(self._file_done)
        return future

    def close(self, timeout_s: float) -> None:
        """End every session; returns within about `timeout_s`."""
        self._is_closed = True
        with self._sessions.lock:
            running = list(self._sessions.running.values())
        for session in running:
            session.cancel()
        closing = threading.Thread(target=self._stop_listening, daemon=True)
        closing.start()
        closing.join(timeout_s)
        for session in running:
            session.join(timeout_s)
        self._control.shutdown(wait=False, cancel_futures=True)
        self._files.shutdown(wait=False, cancel_futures=True)

    def _submit(self, work: Callable[[], T]) -> Future[T]:
        if self._is_closed:
            raise DictationClosed("dictation is shutting down")
        return self._control.submit(work)

    def _file_done(self, _: Future[Transcript]) -> None:
        with self._sessions.lock:
            self._n_files -= 1

    def _ready_hearing(self) -> Hearing:
        if self._hearing is None:
            self._hearing = self._make_hearing()
        return self._hearing

    def _open(
        self, options: SessionOptions, form: PcmFormat, ring: Ring, sink: EventSink
    ) -> tuple[int, DictationSession]:
        hearing = self._ready_hearing()
        with self._sessions.lock:
            if len(self._sessions.running) >= MAX_SESSIONS:
                raise DictationBusy(f"{MAX_SESSIONS} dictations are open already; end one first")
            self._sessions.n_made += 1
            number = self._sessions.n_made

        def heard(event: DictationEvent) -> None:
            if isinstance(event, Ended):
                with self._sessions.lock:
                    self._sessions.running.pop(number, None)
                    self._sessions.n_ended += 1
                    self._sessions.totals.update(event.figures)
                figures = {name: round(value, 3) for name, value in event.figures.items()}
                log.info("dictation ended", extra={"reason": event.reason, **figures})
            sink(event)

        session = DictationSession(options, hearing, form, ring, heard)
        with self._sessions.lock:
            self._sessions.running[number] = session
        session.start()
        return number, session

    def _switch(self, action: Action, options: SessionOptions) -> MicrophoneState:
        is_on = self._listening is not None
        if action == "on" or (action == "toggle" and not is_on):
            if not is_on:
                self._listen(options)
        elif self._listening is not None and action == "cancel":
            self._listening.session.cancel()
            self._stop_listening()
        else:
            self._stop_listening()
        return self._state

    def _listen(self, options: SessionOptions) -> None:
        self._state = replace(self._state, state="arming", problem=None)
        try:
            self._ready_hearing()
            sessions: list[DictationSession] = []
            hooks = CaptureHooks(
                device=lambda state, device: sessions[0].tell_device(state, device.name),
                dropped=lambda _: None,  # the ring tells the session, in its place
                failed=lambda error: sessions[0].fail(error),
            )
            microphone = Microphone(CaptureOptions(device=self._options.device), hooks)
            number, session = self._open(
                replace(options, idle_s=None), microphone.form, microphone.ring, self._hear_own
            )
            sessions.append(session)
            self._state = MicrophoneState(
                state="arming", session=number, device=microphone.device.name
            )
            self._listening = _Listening(number, microphone, session)
            microphone.start()
        except Exception as error:
            self._stop_listening()
            self._state = replace(self._state, state="error", problem=str(error))
            raise

    def _stop_listening(self) -> None:
        listening, self._listening = self._listening, None
        if listening is not None:
            listening.microphone.close()  # ends the ring: the session finishes by itself
            listening.session.stop()
            self._state = replace(self._state, state="off")

    def _hear_own(self, event: DictationEvent) -> None:
        number = self._state.session or 0
        match event:
            case Ready():
                self._state = replace(self._state, state="listening")
            case Voice(is_speech=is_speech):
                self._state = replace(self._state, state="hearing" if is_speech else "listening")
            case Failed(error=error):
                self._state = replace(self._state, problem=str(error))
            case DeviceChanged(state="audible"):
                self._state = replace(self._state, problem=None)
            case Ended(reason=reason):
                state: State = "error" if reason == "error" else "off"
                self._state = replace(self._state, state=state)
                if not self._is_closed:
                    self._control.submit(self._stop_ended, number)
        self._publish(number, event)

    def _stop_ended(self, number: int) -> None:
        """Close the microphone of a session that ended by itself: a spoken "stop listening", or an error."""
        if self._listening is not None and self._listening.number == number:
            state = self._state
            self._stop_listening()
            self._state = state
