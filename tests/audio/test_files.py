"""Recordings are read in bounded memory, and cut where people pause."""

from __future__ import annotations

import io
import tracemalloc

import numpy as np
import pytest
import soundfile

from audio.decoder import DecodingLimits, read_file
from audio.errors import AudioTooLong, AudioUnreadable
from audio.files import Transcription, transcribe
from audio.oracle import OracleRecognizer, TimedWord
from audio.pcm import SAMPLE_RATE, to_samples
from audio.session import Hearing


def file_of(sound: np.ndarray, rate: int = SAMPLE_RATE, form: str = "FLAC") -> bytes:
    file = io.BytesIO()
    soundfile.write(file, sound, rate, format=form)
    return file.getvalue()


def test_an_hour_is_read_in_the_memory_of_seconds() -> None:
    content = file_of(np.zeros(3600 * 8000, np.int16), 8000)
    tracemalloc.start()
    n_samples = sum(len(part) for part in read_file(content))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert n_samples == 3600 * SAMPLE_RATE
    assert peak < 4 * 2**20


def test_a_small_file_that_unpacks_to_hours_is_stopped_at_the_limit() -> None:
    content = file_of(np.zeros(400 * 8000, np.int16), 8000)
    assert len(content) < 20_000
    n_read = 0
    with pytest.raises(AudioTooLong):  # noqa: PT012 - how far it came is the claim
        for part in read_file(content, DecodingLimits(duration_s=60)):
            n_read += len(part)

    assert n_read <= 60 * SAMPLE_RATE


@pytest.mark.parametrize(
    "content", [b"", b"RIFF", b"\0" * 1000, b"ID3" + b"\xff" * 100, b"OggS" * 9]
)
def test_what_is_no_sound_is_unreadable(content: bytes) -> None:
    with pytest.raises(AudioUnreadable):
        list(read_file(content))


def test_utterances_have_their_times_whatever_the_rate(detector, speak) -> None:
    spoken = speak("the quick brown fox jumps over the lazy dog")
    gap = np.zeros(2 * SAMPLE_RATE, np.float32)
    sound = to_samples(spoken.pcm)
    words = [TimedWord(w.text, w.start, w.end) for w in spoken.words]
    hearing = Hearing(detector, OracleRecognizer(words, reference=sound))
    heard = []
    whole = np.concatenate((gap, sound, gap, sound))
    transcript = transcribe(file_of(whole), Transcription(), hearing, heard.append, lambda: False)

    assert transcript.segments == tuple(heard)
    assert [segment.text for segment in heard] == [" ".join(w.text for w in spoken.words)] * 2
    last_word = 2 + spoken.words[-1].end / SAMPLE_RATE
    assert heard[0].start_s == pytest.approx(2, abs=0.6)
    assert heard[0].end_s == pytest.approx(last_word, abs=0.3)
    assert transcript.duration_s == pytest.approx(len(whole) / SAMPLE_RATE, abs=1e-3)


def test_nobody_waiting_ends_it(detector, speak) -> None:
    spoken = speak("the quick brown fox jumps over the lazy dog")
    recognizer = OracleRecognizer([], reference=to_samples(spoken.pcm))
    content = file_of(np.tile(to_samples(spoken.pcm), 5))
    transcript = transcribe(
        content, Transcription(), Hearing(detector, recognizer), lambda _: None, lambda: True
    )

    assert transcript.segments == ()
    assert transcript.duration_s < 2
