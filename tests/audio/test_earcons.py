"""Earcons are short, soft and different; no voice detector takes one for speech; and they are really heard."""

from __future__ import annotations

import threading
from itertools import pairwise
from typing import get_args

import numpy as np
import pytest
import soxr

from audio.capture import CaptureHooks, CaptureOptions, Microphone
from audio.earcons import PEAK, RATE, Earcon, EarconPlayer, synthesised
from audio.pcm import SAMPLE_RATE, to_samples
from audio.vad import FRAME

EARCONS: tuple[Earcon, ...] = get_args(Earcon)


def pitches(sound: np.ndarray, rate: int) -> tuple[float, float]:
    """The strongest frequency of the first and of the last third."""
    third = len(sound) // 3
    found = []
    for part in (sound[:third], sound[-third:]):
        spectrum = np.abs(np.fft.rfft(part * np.hanning(len(part)), 1 << 16))
        found.append(float(np.argmax(spectrum)) * rate / (1 << 16))
    return found[0], found[1]


@pytest.mark.parametrize("name", EARCONS)
def test_an_earcon_is_short_and_soft_and_has_no_click(name: Earcon) -> None:
    sound = to_samples(synthesised(name))

    assert 0.05 < len(sound) / RATE < 0.3
    assert PEAK * 0.9 < np.abs(sound).max() <= PEAK + 1e-3
    assert abs(sound[0]) < 1e-3
    assert abs(sound[-1]) < 1e-3
    assert max(abs(b - a) for a, b in pairwise(sound.tolist())) < 0.02


def test_on_rises_off_falls_and_none_is_like_another() -> None:
    found = {name: pitches(to_samples(synthesised(name)), RATE) for name in EARCONS}

    assert found["on"][0] < found["on"][1]
    assert found["off"][0] > found["off"][1]
    assert len({tuple(round(pitch) for pitch in pair) for pair in found.values()}) == len(EARCONS)


@pytest.mark.parametrize("name", EARCONS)
def test_no_earcon_is_speech_to_the_voice_detector(detector, name: Earcon) -> None:
    heard = soxr.resample(to_samples(synthesised(name)), RATE, SAMPLE_RATE)
    sound = np.concatenate((np.zeros(FRAME), heard, np.zeros(2 * FRAME))).astype(np.float32)
    voice = detector.stream()
    frames = sound[: len(sound) // FRAME * FRAME].reshape(-1, FRAME)

    assert max(voice.probability(frame) for frame in frames) < 0.5


def test_an_earcon_is_heard_by_a_microphone(open_microphone, until) -> None:
    virtual = open_microphone()
    virtual.control("set-default-sink", "mic")
    player, is_ready = EarconPlayer(), threading.Event()
    hooks = CaptureHooks(
        device=lambda *_: is_ready.set(), dropped=lambda _: None, failed=lambda _: None
    )
    microphone = Microphone(CaptureOptions(device=virtual.device), hooks)
    microphone.start()
    assert is_ready.wait(10)
    player.play("on")
    heard = [np.zeros(0, np.int16)]

    def is_heard() -> bool:
        heard.append(microphone.ring.read(8192, 0.05)[1])
        return np.count_nonzero(np.concatenate(heard)) > 0.1 * microphone.form.rate

    until(is_heard, 15)
    player.close()
    microphone.close()
    sound = to_samples(np.concatenate(heard))
    loud = np.flatnonzero(sound)
    first, _ = pitches(sound[loud[0] : loud[-1]], microphone.form.rate)

    assert first == pytest.approx(523.25, rel=0.05)


def test_without_an_output_it_is_silent_and_not_an_error(monkeypatch) -> None:
    monkeypatch.setenv("PULSE_SERVER", "unix:/nowhere")
    monkeypatch.setenv("ALSA_CONFIG_PATH", "/dev/null")
    player = EarconPlayer()
    for _ in range(20):
        player.play("done")
    player.close()
    player.play("done")
