"""Earcons: short tones that say what dictation does, synthesised here and played by a process of their own.

PortAudio cannot look for devices again while one of its streams is open, and an output device that hangs must not take
the microphone with it: hence the process. It ends with the pipe to it, and after a minute in which nothing is played.
"""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import sys
import threading
from typing import Final, Literal, cast

import numpy as np

from audio.errors import CaptureFailed
from audio.pcm import Pcm, to_pcm

Earcon = Literal["on", "off", "done", "error"]

RATE: Final = 48_000
PEAK: Final = 0.12  # 18 dB below full scale: beside a voice, not over it
_FADE_S = 0.008  # or each note would begin and end with a click
_NOTES: Final[dict[Earcon, tuple[tuple[float, float], ...]]] = {  # Hz, seconds
    "on": ((523.25, 0.06), (783.99, 0.09)),
    "off": ((783.99, 0.06), (523.25, 0.09)),
    "done": ((659.26, 0.05), (880.00, 0.07)),
    "error": ((440.00, 0.12), (415.30, 0.16)),
}
_MAX_FAILURES = 3  # of a player that cannot play: there is no output device
_IDLE_S = 60.0
_END_S = 2.0


def synthesised(name: Earcon) -> Pcm:
    """The samples of an earcon, mono at RATE."""
    notes = []
    for pitch, seconds in _NOTES[name]:
        t = np.arange(round(seconds * RATE)) / RATE
        edge = np.minimum(t, t[::-1]) / _FADE_S
        envelope = 0.5 - 0.5 * np.cos(np.pi * np.minimum(edge, 1))
        notes.append(PEAK * envelope * np.sin(2 * np.pi * pitch * t))
    return to_pcm(np.concatenate(notes))


class EarconPlayer:
    """Any thread; `play` returns at once, and what cannot be played is left out."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._failures_left = _MAX_FAILURES

    def play(self, name: Earcon) -> None:
        """Begin to play an earcon, after those that are playing."""
        with self._lock:
            if self._process is not None and self._process.poll():
                self._failures_left -= 1
            if not self._failures_left:
                return
            if self._process is None or self._process.poll() is not None:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "audio.earcons"],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                )
            assert self._process.stdin is not None
            with contextlib.suppress(OSError):
                self._process.stdin.write(f"{name}\n".encode())
                self._process.stdin.flush()

    def close(self) -> None:
        """Let it play to the end, within two seconds."""
        with self._lock:
            process, self._process, self._failures_left = self._process, None, 0
        if process is None or process.stdin is None:
            return
        with contextlib.suppress(OSError):
            process.stdin.close()
        try:
            process.wait(_END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(_END_S)


def main() -> int:
    """Play the earcons that are named on standard input, one a line, until it ends."""
    from audio.devices import portaudio

    try:
        sounddevice = portaudio()
    except CaptureFailed:
        return 1
    while select.select([sys.stdin], [], [], _IDLE_S)[0]:
        names = os.read(0, 4096).decode().split()
        if not names:
            break
        for name in names:
            try:
                sounddevice.play(synthesised(cast("Earcon", name)), RATE, blocking=True)
            except sounddevice.PortAudioError:
                return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
