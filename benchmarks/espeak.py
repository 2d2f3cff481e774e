"""Synthetic speech with exact word times, from espeak-ng's own word events. One utterance, one process.

It proves timing, endpointing and plumbing; of accuracy on people it proves nothing.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import json
import subprocess
import sys
from dataclasses import dataclass

import numpy as np
import soxr
from numpy.typing import NDArray

RATE = 16_000
_RETRIEVAL = 1
_UTF8 = 1
_WORD = 1


@dataclass(frozen=True, slots=True)
class SpokenWord:
    """start, end: samples at 16 kHz, in the utterance."""

    text: str
    start: int
    end: int


@dataclass(frozen=True, slots=True, eq=False)
class Spoken:
    """pcm: (n,) int16 at 16 kHz; words in order. Silence around the words is part of it."""

    pcm: NDArray[np.int16]
    words: tuple[SpokenWord, ...]


def is_missing() -> bool:
    """Whether espeak-ng's library is not installed."""
    return ctypes.util.find_library("espeak-ng") is None


def speak(text: str, *, voice: str = "en-us", words_per_minute: int = 150) -> Spoken:
    """Synthesise `text`; deterministic, because every call has a process of its own."""
    request = json.dumps({"text": text, "voice": voice, "rate": words_per_minute})
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.espeak"],
        input=request.encode(),
        capture_output=True,
        check=True,
        timeout=60,
    )
    header, _, raw = done.stdout.partition(b"\n")
    answer = json.loads(header)
    pcm = np.frombuffer(raw, np.int16)
    samples = soxr.resample(pcm.astype(np.float32) / 32768, answer["rate"], RATE)
    positions = [(p["at"] * RATE // answer["rate"], p["text"]) for p in answer["words"]]
    out = np.clip(np.rint(samples * 32768), -32768, 32767).astype(np.int16)
    loud = np.flatnonzero(np.abs(out) > 200)
    ends = [at for at, _ in positions[1:]] + [int(loud[-1]) + 1 if len(loud) else len(out)]
    words = tuple(
        SpokenWord(word, at, max(at + 1, end))
        for (at, word), end in zip(positions, ends, strict=True)
    )
    return Spoken(out, words)


def _synthesise(text: str, voice: str, rate: int) -> tuple[bytes, int, list[dict[str, object]]]:
    """Run the library in this process."""
    library = ctypes.CDLL(ctypes.util.find_library("espeak-ng"))
    sample_rate = library.espeak_Initialize(_RETRIEVAL, 0, None, 0)
    if sample_rate <= 0:
        raise RuntimeError("espeak-ng could not be initialised")
    sound, words = bytearray(), []

    class Event(ctypes.Structure):
        _fields_ = [
            ("type", ctypes.c_int),
            ("unique_identifier", ctypes.c_uint),
            ("text_position", ctypes.c_int),
            ("length", ctypes.c_int),
            ("audio_position", ctypes.c_int),
            ("sample", ctypes.c_int),
            ("user_data", ctypes.c_void_p),
            ("name", ctypes.c_char * 8),
        ]

    @ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)
    def heard(wave, n_samples, events):  # type: ignore[no-untyped-def]
        if wave:
            sound.extend(ctypes.string_at(wave, n_samples * 2))
        event = ctypes.cast(events, ctypes.POINTER(Event))
        i = 0
        while event[i].type:
            if event[i].type == _WORD:
                start = event[i].text_position - 1
                word = text[start : start + event[i].length]
                words.append({"at": event[i].audio_position * sample_rate // 1000, "text": word})
            i += 1
        return 0

    library.espeak_SetSynthCallback(heard)
    if library.espeak_SetVoiceByName(voice.encode()) != 0:
        raise RuntimeError(f"espeak-ng has no voice {voice}")
    library.espeak_SetParameter(1, rate, 0)
    encoded = text.encode() + b"\0"
    library.espeak_Synth(encoded, len(encoded), 0, 1, 0, _UTF8, None, None)
    library.espeak_Synchronize()
    return bytes(sound), sample_rate, words


def _main() -> None:
    request = json.loads(sys.stdin.buffer.read())
    sound, rate, words = _synthesise(request["text"], request["voice"], request["rate"])
    sys.stdout.buffer.write(json.dumps({"rate": rate, "words": words}).encode() + b"\n" + sound)


if __name__ == "__main__":
    _main()
