"""One dictation: sound from a microphone or a client in, events out. Two threads, no queue that could grow.

The hearing thread takes samples from the ring through resampler and voice detector into the policy; the recognising
thread asks the policy for the newest pass and runs it. What they share is the policy, under one lock.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from audio.decisions import Decider
from audio.errors import AudioStopped, DigitalSilence
from audio.events import (
    DeviceChanged,
    DictationEvent,
    Dropped,
    Ended,
    EventSink,
    Failed,
    Level,
    Ready,
)
from audio.pcm import Pcm, PcmFormat, PcmReader, Samples
from audio.recognizer import Recognizer
from audio.resample import Resampler
from audio.ring import Ring
from audio.streaming import Pass, Streaming, StreamingOptions
from audio.vad import FRAME, SpeechDetector

_READ_S = 0.05
_BLOCK = 4096
_LEVEL_S = 0.1
_FIRST_ZEROS_S = 1.0  # a Bluetooth headset begins with 0.7 s of them
_ZEROS_S = 3.0
_FLUSH_S = 2.0
_JOIN_S = 5.0
_MAX_FAILURES = 3  # in a row

_SILENCE_HELP = (
    "only exact zeros come from the microphone. On macOS the program that records has no permission: allow it in "
    "System Settings, Privacy & Security, Microphone (after an update: `tccutil reset Microphone`), and start it "
    "again. Elsewhere the device is muted or is not the right one: `pushkin dictation devices`"
)

Reason = Literal["stop", "command", "cancel", "error"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionOptions:
    """before: the text before the caret. levels: whether loudness is told ten times a second.

    idle_s: without sound for so long the session ends with AudioStopped; None for a microphone, which knows by itself.
    """

    streaming: StreamingOptions = field(default_factory=StreamingOptions)
    before: str = ""
    levels: bool = False
    idle_s: float | None = 30.0


@dataclass(frozen=True, slots=True)
class Hearing:
    """What a session hears with."""

    detector: SpeechDetector
    recognizer: Recognizer


class DictationSession:
    """Feed `ring` at `form.rate` (or bytes with `feed`), then `stop` or `cancel`; the last event is Ended."""

    def __init__(
        self,
        options: SessionOptions,
        hearing: Hearing,
        form: PcmFormat,
        ring: Ring,
        sink: EventSink,
    ) -> None:
        self._options = options
        self._hearing = hearing
        self._sink = sink
        self._reader = PcmReader(form)
        self.form, self.ring = form, ring
        self._changed = threading.Condition()
        self._is_deaf = (
            False  # nothing more is to be heard: neither what is coming nor what is waiting
        )
        self._has_heard_all = False
        self._is_ready = False
        self._reason: Reason = "stop"
        self._decider = Decider(options.before, options.streaming.mode, sink, self._stop_by_command)
        self._streaming = Streaming(options.streaming, self._decider, sink)
        self._voice = hearing.detector.stream()
        self._resampler = Resampler(form.rate)
        self._rest: Samples = np.zeros(0, np.float32)
        self._meter = _Meter(form.rate)
        self._n_lost = 0
        self._room: tuple[int, Callable[[], object]] | None = None
        self._threads = [
            threading.Thread(target=self._hear, name="dictation-hearing", daemon=True),
            threading.Thread(target=self._recognize, name="dictation-recognizing", daemon=True),
        ]

    def start(self) -> None:
        """Begin to hear."""
        for thread in self._threads:
            thread.start()

    def feed(self, chunk: bytes) -> int:
        """Bytes in `form`, from one thread; returns how many samples did not fit and are lost."""
        pcm = self._reader.read(chunk)
        return len(pcm) - self.ring.write(pcm)

    def when_room(self, n_samples: int, tell: Callable[[], object]) -> None:
        """Have `tell` called, once or more and on any thread, when so many samples fit or none ever will."""
        self._room = (n_samples, tell)
        self._tell_room()

    def stop(self) -> None:
        """No more sound: what has come is recognised to the end. Any thread, idempotent."""
        self.ring.end()

    def cancel(self, reason: Reason = "cancel") -> None:
        """End at once; what is not committed is forgotten. Any thread, idempotent."""
        with self._changed:
            if not self._is_deaf:
                self._is_deaf, self._reason = True, reason
            self._changed.notify_all()
        self.ring.end()

    def confirm(self, command: int) -> bool:
        """Do a command that was offered; False when it is too late for that."""
        with self._changed:
            return self._decider.confirm(command)

    def tell_device(self, state: str, name: str) -> None:
        """Pass on what became of the microphone."""
        with self._changed:
            self._sink(DeviceChanged(at=self._streaming.position, state=state, name=name))

    def fail(self, error: Exception) -> None:
        """The source is broken: say so, and recognise what came before."""
        with self._changed:
            self._reason = "error"
            self._sink(Failed(at=self._streaming.position, error=error))
        self.ring.end()

    def join(self, timeout_s: float) -> bool:
        """Wait for the end; whether it came."""
        give_up_at = time.monotonic() + timeout_s
        for thread in self._threads:
            thread.join(max(0.0, give_up_at - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    @property
    def text(self) -> str:
        """The text before the caret as it is by now."""
        return self._decider.before

    def _stop_by_command(self) -> None:
        """Called under the lock: what was said after the command is not for us."""
        self._is_deaf, self._reason = True, "command"
        self.ring.end()

    def _hear(self) -> None:
        try:
            self._hear_all()
        except Exception as error:  # noqa: BLE001 - a thread's end must be told, whatever it was
            self.fail(error)
        finally:
            self._has_heard_all = True
            self._tell_room()
            with self._changed:
                self._changed.notify_all()

    def _hear_all(self) -> None:
        last_sound = time.monotonic()
        has_flushed = True
        while not self.ring.is_over and not self._is_deaf:
            if self._is_behind():
                continue
            lost, block = self.ring.read(_BLOCK, _READ_S)
            self._tell_room()
            if lost or len(block):
                last_sound, has_flushed = time.monotonic(), False
                self._take(lost, block)
                continue
            waited_s = time.monotonic() - last_sound
            if waited_s > _FLUSH_S and not has_flushed:
                has_flushed = True
                self._flush()
            if self._options.idle_s is not None and waited_s > self._options.idle_s:
                self.fail(AudioStopped(f"no sound has come for {self._options.idle_s:g} s"))
                break
        if not self._is_deaf:
            self._push(self._resampler.push(np.zeros(0, np.int16), is_last=True))
            self._flush()

    def _tell_room(self) -> None:
        room = self._room
        if room is not None and (self.ring.n_free >= room[0] or self._has_heard_all):
            self._room = None
            room[1]()

    def _is_behind(self) -> bool:
        """Whether recognition is so late that no more sound is taken; waits a little if so."""
        with self._changed:
            if self._streaming.is_full and not self._is_deaf:
                self._changed.wait(_READ_S)
            return self._streaming.is_full and not self._is_deaf

    def _take(self, lost: int, block: Pcm) -> None:
        if not self._is_ready:
            self._is_ready = True
            self._tell(Ready())
        while lost > 0:
            n, lost = min(lost, _BLOCK), max(0, lost - _BLOCK)
            self._n_lost += n
            self._push(self._resampler.push(np.zeros(n, np.int16)))
            if not lost:
                self._tell(Dropped(at=self._streaming.position, n_samples=self._n_lost))
        if self._n_lost:
            self._n_lost = 0
        self._listen_for_zeros(block)
        self._push(self._resampler.push(block))

    def _listen_for_zeros(self, block: Pcm) -> None:
        for found in self._meter.push(block):
            at = self._streaming.position
            if found == "zeros":
                self._tell(Failed(at=at, error=DigitalSilence(_SILENCE_HELP)))
            elif found == "audible":
                self._tell(DeviceChanged(at=at, state="audible"))
            elif self._options.levels:
                self._tell(Level(at=at, dbfs=self._meter.dbfs))

    def _push(self, samples: Samples) -> None:
        sound = np.concatenate((self._rest, samples)) if len(self._rest) else samples
        n_frames = len(sound) // FRAME
        for i in range(n_frames):
            frame = sound[i * FRAME : (i + 1) * FRAME]
            probability = self._voice.probability(frame)
            with self._changed:
                if self._is_deaf:
                    return
                self._streaming.push(frame, probability)
                self._changed.notify_all()
        self._rest = sound[n_frames * FRAME :]

    def _flush(self) -> None:
        if len(self._rest):
            self._push(np.zeros(FRAME - len(self._rest), np.float32))
        self._voice.reset()
        with self._changed:
            self._streaming.flush()
            self._changed.notify_all()

    def _recognize(self) -> None:
        n_failures = 0
        while n_failures < _MAX_FAILURES and (wanted := self._await_pass()) is not None:
            started = time.perf_counter()
            try:
                found = self._hearing.recognizer.recognize(wanted.wanted, lambda: self._is_deaf)
            except Exception as error:  # noqa: BLE001 - one pass is broken, the session is not
                n_failures += 1
                with self._changed:
                    self._streaming.failed(wanted, error)
                    self._changed.notify_all()
                continue
            n_failures = 0
            with self._changed:
                if not self._is_deaf:
                    self._streaming.finished(wanted, found, time.perf_counter() - started)
                self._changed.notify_all()
        if n_failures:
            self.cancel("error")
            self._threads[0].join(_JOIN_S)
        with self._changed:
            self._end()

    def _await_pass(self) -> Pass | None:
        with self._changed:
            while not self._is_deaf:
                if (wanted := self._streaming.next_pass()) is not None:
                    return wanted
                if self._has_heard_all and self._streaming.is_idle:
                    return None
                self._changed.wait(1.0)
        self._threads[0].join(_JOIN_S)  # it says nothing after the last event
        return None

    def _end(self) -> None:
        if self._is_deaf:
            self._streaming.abandon()
        elif self._reason != "cancel":
            self._streaming.finish()
        counts = self._streaming.counts
        figures = {name: getattr(counts, name) for name in counts.__dataclass_fields__}
        at = self._streaming.position
        self._sink(Ended(at=at, reason=self._reason, figures={"audio_samples": at, **figures}))

    def _tell(self, event: DictationEvent) -> None:
        with self._changed:
            self._sink(event)


class _Meter:
    """Loudness, and zeros that no microphone gives: the sign of a missing permission."""

    def __init__(self, rate: int) -> None:
        self._rate = rate
        self._n_level = round(_LEVEL_S * rate)
        self._sum, self._n = 0.0, 0
        self._n_zeros = 0
        self._has_sounded = False
        self._has_warned = False
        self.dbfs = -120.0

    def push(self, block: Pcm) -> list[str]:
        """What is to be told: "zeros" once for each run of them, "audible" after one, "level" now and then."""
        found = []
        nonzero = np.flatnonzero(block)
        if len(nonzero):
            if self._has_warned:
                found.append("audible")
            self._has_sounded, self._has_warned = True, False
            self._n_zeros = len(block) - 1 - int(nonzero[-1])
        else:
            self._n_zeros += len(block)
        limit_s = _ZEROS_S if self._has_sounded else _FIRST_ZEROS_S
        if self._n_zeros >= limit_s * self._rate and not self._has_warned:
            self._has_warned = True
            found.append("zeros")
        self._sum += float(np.square(block.astype(np.float64) / 32768).sum())
        self._n += len(block)
        if self._n >= self._n_level:
            mean = self._sum / self._n
            self.dbfs = round(max(-120.0, 10 * math.log10(mean)) if mean > 0 else -120.0, 1)
            self._sum, self._n = 0.0, 0
            found.append("level")
        return found
