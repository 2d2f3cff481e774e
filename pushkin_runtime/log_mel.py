"""Log-mel spectrograms as Whisper computes them, in NumPy and without padding to 30 s.

Source: openai/whisper `audio.py`: Hann window of 400 samples, hop 160, reflected edges, Slaney mel filters up to 8 kHz,
log10 held within 8 of the clip's own maximum, then (x + 4) / 4. Checked in the tests against transformers'
WhisperFeatureExtractor within 1e-4.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

SAMPLE_RATE = 16_000
N_FFT = 400
HOP_LENGTH = 160
FloatArray = NDArray[np.float32]


def log_mel(samples: FloatArray, n_mels: int) -> FloatArray:
    """Return (n_mels, len(samples) // HOP_LENGTH) of (n,) float32 mono samples at 16 kHz, at least N_FFT of them."""
    edges = N_FFT // 2
    padded = np.pad(samples.astype(np.float32), edges, mode="reflect")
    n_frames = len(samples) // HOP_LENGTH
    frames = np.lib.stride_tricks.sliding_window_view(padded, N_FFT)[::HOP_LENGTH][:n_frames]
    spectrum = np.fft.rfft(frames * _window(), axis=-1)
    power = (spectrum.real**2 + spectrum.imag**2).astype(np.float32)  # (n_frames, 201)
    log = np.log10(np.maximum(mel_filters(n_mels) @ power.T, 1e-10))
    log = np.maximum(log, log.max() - 8.0)
    return np.ascontiguousarray((log + 4.0) / 4.0, dtype=np.float32)


@cache
def mel_filters(n_mels: int) -> FloatArray:
    """Return (n_mels, N_FFT // 2 + 1) triangles, equally spaced on Slaney's mel scale, each of area one."""
    bins = np.linspace(0.0, SAMPLE_RATE / 2, N_FFT // 2 + 1)
    edges = _to_hz(np.linspace(0.0, _to_mel(SAMPLE_RATE / 2), n_mels + 2))
    low, centre, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    rising, falling = (bins - low) / (centre - low), (high - bins) / (high - centre)
    triangles = np.maximum(0.0, np.minimum(rising, falling)) * 2.0 / (high - low)
    filters: FloatArray = triangles.astype(np.float32)
    filters.flags.writeable = False
    return filters


_LINEAR_HZ = 200.0 / 3.0  # a mel, up to 1 kHz; above it 27 mels are a factor of 6.4
_BREAK_HZ = 1000.0
_STEP = np.log(6.4) / 27.0


def _to_mel(hz: float) -> float:
    if hz < _BREAK_HZ:
        return hz / _LINEAR_HZ
    return float(_BREAK_HZ / _LINEAR_HZ + np.log(hz / _BREAK_HZ) / _STEP)


def _to_hz(mels: NDArray[np.float64]) -> NDArray[np.float64]:
    is_low = mels < _BREAK_HZ / _LINEAR_HZ
    high = _BREAK_HZ * np.exp(_STEP * (mels - _BREAK_HZ / _LINEAR_HZ))
    return np.where(is_low, mels * _LINEAR_HZ, high)


@cache
def _window() -> FloatArray:
    turns = np.arange(N_FFT) / N_FFT
    window: FloatArray = (0.5 - 0.5 * np.cos(2 * np.pi * turns)).astype(np.float32)
    window.flags.writeable = False
    return window
