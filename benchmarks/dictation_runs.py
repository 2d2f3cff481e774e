"""Dictations through the real capture path on a virtual microphone, with the times of everything that was heard.

When a word was said is known to the sample: it is synthetic speech with exact word times, and the moment its first
sample reaches the audio callback is noted. All delays are from there; the sound server's own is not in them.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import product

import numpy as np
from numpy.typing import NDArray

from audio.capture import CaptureHooks, CaptureOptions, Microphone
from audio.errors import AudioError
from audio.events import Commit, DictationEvent, Dropped, Ended, Failed, Final, Partial, Voice
from audio.oracle import TimedWord
from audio.pcm import Pcm
from audio.session import DictationSession, Hearing, SessionOptions
from audio.streaming import StreamingOptions
from audio.words import normal, normals
from benchmarks.espeak import RATE, Spoken, speak
from benchmarks.virtual_microphone import VirtualMicrophone

GAP_S = 1.5
GUARD_S = 60.0
TEXTS: tuple[tuple[str, str], ...] = (
    ("en-us", "the old house stood at the end of the lane and nobody had lived there for years"),
    ("ru", "старый дом стоял в конце улицы и много лет в нём никто не жил"),
    ("en-us", "she opened the window and listened to the rain"),
    ("ru", "она открыла окно и стала слушать дождь"),
    ("en-us", "tomorrow we will walk along the river to the mill"),
)


@dataclass(frozen=True, slots=True, eq=False)
class Script:
    """pcm: what is played. utterances: its words in order; their samples count from the start of pcm."""

    pcm: Pcm
    utterances: tuple[tuple[TimedWord, ...], ...]

    @property
    def words(self) -> tuple[TimedWord, ...]:
        """All of them."""
        return tuple(word for utterance in self.utterances for word in utterance)


def make_script(n_texts: int = len(TEXTS), paces: Sequence[int] = (150,)) -> Script:
    """The texts, spoken one after another with pauses, once at each pace (words a minute)."""
    gap = np.zeros(int(GAP_S * RATE), np.int16)
    parts: list[NDArray[np.int16]] = []
    utterances, at = [], 0
    for pace, (voice, text) in product(paces, TEXTS[:n_texts]):
        spoken: Spoken = speak(text, voice=voice, words_per_minute=pace)
        utterances.append(tuple(TimedWord(w.text, at + w.start, at + w.end) for w in spoken.words))
        parts += [spoken.pcm, gap]
        at += len(spoken.pcm) + len(gap)
    return Script(np.concatenate(parts), tuple(utterances))


@dataclass(slots=True)
class Heard:
    """One run. events: with the monotonic times they came at. first_sound: when sample `first_index` of the script
    reached the callback."""

    events: list[tuple[float, DictationEvent]] = field(default_factory=list)
    first_sound: float | None = None
    first_index: int = 0
    stopped_at: float | None = None
    failure: AudioError | None = None

    def said_at(self, sample: int) -> float:
        """When a sample of the script was said."""
        assert self.first_sound is not None
        return self.first_sound + (sample - self.first_index) / RATE

    def of(self, kind: type) -> list[tuple[float, DictationEvent]]:
        """The events of one kind."""
        return [(when, event) for when, event in self.events if isinstance(event, kind)]


def dictate(
    microphone: VirtualMicrophone,
    script: Script,
    hearing: Hearing,
    *,
    stop_after: int | None = None,
    watch: Callable[[], None] | None = None,
    keep: type | tuple[type, ...] = object,
) -> Heard:
    """Play a script into the microphone and dictate it. stop_after: press stop when this sample has been said.

    keep: the kinds of event that are noted.
    """
    heard = Heard(first_index=int(np.flatnonzero(script.pcm)[0]))
    ended = threading.Event()

    def take(event: DictationEvent) -> None:
        if isinstance(event, keep):
            heard.events.append((time.monotonic(), event))
        if isinstance(event, Ended):
            ended.set()

    def fail(error: AudioError) -> None:
        heard.failure = error

    hooks = CaptureHooks(device=lambda *_: None, dropped=lambda _: None, failed=fail)
    capture = Microphone(CaptureOptions(device=microphone.device), hooks)
    _note_first_sound(capture, heard)
    options = SessionOptions(streaming=StreamingOptions(mode="dictate"), idle_s=None)
    session = DictationSession(options, hearing, capture.form, capture.ring, take)
    session.start()
    capture.start()
    time.sleep(0.3)  # the monitor is punctual from its second block on
    player = threading.Thread(target=lambda: microphone.play(script.pcm).wait(), daemon=True)
    player.start()
    try:
        _await_end(heard, script, stop_after, watch, player)
    finally:
        heard.stopped_at = time.monotonic()
        capture.close()
        if not ended.wait(GUARD_S):
            session.cancel()
    return heard


def _note_first_sound(capture: Microphone, heard: Heard) -> None:
    """Have the ring note when the first sound is written into it."""
    write, rate = capture.ring.write, capture.form.rate

    def noting(block: Pcm) -> int:
        if heard.first_sound is None and block.any():
            left = len(block) - int(np.flatnonzero(block)[0])
            heard.first_sound = time.monotonic() - left / rate
        return write(block)

    capture.ring.write = noting  # type: ignore[method-assign]


def _await_end(
    heard: Heard,
    script: Script,
    stop_after: int | None,
    watch: Callable[[], None] | None,
    player: threading.Thread,
) -> None:
    last = script.words[-1].end if stop_after is None else stop_after
    tail_s = 1.5 if stop_after is None else 0.0
    give_up_at = time.monotonic() + len(script.pcm) / RATE + GUARD_S
    while time.monotonic() < give_up_at and heard.failure is None:
        if heard.first_sound is not None and time.monotonic() >= heard.said_at(last) + tail_s:
            return
        if watch is not None:
            watch()
        player.join(0.005)
        time.sleep(0.002)


@dataclass(slots=True)
class Delays:
    """Milliseconds, and counts of words. first: the first preview after the first word began. commit: each word's
    commit after its end. complete: the last word's commit after its end. final, decided: the end of an utterance
    after its last word, and after the pause was long enough."""

    first: list[float] = field(default_factory=list)
    commit: list[float] = field(default_factory=list)
    complete: list[float] = field(default_factory=list)
    final: list[float] = field(default_factory=list)
    decided: list[float] = field(default_factory=list)
    n_said: int = 0
    n_committed: int = 0
    n_right: int = 0
    n_flickered: int = 0
    lost_ms: float = 0.0
    n_failed: int = 0


def measure(heard: Heard, script: Script, delays: Delays) -> None:
    """Add the delays of a run."""
    _measure_words(heard, script, delays)
    voices = [(t, e) for t, e in heard.of(Voice) if isinstance(e, Voice) and not e.is_speech]
    for when, event in heard.of(Final):
        assert isinstance(event, Final)
        utterance = _nearest(heard, script, event.end, when)
        if utterance is None:
            continue
        delays.final.append(1000 * (when - heard.said_at(utterance[-1].end)))
        before = [t for t, _ in voices if t <= when]
        if before:
            delays.decided.append(1000 * (when - before[-1]))
    shown: dict[int, list[str]] = {}
    firsts: dict[int, float] = {}
    for when, event in heard.of(Partial):
        assert isinstance(event, Partial)
        words, old = normals(event.text), shown.get(event.utterance, [])
        kept = next((i for i, (a, b) in enumerate(zip(old, words, strict=False)) if a != b), None)
        delays.n_flickered += max(
            0, len(old) - (min(len(old), len(words)) if kept is None else kept)
        )
        shown[event.utterance] = words
        firsts.setdefault(event.utterance, when)
    starts = [heard.said_at(utterance[0].start) for utterance in script.utterances]
    for when in firsts.values():
        begun = [start for start in starts if start <= when]
        if begun:
            delays.first.append(1000 * (when - begun[-1]))
    for _, event in heard.of(Dropped):
        assert isinstance(event, Dropped)
        delays.lost_ms += 1000 * event.n_samples / RATE
    delays.n_failed += sum(
        not isinstance(event, Failed) or type(event.error).__name__ != "DigitalSilence"
        for _, event in heard.of(Failed)
    )


def _measure_words(heard: Heard, script: Script, delays: Delays) -> None:
    """Match committed words with those said, in order, and take their delays."""
    from difflib import SequenceMatcher

    committed = [
        (normal(word), when)
        for when, event in heard.of(Commit)
        if isinstance(event, Commit)
        for word in event.text.split()
    ]
    said = [(normal(word.text), word) for word in script.words]
    delays.n_said += len(said)
    delays.n_committed += len(committed)
    matcher = SequenceMatcher(None, [w for w, _ in committed], [w for w, _ in said], autojunk=False)
    last_words = {utterance[-1] for utterance in script.utterances}
    for block in matcher.get_matching_blocks():
        for i in range(block.size):
            when, word = committed[block.a + i][1], said[block.b + i][1]
            delays.n_right += 1
            delays.commit.append(1000 * (when - heard.said_at(word.end)))
            if word in last_words:
                delays.complete.append(delays.commit[-1])


def _nearest(heard: Heard, script: Script, _end: int, when: float) -> tuple[TimedWord, ...] | None:
    """The last utterance that had been said by `when`."""
    said = [u for u in script.utterances if heard.said_at(u[-1].end) <= when]
    return said[-1] if said else None
