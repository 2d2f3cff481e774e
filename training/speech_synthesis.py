"""Synthetic voices and what rooms do to them: text → 16 kHz samples, all decided by the caller's random generator.

espeak-ng speaks both languages in many variants; flite's clustergen voices (English) and festival's unit-selection
voice (Russian) were made from recordings of people. Needs espeak-ng, flite and festival with festvox-ru on the PATH.
A synthetic voice proves plumbing and alignment; it proves nothing about how well people are understood.
"""

from __future__ import annotations

import io
import random
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from pushkin_runtime.log_mel import SAMPLE_RATE, FloatArray
from training.speech_texts import Side, Utterance

_ACCENTS = {
    ("en", "train"): ("en-us", "en-us", "en-gb", "en-gb-scotland", "en-gb-x-rp", "en-029", "en-us-nyc"),
    ("en", "test"): ("en-us", "en-gb", "en-gb-x-gbcwmd", "en-gb-x-gbclan"),
    ("ru", "train"): ("ru",),
    ("ru", "test"): ("ru",),
}  # fmt: skip
_VARIANTS = {
    "train": (
        "", "m1", "m2", "m3", "m4", "m5", "m6", "f1", "f2", "f3", "f4", "klatt", "klatt3", "klatt4", "Andy", "Alex", "Annie", "Linda",
        "Michael", "Steph", "Gene", "Denis", "iven", "Lee", "David", "Jacky", "Ed", "Alicia", "Diogo", "Hugo", "travis", "shelby",
    ),
    "test": ("m7", "m8", "f5", "klatt2", "belinda", "Mario", "robert", "Antonio", "victor"),
}  # fmt: skip
_FLITE = {"train": ("slt", "awb", "kal16"), "test": ("rms",)}
FLITE_SHARE = 0.4  # of English utterances
FESTIVAL_SHARE = 0.06  # of Russian ones in training: a second of work each
_TIMEOUT_S = 30


def speak(utterance: Utterance, side: Side, rng: random.Random) -> tuple[FloatArray, str]:
    """Return the samples at 16 kHz and the voice's name, a voice of that side only."""
    stretch = rng.uniform(0.75, 1.35)
    text = _readable(utterance)
    if utterance.language == "en" and rng.random() < FLITE_SHARE:
        voice = rng.choice(_FLITE[side])
        with tempfile.NamedTemporaryFile(suffix=".wav") as file:
            tempo = f"duration_stretch={stretch:.3f}"
            _run(["flite", "-voice", voice, "--setf", tempo, "-t", text, "-o", file.name])
            return _read(Path(file.name).read_bytes()), f"flite:{voice}"
    if utterance.language == "ru" and side == "train" and rng.random() < FESTIVAL_SHARE:
        sound = _run(["text2wave", "-eval", "(voice_msu_ru_nsh_clunits)"], text)
        return _read(sound), "festival:msu_ru_nsh_clunits"
    variant = rng.choice(_VARIANTS[side])
    voice = rng.choice(_ACCENTS[utterance.language, side]) + (f"+{variant}" if variant else "")
    settings = ["-v", voice, "-s", str(round(165 / stretch)), "-p", str(rng.randrange(20, 80))]
    return _read(_run(["espeak-ng", *settings, "--stdout", text])), f"espeak:{voice}"


def _readable(utterance: Utterance) -> str:
    """The words as a synthesiser needs them: single letters are letters, not articles."""
    if utterance.source != "spelled" or utterance.language != "en":
        return utterance.text
    return " ".join(f"{w.upper()}." if len(w) == 1 else w for w in utterance.text.split())


def _run(command: Sequence[str], text: str | None = None) -> bytes:
    given = None if text is None else text.encode()
    done = subprocess.run(command, input=given, capture_output=True, timeout=_TIMEOUT_S, check=True)
    return done.stdout


def _read(content: bytes) -> FloatArray:
    samples, rate = soundfile.read(io.BytesIO(content), dtype="float32", always_2d=True)
    if not samples.any():
        raise ValueError("the synthesiser gave silence")
    resampled: FloatArray = soxr.resample(samples[:, 0], rate, SAMPLE_RATE).astype(np.float32)
    return resampled


class Room:
    """Speed, room, noise, bandwidth, silence around the words, level; noises and responses of the training side."""

    def __init__(self, noises: Sequence[FloatArray], responses: Sequence[FloatArray]) -> None:
        self._noises, self._responses = noises, responses

    def hear(self, samples: FloatArray, rng: random.Random) -> FloatArray:
        """Return what a microphone might have got; the words are whole."""
        heard: NDArray[np.floating[Any]] = samples
        if rng.random() < 0.5:  # speed and pitch together, as by resampling
            heard = soxr.resample(heard, SAMPLE_RATE, SAMPLE_RATE * rng.uniform(0.87, 1.15))
        if self._responses and rng.random() < 0.2:
            response = rng.choice(self._responses)[:8000]
            n_fft = len(heard) + len(response)
            heard = np.fft.irfft(np.fft.rfft(heard, n_fft) * np.fft.rfft(response, n_fft), n_fft)[
                : len(heard)
            ]
        if rng.random() < 0.15:  # an old telephone or a cheap headset
            heard = soxr.resample(soxr.resample(heard, SAMPLE_RATE, 8000), 8000, SAMPLE_RATE)
        around = [round(rng.uniform(0.0, 0.5) * SAMPLE_RATE) for _ in range(2)]
        heard = np.pad(heard, around)
        heard = heard / max(1e-4, float(np.abs(heard).max()))
        if rng.random() < 0.6:
            loud = float(np.sqrt(np.mean(heard**2))) * 10 ** (-rng.uniform(5, 35) / 20)
            heard = heard + loud * self.noise(len(heard), rng)
        level = 10 ** (-rng.uniform(0, 25) / 20)
        louder: FloatArray = (level * heard / max(1e-4, float(np.abs(heard).max()))).astype(
            np.float32
        )
        return louder

    def noise(self, n: int, rng: random.Random) -> FloatArray:
        """Return (n,) of noise at RMS 1: recorded, white, brown, hum or chords."""
        source = np.random.default_rng(rng.randrange(1 << 32))
        kind = rng.choice(("recorded", "recorded", "white", "brown", "hum", "chords"))
        time = np.arange(n) / SAMPLE_RATE
        sound: NDArray[np.floating[Any]]
        if kind == "recorded" and self._noises:
            clip = rng.choice(self._noises)
            sound = np.resize(np.roll(clip, rng.randrange(len(clip))), n)
        elif kind == "brown":
            sound = np.cumsum(source.standard_normal(n))
            sound = sound - np.convolve(sound, np.ones(400) / 400, mode="same")
        elif kind in ("hum", "chords"):
            base = [rng.choice((50.0, 60.0))] if kind == "hum" else source.uniform(110, 880, 4)
            waves = [np.sin(2 * np.pi * (f * k) * time) / k for f in base for k in (1, 2, 3)]
            sound = np.sum(waves, axis=0)
            sound = sound * (1 + 0.5 * np.sin(2 * np.pi * rng.uniform(0.2, 4) * time))
        else:
            sound = source.standard_normal(n)
        scaled: FloatArray = (sound / (np.sqrt(np.mean(sound**2)) + 1e-9)).astype(np.float32)
        return scaled
