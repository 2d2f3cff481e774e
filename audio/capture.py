"""The microphone: PortAudio's callback into a ring, a clock that notices losses, and devices that come and go.

A stream is never stopped, only aborted: `stop()` waits for ever on a device that has died. Whatever teardown
does, it is given two seconds and then left behind.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from audio.clock import AudioClock
from audio.devices import Device, choose, list_devices, portaudio, refresh
from audio.errors import AudioError, CaptureFailed
from audio.pcm import PcmFormat
from audio.ring import Ring

log = logging.getLogger("pushkin.audio")

BLOCK_S = 0.02
TAIL_S = 0.06  # blocks on their way when recording stops
_WATCH_S = 0.1
_ABORT_S = 2.0
_FIRST_BLOCK_S = 5.0  # a lazy sound server takes almost two
_SWITCH_S = 0.0005  # Python threads that compute delay a callback by half a second otherwise

DeviceState = Literal["ready", "lost", "back"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptureOptions:
    """device: a name, None for the default one. give_up_s: how long to look for a device that was lost."""

    device: str | None = None
    ring_s: float = 10.0
    give_up_s: float = 30.0
    retry_s: float = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptureHooks:
    """Called on the capture's own thread. dropped: seconds of sound that were lost."""

    device: Callable[[DeviceState, Device], None]
    dropped: Callable[[float], None]
    failed: Callable[[AudioError], None]


@dataclass(slots=True)
class _Stream:
    """An open PortAudio stream and what its callback tells; n_lost is the callback's own, n_told the watcher's."""

    handle: Any
    clock: AudioClock
    opened: float
    away_since: float | None
    first_block: float | None = None
    ended: threading.Event = field(default_factory=threading.Event)
    n_lost: int = 0
    n_told: int = 0
    is_announced: bool = False


class Microphone:
    """Records one device into `ring`, at `form.rate`, until `close`. is_deaf: silence is recorded in place of what comes."""

    def __init__(self, options: CaptureOptions, hooks: CaptureHooks) -> None:
        """Choose the device and its rate; nothing is opened yet. Raises AudioError."""
        self._options = options
        self._hooks = hooks
        refresh()
        self.device = choose(list_devices(), options.device)
        self.form = PcmFormat(rate=self.device.rate)
        self.ring = Ring(int(options.ring_s * self.device.rate))
        self.is_deaf = False
        self._stop = threading.Event()
        self._wake = threading.Event()
        self._stream: _Stream | None = None
        self._is_abandoned = False
        self._away_since: float | None = None
        self._watcher = threading.Thread(target=self._watch, name="microphone", daemon=True)

    def start(self) -> None:
        """Open the device and record. Raises CaptureFailed."""
        self._stream = self._open(self.device)
        self._watcher.start()

    def close(self) -> None:
        """Stop recording and end the ring at once, the sound on its way included; returns within about two seconds
        whatever the device does."""
        was_open = not self._stop.is_set()
        self._stop.set()
        self._wake.set()
        if was_open and self._stream is not None:
            time.sleep(TAIL_S)
        self.ring.end()
        if self._watcher.is_alive() and threading.current_thread() is not self._watcher:
            self._watcher.join(_ABORT_S + 1)
        self._drop_stream()

    def _open(self, device: Device) -> _Stream:
        sounddevice = portaudio()
        rate, ring, wake = self.form.rate, self.ring, self._wake
        clock = AudioClock(rate)
        stream = _Stream(None, clock, time.monotonic(), self._away_since)
        silence = np.zeros(int(BLOCK_S * rate), np.int16)

        def callback(data: Any, n_frames: int, _time: Any, _flags: Any) -> None:
            now = time.monotonic()
            lost = clock.deliver(n_frames, now)
            if stream.first_block is None:
                if stream.away_since is not None:  # silence in its place, so that times stay true
                    lost = max(0, round((now - stream.away_since) * rate) - n_frames)
                stream.first_block = now
                wake.set()
            if lost:
                ring.skip(lost)
                stream.n_lost += lost
            ring.write(silence[:n_frames] if self.is_deaf else np.frombuffer(data, np.int16))

        def finished() -> None:
            stream.ended.set()
            wake.set()

        try:
            stream.handle = sounddevice.RawInputStream(
                device=device.index,
                samplerate=rate,
                channels=1,
                dtype="int16",
                blocksize=int(BLOCK_S * rate),
                callback=callback,
                finished_callback=finished,
            )
            stream.handle.start()
        except sounddevice.PortAudioError as error:
            raise CaptureFailed(
                f"the microphone could not be opened ({error}): see that no other program keeps "
                "it to itself, or choose another one of `pushkin dictation devices`"
            ) from error
        return stream

    def _watch(self) -> None:
        switch_s = sys.getswitchinterval()
        sys.setswitchinterval(_SWITCH_S)
        try:
            while not self._stop.is_set():
                self._wake.wait(_WATCH_S)
                self._wake.clear()
                self._look()
        except AudioError as error:
            self._hooks.failed(error)
        finally:
            sys.setswitchinterval(switch_s)

    def _look(self) -> None:
        stream, now = self._stream, time.monotonic()
        if self._stop.is_set():
            return
        if stream is None:
            self._reopen(now)
            return
        self._report(stream)
        never_came = stream.first_block is None and now - stream.opened > _FIRST_BLOCK_S
        if stream.ended.is_set() or stream.clock.is_stalled(now) or never_came:
            log.warning("microphone lost", extra={"ended": stream.ended.is_set()})
            self._drop_stream()
            self._away_since = now - (0 if stream.ended.is_set() else 1.0)
            self._hooks.device("lost", self.device)
            self._reopen(now)

    def _report(self, stream: _Stream) -> None:
        if stream.first_block is not None and not stream.is_announced:
            stream.is_announced = True
            self._away_since = None
            self._hooks.device("ready" if stream.away_since is None else "back", self.device)
        if (n_lost := stream.n_lost - stream.n_told) > 0:
            stream.n_told += n_lost
            self._hooks.dropped(n_lost / self.form.rate)

    def _reopen(self, now: float) -> None:
        assert self._away_since is not None
        if self._is_abandoned:
            raise CaptureFailed("the microphone's driver hangs: start the daemon again")
        if now - self._away_since > self._options.give_up_s:
            raise CaptureFailed(
                f"the microphone was lost and did not come back in {self._options.give_up_s:g} s: "
                "connect it, or choose another one, and turn dictation on again"
            )
        try:
            refresh()
            self.device = self._alike(list_devices())
            self._stream = self._open(self.device)
        except AudioError:
            self._stop.wait(self._options.retry_s)

    def _alike(self, devices: list[Device]) -> Device:
        """The same device, or the default one if none was asked for, at the rate we record at."""
        found = choose(devices, self._options.device)
        if found.rate != self.form.rate:
            log.info("another microphone", extra={"rate": found.rate, "asked": self.form.rate})
        return found

    def _drop_stream(self) -> None:
        """Abort and close on a thread of its own, for as long as that may take."""
        stream, self._stream = self._stream, None
        if stream is None or stream.handle is None:
            return

        def tear_down() -> None:
            try:
                stream.handle.abort(ignore_errors=True)
                stream.handle.close(ignore_errors=True)
            except Exception as error:  # noqa: BLE001 - a dead device may say anything
                log.warning("microphone teardown", extra={"error_type": type(error).__name__})

        thread = threading.Thread(target=tear_down, name="microphone-teardown", daemon=True)
        thread.start()
        thread.join(_ABORT_S)
        self._is_abandoned = thread.is_alive()
