"""Sounds in which nobody speaks: rooms, hum, keyboards, music and what else a microphone hears in a house.

Every stretch of 6 to 16 seconds is drawn anew (timbre, tempo, level, what plays), so nothing repeats; a seed makes the
whole hour again. Synthetic: they prove what they are, and are no recordings of anybody's home.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray
from scipy import signal

RATE = 16_000
Sound = NDArray[np.float64]
Make = Callable[[np.random.Generator, int], Sound]

_STRETCH_S = (6.0, 16.0)
_SCALES = ((0, 2, 4, 5, 7, 9, 11), (0, 2, 3, 5, 7, 8, 10), (0, 2, 4, 7, 9), (0, 3, 5, 6, 7, 10))
_FORMANTS = (
    (730, 1090, 2440),
    (270, 2290, 3010),
    (300, 870, 2240),
    (530, 1840, 2480),
    (250, 1000, 2200),
)


def sound_of(kind: str, seconds: float, seed: int) -> Iterator[NDArray[np.float32]]:
    """Stretches of `kind` (of SOUNDS or MORE_SOUNDS), `seconds` together, with a quiet room behind them."""
    make = (SOUNDS | MORE_SOUNDS)[kind]
    rng = np.random.default_rng([seed, *kind.encode()])
    left = round(seconds * RATE)
    while left > 0:
        n = min(left, int(rng.uniform(*_STRETCH_S) * RATE))
        left -= n
        loud = at_dbfs(make(rng, n), rng.uniform(-50, -14))
        yield (loud + at_dbfs(_coloured(rng, n), rng.uniform(-85, -55))).astype(np.float32)


def at_dbfs(sound: Sound, dbfs: float) -> Sound:
    """The sound at this loudness (RMS), its peaks cut as a converter does."""
    rms = float(np.sqrt(np.mean(sound**2))) or 1.0
    return np.clip(sound * (10 ** (dbfs / 20) / rms), -1.0, 1.0)


def _coloured(rng: np.random.Generator, n: int) -> Sound:
    """Noise whose spectrum falls by 0 to 2 powers of the frequency, band-limited now and then."""
    spectrum = np.fft.rfft(rng.standard_normal(n))
    frequency = np.maximum(np.fft.rfftfreq(n, 1 / RATE), 20.0)
    spectrum *= frequency ** -rng.uniform(0, 1.2)
    if rng.random() < 0.4:
        spectrum[frequency > rng.uniform(600, 6000)] *= 0.1
    return np.fft.irfft(spectrum, n)


def _swell(rng: np.random.Generator, n: int, fastest_hz: float = 0.5) -> Sound:
    """A slow random loudness between about 0.3 and 1.7, (n,)."""
    knots = max(3, int(n / RATE * fastest_hz) + 2)
    return np.interp(np.linspace(0, knots - 1, n), np.arange(knots), rng.uniform(0.3, 1.7, knots))


def _silence(rng: np.random.Generator, n: int) -> Sound:
    return _coloured(rng, n) * _swell(rng, n)


def _hum(rng: np.random.Generator, n: int) -> Sound:
    times = np.arange(n) / RATE
    mains = rng.choice((50.0, 60.0)) * (1 + rng.uniform(-2e-3, 2e-3))
    fall = rng.uniform(0.2, 2.0)
    gains = [rng.uniform(0.2, 1.0) / k**fall for k in range(1, 40)]
    sound = sum(
        (
            g * np.sin(2 * np.pi * mains * k * times + rng.uniform(0, 6.3))
            for k, g in enumerate(gains, 1)
        ),
        np.zeros(n),
    )
    if rng.random() < 0.5:  # a fan or a compressor
        whine = rng.uniform(120, 2500)
        wobble = 1 + 0.003 * np.sin(2 * np.pi * rng.uniform(0.1, 6) * times)
        sound = sound + rng.uniform(0.05, 0.8) * np.sin(
            2 * np.pi * np.cumsum(whine * wobble) / RATE
        )
    return sound * _swell(rng, n) + rng.uniform(0, 0.3) * _coloured(rng, n) / 0.01


def _struck(rng: np.random.Generator, n: int, low_hz: float, high_hz: float) -> Sound:
    """One blow: a burst of noise and a few resonances that die away within `n` samples."""
    times = np.arange(n) / RATE
    sound = rng.standard_normal(n) * np.exp(-times / rng.uniform(0.001, 0.012))
    for _ in range(rng.integers(1, 5)):
        pitch, decay = rng.uniform(low_hz, high_hz), rng.uniform(0.1, 0.4) * n / RATE
        sound += rng.uniform(0.1, 1) * np.sin(2 * np.pi * pitch * times) * np.exp(-times / decay)
    return sound


def _add(sound: Sound, at: int, part: Sound) -> None:
    """Mix `part` in at a sample; what does not fit is cut off."""
    end = min(len(sound), at + len(part))
    if 0 <= at < end:
        sound[at:end] += part[: end - at]


def _keyboard(rng: np.random.Generator, n: int) -> Sound:
    sound, at = np.zeros(n), 0.0
    rate, length = rng.uniform(1.5, 14), rng.uniform(0.015, 0.08)
    low = rng.uniform(150, 2500)
    while (at := at + rng.gamma(3.0, RATE / rate / 3)) < n:
        is_space = rng.random() < 0.15
        size = int((2 if is_space else 1) * length * RATE)
        blow = _struck(rng, size, low * (0.3 if is_space else 1), low * 2.5)
        _add(sound, int(at), rng.uniform(0.3, 1) * blow)
        _add(sound, int(at + rng.uniform(0.04, 0.12) * RATE), rng.uniform(0.05, 0.5) * blow[::2])
        if rng.random() < 0.03:
            at += rng.uniform(0.3, 3) * RATE
    return sound


def _note(rng: np.random.Generator, n: int, pitch: float, timbre: str) -> Sound:
    """One note of a piano, an organ, strings, a flute or a plucked string, (n,)."""
    times = np.arange(n) / RATE
    fall = {"organ": 1.0, "strings": 0.9, "piano": 1.4, "flute": 2.4, "pluck": 1.1}[timbre]
    vibrato = 0.004 * (timbre in ("strings", "flute")) * np.sin(2 * np.pi * 5.3 * times)
    phase = 2 * np.pi * np.cumsum(pitch * (1 + vibrato)) / RATE
    count = max(1, min(12, int(7000 / pitch)))
    sound = sum((np.sin(k * phase) / k**fall for k in range(1, count + 1)), np.zeros(n))
    if timbre in ("piano", "pluck"):
        return sound * np.exp(-times * rng.uniform(1.5, 6)) * np.minimum(1, times / 0.005)
    ramp = rng.uniform(0.03, 0.2)
    return sound * np.minimum(1, times / ramp) * np.minimum(1, (n / RATE - times) / ramp)


def _music(rng: np.random.Generator, n: int) -> Sound:
    """Chords, an arpeggio or a tune, sometimes with drums, sometimes with a voice that hums along."""
    sound = np.zeros(n)
    beat = RATE * 60 / rng.uniform(55, 160)
    root, scale = rng.uniform(65, 330), rng.choice(len(_SCALES))
    steps = np.array(_SCALES[scale])
    timbre = str(rng.choice(("organ", "strings", "piano", "flute", "pluck")))
    style = rng.choice(("chords", "arpeggio", "tune"))
    step = beat * {"chords": 2.0, "arpeggio": 0.5, "tune": 1.0}[style]
    for i in range(int(n / step) + 1):
        degrees = rng.choice(steps, 3 if style == "chords" else 1, replace=False)
        for degree in degrees:
            pitch = root * 2 ** ((degree + 12 * rng.integers(0, 2)) / 12)
            length = int(step * rng.uniform(0.8, 1.6))
            _add(sound, int(i * step), _note(rng, length, pitch, timbre))
    if rng.random() < 0.4:
        sound += rng.uniform(0.3, 1.5) * _drums(rng, n, beat)
    if rng.random() < 0.2:
        sound += rng.uniform(0.3, 1.0) * _humming(rng, n)
    return _echoing(rng, sound)


def _drums(rng: np.random.Generator, n: int, beat: float | None = None) -> Sound:
    sound = np.zeros(n)
    beat = beat or RATE * 60 / rng.uniform(70, 170)
    pattern = rng.random((3, 8)) < np.array([[0.4], [0.3], [0.7]])
    for i in range(int(2 * n / beat)):
        kick, snare, hat = pattern[:, i % 8]
        at = int(i * beat / 2)
        if kick:
            times = np.arange(int(0.25 * RATE)) / RATE
            drop = 2 * np.pi * np.cumsum(45 + 110 * np.exp(-times * 30)) / RATE
            _add(sound, at, 2 * np.sin(drop) * np.exp(-times * 14))
        if snare:
            _add(sound, at, _struck(rng, int(0.15 * RATE), 160, 320))
        if hat:
            times = np.arange(int(0.06 * RATE)) / RATE
            _add(
                sound, at, 0.4 * np.diff(rng.standard_normal(len(times) + 1)) * np.exp(-times * 60)
            )
    return sound


def _echoing(rng: np.random.Generator, sound: Sound) -> Sound:
    """The sound in a room of its own."""
    length = int(rng.uniform(0.05, 0.8) * RATE)
    tail = rng.standard_normal(length) * np.exp(-6 * np.arange(length) / length)
    tail[0] = rng.uniform(3, 30)
    return np.asarray(signal.fftconvolve(sound, tail)[: len(sound)])


def _humming(rng: np.random.Generator, n: int) -> Sound:
    """A voice without words: pulses through the formants of one vowel after another, with rests."""
    sound, at = np.zeros(n), 0
    home = rng.uniform(85, 320)
    while at < n:
        length = int(rng.uniform(0.4, 2.5) * RATE)
        times = np.arange(length) / RATE
        bend = 1 + 0.01 * np.sin(2 * np.pi * rng.uniform(4, 6.5) * times)
        pitch = home * 2 ** (rng.integers(-5, 8) / 12) * bend
        tone = signal.sawtooth(2 * np.pi * np.cumsum(pitch) / RATE)
        shape = 0.6 if rng.random() < 0.5 else 1.0
        voice = np.zeros(length)
        for formant in _FORMANTS[int(rng.integers(len(_FORMANTS)))]:
            b, a = signal.iirpeak(min(7000.0, formant * rng.uniform(0.9, 1.15)), 8, fs=RATE)
            voice += signal.lfilter(b, a, tone) * shape ** (formant / 700)
        ramp = np.minimum(1, np.minimum(times, times[::-1]) / 0.06)
        _add(sound, at, voice * ramp)
        at += length + int(rng.exponential(0.3) * RATE)
    return sound


def _breath(rng: np.random.Generator, n: int) -> Sound:
    sound, at = np.zeros(n), 0
    while at < n:
        length = int(rng.uniform(0.5, 2.2) * RATE)
        low = rng.uniform(200, 900)
        b, a = signal.butter(2, [low, low * rng.uniform(2.5, 6)], "bandpass", fs=RATE)
        air = signal.lfilter(b, a, rng.standard_normal(length))
        _add(sound, at, air * np.sin(np.pi * np.arange(length) / length) ** rng.uniform(0.7, 2.5))
        at += length + int(rng.uniform(0.1, 2.0) * RATE)
    return sound


def _coughs(rng: np.random.Generator, n: int) -> Sound:
    """Coughs, laughter, throats cleared: short blows of air and voice through the mouth of one vowel."""
    sound, at = np.zeros(n), 0
    while at < n:
        vowel, home = _FORMANTS[int(rng.integers(len(_FORMANTS)))], rng.uniform(90, 350)
        voiced, beat = rng.uniform(0, 1), rng.uniform(0.12, 0.4)
        for _ in range(int(rng.integers(1, 9))):
            length = int(beat * rng.uniform(0.4, 0.9) * RATE)
            times = np.arange(length) / RATE
            tone = signal.sawtooth(2 * np.pi * home * rng.uniform(0.9, 1.1) * times)
            source = voiced * tone + (1 - voiced) * rng.standard_normal(length)
            blow = np.zeros(length)
            for formant in vowel:
                b, a = signal.iirpeak(min(7000.0, formant * rng.uniform(0.95, 1.05)), 5, fs=RATE)
                blow += signal.lfilter(b, a, source)
            _add(
                sound, at, blow * np.minimum(1, times / 0.01) * np.exp(-times * rng.uniform(4, 20))
            )
            at += int(beat * RATE)
        at += int(rng.exponential(1.5) * RATE)
    return _echoing(rng, sound)


def _knocks(rng: np.random.Generator, n: int) -> Sound:
    """Doors, steps, cups, things put down."""
    sound, at = np.zeros(n), 0.0
    while (at := at + rng.exponential(rng.choice((0.25, 1.5)) * RATE)) < n:
        low = rng.choice((40, 90, 250, 900, 2500))
        _add(
            sound,
            int(at),
            rng.uniform(0.1, 1) * _struck(rng, int(rng.uniform(0.05, 0.7) * RATE), low, 3 * low),
        )
    return _echoing(rng, sound)


def _applause(rng: np.random.Generator, n: int) -> Sound:
    sound = np.zeros(n)
    for _ in range(int(rng.uniform(20, 250) * n / RATE)):
        clap = _struck(rng, int(rng.uniform(0.01, 0.03) * RATE), 700, 2600)
        _add(sound, int(rng.integers(n)), rng.uniform(0.1, 1) * clap)
    return _echoing(rng, sound) * _swell(rng, n)


def _signals(rng: np.random.Generator, n: int) -> Sound:
    """Ringing telephones, alarms, beeps, a siren."""
    times = np.arange(n) / RATE
    base, other = rng.uniform(350, 3000, 2)
    gate = signal.square(2 * np.pi * rng.uniform(0.3, 6) * times, rng.uniform(0.2, 0.8)) > 0
    trill = signal.square(2 * np.pi * rng.uniform(8, 25) * times) > 0
    pitch = np.where(trill, base, other) if rng.random() < 0.5 else np.full(n, base)
    if rng.random() < 0.3:
        pitch = base * (1 + 0.4 * np.sin(2 * np.pi * rng.uniform(0.2, 3) * times))
    sounded: Sound = gate * np.sin(2 * np.pi * np.cumsum(pitch) / RATE)
    return sounded


def _weather(rng: np.random.Generator, n: int) -> Sound:
    """Wind, rain on glass, a car that passes."""
    wind = _coloured(rng, n) / 0.01 * _swell(rng, n, 2.0)
    for _ in range(int(rng.uniform(0, 60) * n / RATE)):
        _add(wind, int(rng.integers(n)), rng.uniform(0, 2) * _struck(rng, 200, 1500, 6000))
    return wind


SOUNDS: dict[str, Make] = {
    "silence": _silence,
    "hum": _hum,
    "keyboard": _keyboard,
    "music": _music,
}
MORE_SOUNDS: dict[str, Make] = {
    "drums": _drums,
    "humming": _humming,
    "breath": _breath,
    "coughs": _coughs,
    "knocks": _knocks,
    "applause": _applause,
    "signals": _signals,
    "weather": _weather,
}
