"""Long dictations: memory, the audio clock, the share of the processor; and hours of sound that is no speech."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import psutil

from audio.events import Commit, DictationEvent, Dropped, Ended, Final
from audio.oracle import OracleRecognizer
from audio.pcm import SAMPLE_RATE, Pcm, PcmFormat, to_pcm, to_samples
from audio.recognizer import Hypothesis, Recognition
from audio.ring import Ring
from audio.session import DictationSession, Hearing, SessionOptions
from audio.streaming import StreamingOptions
from benchmarks.dictation_runs import Script, dictate
from benchmarks.espeak import RATE
from benchmarks.harness import say
from benchmarks.virtual_microphone import VirtualMicrophone

MIB = 2**20
_SAMPLE_S = 2.0
_CHUNK_S = 10


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
    """Dictate the script over and over. clock_error_samples: how far the session's time ran from the sound's."""
    n = max(1, round(minutes * 60 * RATE / len(script.pcm)))
    looped = Script(np.tile(script.pcm, n), tuple(script.utterances) * n)
    last = (n - 1) * len(script.pcm) + script.words[-1].end
    locating = _Locating(hearing.recognizer, script)
    process, rss, next_at = psutil.Process(), [], time.monotonic()
    cpu, started = process.cpu_times(), time.monotonic()

    def watch() -> None:
        nonlocal next_at
        now = time.monotonic()
        if now >= next_at:
            next_at = now + _SAMPLE_S
            rss.append((now - started, process.memory_info().rss))
            if len(rss) % 60 == 0:
                say(f"soak: {(now - started) / 60:.0f} min, {rss[-1][1] / MIB:.0f} MiB")

    heard = dictate(
        microphone, looped, Hearing(hearing.detector, locating), stop_after=last + RATE, watch=watch
    )
    used = process.cpu_times()
    elapsed = time.monotonic() - started
    ended = heard.events[-1][1]
    figures = ended.figures if isinstance(ended, Ended) else {}
    lost = sum(e.n_samples for _, e in heard.of(Dropped) if isinstance(e, Dropped))
    offsets = np.unwrap(np.array(locating.offsets, float), period=len(script.pcm))
    return {
        "minutes": round(elapsed / 60, 2),
        "utterances": len(heard.of(Final)),
        "rss_slope_mib_per_hour": _slope(rss),
        "rss_start_end_mib": [round(rss[len(rss) // 5][1] / MIB, 1), round(rss[-1][1] / MIB, 1)],
        "clock_error_samples": float(np.median(offsets[-5:]) - np.median(offsets[:5])),
        "clock_spread_samples": float(np.ptp(offsets)),
        "lost_ms": round(1000 * lost / SAMPLE_RATE, 1),
        "real_time_factor": round(locating.busy_s / elapsed, 4),
        "cpu_share": round((used.user + used.system - cpu.user - cpu.system) / elapsed, 4),
        "passes": figures.get("n_passes", 0),
    }


def _slope(rss: list[tuple[float, int]]) -> float:
    """MiB an hour, by least squares over all but the first fifth."""
    kept = np.array(rss[len(rss) // 5 :])
    if len(kept) < 3:
        return 0.0
    slope = np.polyfit(kept[:, 0], kept[:, 1], 1)[0]
    return round(float(slope) * 3600 / MIB, 2)


def false_words(hearing: Hearing, minutes: float) -> dict[str, Any]:
    """Feed sounds that are no speech, each for `minutes`, as fast as they are taken."""
    found: dict[str, Any] = {}
    total = 0
    for name, make in _SOUNDS.items():
        n_words, n_passes = _words_of(hearing, make, minutes)
        found[f"false_words_{name}"] = n_words
        found[f"false_passes_{name}"] = n_passes
        total += n_words
        say(f"{name}: {n_words} words, {n_passes} passes in {minutes:g} min")
    hours = len(_SOUNDS) * minutes / 60
    return {**found, "false_words_per_hour": round(total / hours, 2), "false_hours": hours}


def _words_of(
    hearing: Hearing, make: Callable[[np.random.Generator, int], Any], minutes: float
) -> tuple[int, int]:
    commits: list[str] = []
    passes = 0

    def take(event: DictationEvent) -> None:
        nonlocal passes
        if isinstance(event, Commit):
            commits.append(event.text)
        if isinstance(event, Ended):
            passes = int(event.figures["n_passes"])

    options = SessionOptions(streaming=StreamingOptions(mode="dictate"))
    ring = Ring(2 * _CHUNK_S * RATE)
    session = DictationSession(options, hearing, PcmFormat(), ring, take)
    session.start()
    rng = np.random.default_rng(0)
    for _ in range(round(minutes * 60 / _CHUNK_S)):
        chunk: Pcm = to_pcm(make(rng, _CHUNK_S * RATE))
        while ring.n_free < len(chunk):
            time.sleep(0.01)
        session.feed(chunk.astype("<i2").tobytes())
    session.stop()
    session.join(120)
    return sum(len(text.split()) for text in commits), passes


def _silence(rng: np.random.Generator, n: int) -> Any:
    return rng.standard_normal(n) * 0.0005


def _hum(rng: np.random.Generator, n: int) -> Any:
    times = np.arange(n) / RATE
    tones = [np.sin(2 * np.pi * 50 * k * times + rng.uniform(0, 6)) / k for k in range(1, 8)]
    return 0.1 * np.sum(tones, axis=0) + rng.standard_normal(n) * 0.003


def _keyboard(rng: np.random.Generator, n: int) -> Any:
    sound = rng.standard_normal(n) * 0.001
    for at in np.cumsum(rng.exponential(RATE / 6, 100)).astype(int):
        length = int(rng.uniform(0.004, 0.03) * RATE)
        if at + length < n:
            decay = np.exp(-np.arange(length) / (0.2 * length))
            sound[at : at + length] += rng.standard_normal(length) * decay * rng.uniform(0.05, 0.4)
    return sound


def _music(rng: np.random.Generator, n: int) -> Any:
    sound = np.zeros(n)
    for start in range(0, n, RATE // 2):
        length = min(RATE, n - start)
        times = np.arange(length) / RATE
        envelope = np.minimum(1, times / 0.02) * np.exp(-times * rng.uniform(1, 4))
        for note in rng.choice([0, 3, 5, 7, 10, 12, 15], 3, replace=False):
            pitch = 220 * 2 ** (note / 12)
            tone = sum(np.sin(2 * np.pi * pitch * k * times) / k**1.5 for k in range(1, 7))
            sound[start : start + length] += 0.06 * envelope * tone
    return sound


_SOUNDS = {"silence": _silence, "hum": _hum, "keyboard": _keyboard, "music": _music}
