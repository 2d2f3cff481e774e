"""Long dictations: memory, the audio clock, the share of the processor."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np
import psutil

from audio.events import Dropped, Ended, Failed, Final
from audio.oracle import OracleRecognizer
from audio.pcm import SAMPLE_RATE, to_samples
from audio.recognizer import Hypothesis, Recognition
from audio.session import Hearing
from benchmarks.dictation_runs import Script, dictate
from benchmarks.espeak import RATE
from benchmarks.harness import say
from benchmarks.soak import MIB
from benchmarks.typing_soak import WARM_UP, slope_of
from benchmarks.virtual_microphone import VirtualMicrophone

_KEPT = (Final, Dropped, Ended, Failed)  # previews by the thousand would be the growth that is seen
_SAMPLE_S = 2.0


class _Locating:
    """Passes on to another recogniser, and notes where in the script each finished utterance was said."""

    def __init__(self, inner: Any, script: Script) -> None:
        self._inner = inner
        self._finder = OracleRecognizer(script.words, reference=to_samples(script.pcm))
        self._period = len(script.pcm)
        self.offsets: list[int] = []
        self.busy_s = 0.0

    def recognize(self, wanted: Recognition, is_cancelled: Callable[[], bool]) -> Hypothesis:
        started = time.perf_counter()
        found: Hypothesis = self._inner.recognize(wanted, is_cancelled)
        self.busy_s += time.perf_counter() - started
        at = self._finder.find(wanted.audio) if wanted.is_final else None
        if at is not None:
            self.offsets.append((wanted.start - at) % self._period)
        return found


def soak(
    microphone: VirtualMicrophone, script: Script, hearing: Hearing, minutes: float
) -> dict[str, Any]:
    """Dictate the script over and over, in real time.

    clock_error_samples: how far the session's time ran from the sound's, from the first utterances to the last.
    real_time_factor: seconds of processor a second of sound, everything in this process counted.
    """
    n = max(1, round(minutes * 60 * RATE / len(script.pcm)))
    looped = Script(np.tile(script.pcm, n), tuple(script.utterances) * n)
    last = (n - 1) * len(script.pcm) + script.words[-1].end
    locating = _Locating(hearing.recognizer, script)
    process = psutil.Process()
    rss: list[tuple[float, float]] = []
    next_at = started = time.monotonic()
    cpu = process.cpu_times()

    def watch() -> None:
        nonlocal next_at
        now = time.monotonic()
        if now >= next_at:
            next_at = now + _SAMPLE_S
            rss.append((now - started, process.memory_info().rss / MIB))
            if len(rss) % 60 == 0:
                say(f"soak: {(now - started) / 60:.0f} min, {rss[-1][1]:.0f} MiB")

    listening = Hearing(hearing.detector, locating)
    heard = dictate(microphone, looped, listening, stop_after=last + RATE, watch=watch, keep=_KEPT)
    used = process.cpu_times()
    elapsed = time.monotonic() - started
    ended = heard.events[-1][1]
    figures = ended.figures if isinstance(ended, Ended) else {}
    audio_s = figures.get("audio_samples", 0) / SAMPLE_RATE
    cpu_s = used.user + used.system - cpu.user - cpu.system
    lost = sum(e.n_samples for _, e in heard.of(Dropped) if isinstance(e, Dropped))
    offsets = np.unwrap(np.array(locating.offsets, float), period=len(script.pcm))
    slope = slope_of(rss, elapsed * WARM_UP)
    return {
        "minutes": round(elapsed / 60, 2),
        "audio_minutes": round(audio_s / 60, 2),
        "utterances": len(heard.of(Final)),
        "rss_slope": asdict(slope) if slope else None,
        "rss_start_end_mib": [round(rss[len(rss) // 5][1], 1), round(rss[-1][1], 1)],
        "clock_error_samples": float(np.median(offsets[-5:]) - np.median(offsets[:5])),
        "clock_spread_samples": float(np.ptp(offsets)),
        "lost_ms": round(1000 * lost / SAMPLE_RATE, 1),
        "failed": len(heard.of(Failed)),
        "real_time_factor": round(cpu_s / audio_s, 4) if audio_s else None,
        "recognizing_share": round(locating.busy_s / elapsed, 4),
        "passes": figures.get("n_passes", 0),
        "passes_audio_s": round(float(figures.get("audio_s", 0.0)), 1),
    }
