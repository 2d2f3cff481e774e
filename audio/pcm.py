"""Raw samples as clients and devices send them, made mono 16-bit; chunks may be cut anywhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from audio.errors import FormatUnsupported

SAMPLE_RATE: Final = 16_000
"""What the VAD and the encoder hear, in samples a second; all times inside `audio` count in them."""

MIN_RATE, MAX_RATE, MAX_CHANNELS = 8_000, 192_000, 8

Samples = NDArray[np.float32]
Pcm = NDArray[np.int16]

_N_BYTES = {"s16le": 2, "f32le": 4}


@dataclass(frozen=True, slots=True, kw_only=True)
class PcmFormat:
    """encoding: "s16le" or "f32le", interleaved. Raises FormatUnsupported when made with anything else."""

    encoding: str = "s16le"
    rate: int = SAMPLE_RATE
    channels: int = 1

    def __post_init__(self) -> None:
        if self.encoding not in _N_BYTES:
            raise FormatUnsupported(
                "the samples must be s16le (16-bit) or f32le (32-bit float), little-endian and "
                "interleaved; convert others, 8-bit included, before sending",
                param="format",
            )
        if not MIN_RATE <= self.rate <= MAX_RATE:
            raise FormatUnsupported(
                f"the rate must be {MIN_RATE} to {MAX_RATE} samples a second", param="rate"
            )
        if not 1 <= self.channels <= MAX_CHANNELS:
            raise FormatUnsupported(f"1 to {MAX_CHANNELS} channels are taken", param="channels")

    @property
    def frame_bytes(self) -> int:
        """Bytes of one moment: a sample of every channel."""
        return _N_BYTES[self.encoding] * self.channels


class PcmReader:
    """Bytes → mono int16. A frame cut by the end of a chunk waits for the next one."""

    def __init__(self, form: PcmFormat) -> None:
        self._form = form
        self._pending = b""

    def read(self, chunk: bytes) -> Pcm:
        """The whole frames that have arrived, (n,), channels averaged."""
        data = self._pending + chunk
        whole = len(data) - len(data) % self._form.frame_bytes
        self._pending = data[whole:]
        if self._form.encoding == "s16le":
            samples = np.frombuffer(data[:whole], "<i2")
            if self._form.channels == 1:
                return samples.astype(np.int16)
            mean: Pcm = np.rint(samples.reshape(-1, self._form.channels).mean(axis=1)).astype(
                np.int16
            )
            return mean
        floats = np.nan_to_num(np.frombuffer(data[:whole], "<f4"), posinf=0.0, neginf=0.0)
        return to_pcm(floats.reshape(-1, self._form.channels).mean(axis=1))


def to_pcm(samples: NDArray[np.floating]) -> Pcm:
    """Floats in -1 to 1 as int16, clipped."""
    pcm: Pcm = np.clip(np.rint(samples * 32768.0), -32768, 32767).astype(np.int16)
    return pcm


def to_samples(pcm: Pcm) -> Samples:
    """int16 as floats in -1 to 1."""
    return pcm.astype(np.float32) / np.float32(32768.0)
