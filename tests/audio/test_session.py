"""A whole session: threads, ring, resampler, voice detector, with sound that is fed or heard by a microphone."""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np
import pytest

from audio.errors import AudioStopped, DigitalSilence
from audio.events import (
    Commit,
    DeviceChanged,
    DictationEvent,
    Dropped,
    Ended,
    Failed,
    Final,
    Partial,
    Ready,
)
from audio.oracle import OracleRecognizer, TimedWord
from audio.pcm import SAMPLE_RATE, PcmFormat, to_pcm, to_samples
from audio.recognizer import Hypothesis, Recognition
from audio.ring import Ring
from audio.session import DictationSession, Hearing, SessionOptions
from benchmarks.espeak import Spoken

SENTENCE = "the quick brown fox jumps over the lazy dog"


class Listener:
    """Every event of a session, and a way to wait for one."""

    def __init__(self) -> None:
        self.events: list[DictationEvent] = []
        self.ended = threading.Event()

    def __call__(self, event: DictationEvent) -> None:
        self.events.append(event)
        if isinstance(event, Ended):
            self.ended.set()

    def of(self, kind: type) -> list:
        return [event for event in self.events if isinstance(event, kind)]

    @property
    def text(self) -> str:
        return "".join(commit.text for commit in self.of(Commit))


def timed(spoken: Spoken, at: int = 0) -> list[TimedWord]:
    return [TimedWord(w.text, at + w.start, at + w.end) for w in spoken.words]


def oracle(spoken: Spoken, **options: float) -> OracleRecognizer:
    return OracleRecognizer(timed(spoken), reference=to_samples(spoken.pcm), **options)


@pytest.fixture
def start(detector):
    """`start(recognizer, form=..., ring_s=..., **options)`: a running session and what it tells."""
    running = []

    def begin(recognizer, form=None, ring_s: float = 10.0, **options):
        form, listener = form or PcmFormat(), Listener()
        session = DictationSession(
            SessionOptions(**options),
            Hearing(detector, recognizer),
            form,
            Ring(int(ring_s * form.rate)),
            listener,
        )
        running.append(session)
        session.start()
        return session, listener

    yield begin
    for session in running:
        session.cancel()
        assert session.join(10)


def feed(
    session: DictationSession, pcm: np.ndarray, until: Callable[..., None], n: int = 1601
) -> None:
    """All of it, as fast as it is taken, in pieces of an odd size."""
    data = pcm.astype("<i2").tobytes()
    for at in range(0, len(data), n):
        until(lambda: session.ring.n_free > n)
        assert session.feed(data[at : at + n]) == 0


def test_fed_speech_is_committed_word_for_word(start, speak, until) -> None:
    spoken = speak(SENTENCE)
    session, heard = start(oracle(spoken))
    feed(session, np.concatenate((spoken.pcm, np.zeros(SAMPLE_RATE, np.int16))), until)
    session.stop()
    assert heard.ended.wait(10)

    assert heard.text.split() == SENTENCE.split()
    assert isinstance(heard.events[0], Ready)
    assert isinstance(heard.events[-1], Ended)
    assert heard.events[-1].reason == "stop"
    assert heard.events[-1].figures["audio_samples"] >= len(spoken.pcm)


@pytest.mark.parametrize("rate", [8000, 44100, 96000])
def test_any_rate_and_two_channels(start, speak, until, rate: int) -> None:
    import soxr

    spoken = speak(SENTENCE)
    sound = to_pcm(soxr.resample(to_samples(spoken.pcm), SAMPLE_RATE, rate))
    session, heard = start(oracle(spoken), form=PcmFormat(rate=rate, channels=2))
    feed(session, np.repeat(sound, 2), until, 4001)
    session.stop()
    assert heard.ended.wait(20)

    assert heard.text.split() == SENTENCE.split()


def test_the_tail_is_drained_when_stop_comes_inside_the_last_word(start, speak, until) -> None:
    spoken = speak(SENTENCE)
    session, heard = start(oracle(spoken))
    feed(session, spoken.pcm[: spoken.words[-1].end], until)
    session.stop()
    assert heard.ended.wait(10)

    assert heard.text.split() == SENTENCE.split()


def test_a_slow_recognizer_makes_fewer_previews_and_loses_nothing(start, speak, until) -> None:
    spoken = speak(SENTENCE)
    sound = np.concatenate([spoken.pcm, np.zeros(SAMPLE_RATE, np.int16)])
    slow = oracle(spoken, real_time_factor=0.3)
    session, heard = start(slow)
    feed(session, sound, until)
    session.stop()
    assert heard.ended.wait(30)

    assert heard.text.split() == SENTENCE.split()
    assert not heard.of(Dropped)
    assert slow.n_passes < 6


def test_a_source_ten_times_too_fast_fills_the_ring_and_the_loss_is_counted(start, speak) -> None:
    spoken = speak(SENTENCE)
    session, heard = start(oracle(spoken), ring_s=0.5)
    lost = sum(session.feed(spoken.pcm.astype("<i2").tobytes()) for _ in range(5))
    session.stop()
    assert heard.ended.wait(20)

    assert lost > 0
    assert sum(event.n_samples for event in heard.of(Dropped)) == lost
    total = heard.events[-1].figures["audio_samples"]
    assert 0 <= total - 5 * len(spoken.pcm) < 1024


def test_cancel_forgets_what_is_not_committed(start, speak, until) -> None:
    spoken = speak(SENTENCE)
    stuck = threading.Event()

    class Stuck:
        def recognize(self, wanted: Recognition, is_cancelled) -> Hypothesis:
            while not is_cancelled():
                stuck.wait(0.01)
            return Hypothesis(kind="dict", text="too late", p_command=0, n_tokens=2)

    session, heard = start(Stuck())
    feed(session, spoken.pcm, until)
    session.cancel()
    assert heard.ended.wait(5)

    assert heard.text == ""
    assert heard.events[-1].reason == "cancel"


def test_a_client_that_falls_silent_has_its_words_finished_and_then_the_session(
    start, speak, until
) -> None:
    spoken = speak(SENTENCE)
    session, heard = start(oracle(spoken), idle_s=3.0)
    feed(session, spoken.pcm, until)
    until(lambda: bool(heard.of(Final)), 5)
    assert heard.text.split() == SENTENCE.split()
    assert heard.ended.wait(10)

    assert isinstance(heard.of(Failed)[0].error, AudioStopped)
    assert heard.events[-1].reason == "error"


def test_exact_zeros_are_named_once_with_what_to_do(start, until) -> None:
    session, heard = start(OracleRecognizer([]))
    feed(session, np.zeros(3 * SAMPLE_RATE, np.int16), until)
    session.stop()
    assert heard.ended.wait(10)

    (failed,) = heard.of(Failed)
    assert isinstance(failed.error, DigitalSilence)
    assert "Privacy" in str(failed.error)


def test_a_recognizer_that_always_breaks_ends_the_session_and_says_why(start, speak, until) -> None:
    class Broken:
        def recognize(self, wanted: Recognition, is_cancelled) -> Hypothesis:
            raise RuntimeError("broken")

    spoken = speak(SENTENCE)
    session, heard = start(Broken())
    data = spoken.pcm.astype("<i2").tobytes()
    for at in range(0, len(data), 3200):
        n_failed = len(heard.of(Failed))
        session.feed(data[at : at + 3200])
        if at % 16_000 == 0 and at > 16_000:
            until(lambda n=n_failed: len(heard.of(Failed)) > n or heard.ended.is_set(), 5)
        if heard.ended.is_set():
            break
    session.stop()
    assert heard.ended.wait(10)

    assert heard.events[-1].reason == "error"
    assert all(isinstance(failed.error, RuntimeError) for failed in heard.of(Failed))


def test_dictation_through_the_real_capture_path(
    start, speak, until, open_microphone, detector
) -> None:
    from audio.capture import CaptureHooks, CaptureOptions, Microphone

    spoken = speak(SENTENCE)
    microphone = open_microphone()
    sessions: list[DictationSession] = []
    hooks = CaptureHooks(
        device=lambda state, device: sessions[0].tell_device(state, device.name),
        dropped=lambda seconds: None,
        failed=lambda error: sessions[0].fail(error),
    )
    capture = Microphone(CaptureOptions(device=microphone.device), hooks)
    heard = Listener()
    options = SessionOptions(idle_s=None)
    hearing = Hearing(detector, oracle(spoken))
    sessions.append(DictationSession(options, hearing, capture.form, capture.ring, heard))
    sessions[0].start()
    capture.start()
    until(lambda: bool(heard.of(Ready)), 5)
    microphone.play(np.concatenate((spoken.pcm, np.zeros(SAMPLE_RATE, np.int16)))).wait(20)
    until(lambda: bool(heard.of(Final)), 5)
    capture.close()
    assert heard.ended.wait(5)

    assert heard.text.split() == SENTENCE.split()
    assert len(heard.of(Partial)) >= 3
    assert not heard.of(Dropped)


def test_a_muted_microphone_is_a_digital_silence(open_microphone, until, detector) -> None:
    """What macOS gives a program without permission: zeros for ever, and no flag."""
    from audio.capture import CaptureHooks, CaptureOptions, Microphone

    microphone = open_microphone()
    microphone.control("set-source-mute", "mic.monitor", "1")
    hooks = CaptureHooks(device=lambda *_: None, dropped=lambda _: None, failed=lambda _: None)
    capture = Microphone(CaptureOptions(device=microphone.device), hooks)
    heard = Listener()
    hearing = Hearing(detector, OracleRecognizer([]))
    session = DictationSession(SessionOptions(), hearing, capture.form, capture.ring, heard)
    session.start()
    capture.start()
    until(lambda: any(isinstance(f.error, DigitalSilence) for f in heard.of(Failed)), 4)
    capture.close()
    assert heard.ended.wait(5)


def test_an_unplugged_microphone_whose_stream_goes_on_elsewhere(
    open_microphone, until, detector
) -> None:
    """The sound server moves the stream to another source: no flag says so, only zeros do; sound from there ends them."""
    from audio.capture import CaptureHooks, CaptureOptions, Microphone

    other = "module-null-sink sink_name=other rate=16000 channels=1 format=s16le norewinds=1"
    microphone = open_microphone(other)
    hooks = CaptureHooks(device=lambda *_: None, dropped=lambda _: None, failed=lambda _: None)
    capture = Microphone(CaptureOptions(device=microphone.device), hooks)
    heard = Listener()
    hearing = Hearing(detector, OracleRecognizer([]))
    options = SessionOptions(idle_s=None)
    session = DictationSession(options, hearing, capture.form, capture.ring, heard)
    session.start()
    capture.start()
    until(lambda: bool(heard.of(Ready)), 5)
    noise = np.random.default_rng(0).integers(-3000, 3000, SAMPLE_RATE).astype(np.int16)
    microphone.play(noise).wait(20)
    modules = microphone.control("list", "short", "modules").splitlines()
    [number] = [line.split()[0] for line in modules if "sink_name=mic " in line]
    microphone.control("unload-module", number)
    until(lambda: any(isinstance(f.error, DigitalSilence) for f in heard.of(Failed)), 6)
    microphone.play(noise, sink="other").wait(20)
    until(lambda: any(e.state == "audible" for e in heard.of(DeviceChanged)), 5)
    capture.close()
    assert heard.ended.wait(5)
