"""The real capture path on a virtual microphone: bit-exact, and every fault noticed within its deadline."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import numpy as np
import pytest

from audio.capture import CaptureHooks, CaptureOptions, Microphone
from audio.devices import Device, choose, list_devices, refresh
from audio.errors import AudioError, CaptureFailed, DeviceNotFound
from audio.pcm import PcmFormat
from audio.ring import Ring
from benchmarks.virtual_microphone import VirtualMicrophone, restart

RATE = 16_000


class Recording:
    """A microphone, everything it delivers, and what it reports with the times of that."""

    def __init__(self, options: CaptureOptions) -> None:
        self.reports: list[tuple[str, float]] = []
        self.lost_s = 0.0
        self.errors: list[AudioError] = []
        hooks = CaptureHooks(device=self._device, dropped=self._dropped, failed=self.errors.append)
        self.microphone = Microphone(options, hooks)
        self.blocks: list[np.ndarray] = []
        self.skipped = 0
        self._reader = threading.Thread(target=self._read, daemon=True)

    def __enter__(self) -> Recording:
        self.microphone.start()
        self._reader.start()
        return self

    def __exit__(self, *_: object) -> None:
        started = time.monotonic()
        self.microphone.close()
        self.close_s = time.monotonic() - started
        self._reader.join(5)

    def has(self, report: str) -> bool:
        return any(name == report for name, _ in self.reports)

    def samples(self) -> np.ndarray:
        return np.concatenate([np.zeros(0, np.int16), *self.blocks])

    def _device(self, state: str, device: Device) -> None:
        self.reports.append((state, time.monotonic()))

    def _dropped(self, seconds: float) -> None:
        self.lost_s += seconds
        self.reports.append(("dropped", time.monotonic()))

    def _read(self) -> None:
        ring = self.microphone.ring
        while not ring.is_over:
            lost, block = ring.read(4096, 0.1)
            self.skipped += lost
            self.blocks += [np.zeros(lost, np.int16)] if lost else []
            self.blocks.append(block)


def record(microphone: VirtualMicrophone, **options: float) -> Recording:
    """A recording at the sink's own rate, so that nothing but us touches the samples."""
    recording = Recording(CaptureOptions(device=microphone.device, **options))
    recording.microphone.form = PcmFormat(rate=RATE)
    recording.microphone.ring = Ring(10 * RATE)
    return recording


def speech_like(seconds: float, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).integers(-9000, 9000, int(seconds * RATE)).astype(np.int16)


def test_what_is_spoken_is_recorded_bit_for_bit(open_microphone, until) -> None:
    microphone = open_microphone()
    spoken = speech_like(2.0)
    with record(microphone) as recording:
        until(lambda: recording.has("ready"), 5)
        assert microphone.play(spoken).wait(20) == 0
        until(lambda: np.count_nonzero(recording.samples()) >= np.count_nonzero(spoken), 5)
    heard = recording.samples()
    start = int(np.flatnonzero(heard)[0]) - int(np.flatnonzero(spoken)[0])

    assert np.array_equal(heard[start : start + len(spoken)], spoken)
    assert recording.skipped == 0
    assert recording.microphone.ring.n_dropped == 0


def test_a_starved_device_is_closed_in_time(open_microphone, monkeypatch, tmp_path: Path) -> None:
    """A pipe that nobody writes to: no callback ever comes, and `stop()` would wait for ever."""
    fifo = tmp_path / "mic.fifo"
    source = (
        f"module-pipe-source file={fifo} format=s16le rate=16000 channels=1 source_name=starved"
    )
    microphone = open_microphone(source)
    microphone.control("set-default-source", "starved")
    monkeypatch.setenv("PULSE_SOURCE", "starved")
    with record(microphone) as recording:
        assert not recording.has("ready")
    assert recording.close_s < 3.0


def test_a_sound_server_that_dies_and_returns(open_microphone, until) -> None:
    microphone = open_microphone()
    with record(microphone) as recording:
        until(lambda: recording.has("ready"), 5)
        microphone.kill()
        until(lambda: recording.has("lost"), 2)
        restart(microphone)
        until(lambda: recording.has("back"), 10)
        until(lambda: recording.has("dropped"), 2)
        spoken = speech_like(0.5)
        microphone.play(spoken).wait(20)
        until(lambda: np.count_nonzero(recording.samples()) > len(spoken) // 2, 5)
    lost_at = next(when for name, when in recording.reports if name == "lost")
    back_at = next(when for name, when in recording.reports if name == "back")

    assert abs(recording.skipped / RATE - (back_at - lost_at)) < 0.3
    assert abs(recording.lost_s - recording.skipped / RATE) < 0.01


def test_a_sound_server_that_does_not_return_is_given_up(open_microphone, until) -> None:
    microphone = open_microphone()
    with record(microphone, give_up_s=1.0, retry_s=0.1) as recording:
        until(lambda: recording.has("ready"), 5)
        microphone.kill()
        until(lambda: bool(recording.errors), 8)

    assert isinstance(recording.errors[0], CaptureFailed)
    assert "did not come back" in str(recording.errors[0])


def test_a_slow_callback_loses_sound_and_it_is_told(open_microphone, until) -> None:
    microphone = open_microphone()
    recording = record(microphone)
    write, slow = recording.microphone.ring.write, threading.Event()

    def hindered(block: np.ndarray) -> int:
        slow.wait(0.06)  # never set: a callback that takes three times its block
        return write(block)

    recording.microphone.ring.write = hindered  # type: ignore[method-assign]
    with recording:
        until(lambda: recording.has("dropped"), 8)
        until(lambda: recording.lost_s > 0.5, 8)

    assert recording.skipped / RATE == pytest.approx(recording.lost_s, abs=0.5)


def test_a_deaf_microphone_records_silence_and_loses_no_time(open_microphone, until) -> None:
    microphone = open_microphone()
    spoken = speech_like(1.0)
    with record(microphone) as recording:
        until(lambda: recording.has("ready"), 5)
        recording.microphone.is_deaf = True
        microphone.play(spoken).wait(20)
        n_deaf = len(recording.samples())
        until(lambda: len(recording.samples()) > n_deaf + RATE, 5)
        assert not recording.samples().any()
        recording.microphone.is_deaf = False
        microphone.play(spoken).wait(20)
        until(lambda: np.count_nonzero(recording.samples()) >= np.count_nonzero(spoken), 5)

    assert recording.skipped == 0


def test_a_short_stall_loses_nothing(open_microphone, until) -> None:
    """The callback hangs for 0.6 s: the sound server keeps what came, and it is no lost device."""
    microphone = open_microphone()
    recording = record(microphone)
    write, stall, is_stalled = recording.microphone.ring.write, threading.Event(), threading.Event()

    def hindered(block: np.ndarray) -> int:
        if stall.is_set() and not is_stalled.is_set():
            is_stalled.set()
            threading.Event().wait(0.6)
        return write(block)

    recording.microphone.ring.write = hindered  # type: ignore[method-assign]
    spoken = speech_like(2.5)
    with recording:
        until(lambda: recording.has("ready"), 5)
        player = microphone.play(spoken)
        until(lambda: np.count_nonzero(recording.samples()) > RATE // 2, 10)
        stall.set()
        player.wait(20)
        until(lambda: np.count_nonzero(recording.samples()) >= np.count_nonzero(spoken), 5)
    heard = recording.samples()
    start = int(np.flatnonzero(heard)[0]) - int(np.flatnonzero(spoken)[0])

    assert is_stalled.is_set()
    assert np.array_equal(heard[start : start + len(spoken)], spoken)
    assert not recording.has("lost")
    assert recording.skipped == 0


def test_a_device_that_returns_with_another_rate(open_microphone, until, monkeypatch) -> None:
    """Unplugged at 16 kHz mono, another plugged in at 48 kHz stereo: the pitch of what is said stays."""
    microphone = open_microphone()
    with record(microphone) as recording:
        until(lambda: recording.has("ready"), 5)
        microphone.kill()
        until(lambda: recording.has("lost"), 2)
        monkeypatch.setenv("PULSE_SOURCE", "other.monitor")
        restart(microphone, "module-null-sink sink_name=other rate=48000 channels=2 norewinds=1")
        until(lambda: recording.has("back"), 10)
        n_before = len(recording.samples())
        tone = (9000 * np.sin(2 * np.pi * 440 * np.arange(2 * RATE) / RATE)).astype(np.int16)
        microphone.play(tone, sink="other").wait(20)
        until(lambda: np.count_nonzero(recording.samples()[n_before:]) > 1.8 * RATE, 5)
    heard = recording.samples()[n_before:].astype(float)
    loud = np.flatnonzero(np.abs(heard) > 2000)
    sound = heard[loud[0] : loud[-1]]
    spectrum = np.abs(np.fft.rfft(sound * np.hanning(len(sound))))

    assert np.argmax(spectrum) * RATE / len(sound) == pytest.approx(440, abs=1.5)
    assert len(sound) == pytest.approx(2 * RATE, abs=0.1 * RATE)


def test_devices_have_names_and_a_wrong_one_says_the_nearest(open_microphone) -> None:
    open_microphone()
    refresh()
    devices = list_devices()

    assert choose(devices, "pulse").name == "pulse"
    assert choose(devices, None) == devices[0]
    with pytest.raises(DeviceNotFound, match="nearest: pulse"):
        choose(devices, "pulze")
    with pytest.raises(DeviceNotFound, match="no microphone"):
        choose([], None)
