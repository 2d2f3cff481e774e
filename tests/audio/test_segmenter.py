"""Utterances from probabilities alone, and from real frames through the voice detector."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from audio.pcm import SAMPLE_RATE, to_samples
from audio.segmenter import Segmenter, SegmenterOptions, Utterance
from audio.vad import FRAME, FRAME_S


def segment(probabilities: list[float], **options: float) -> tuple[list[Utterance], Segmenter]:
    """Utterances of frames whose samples all hold their own number."""
    segmenter, found = Segmenter(SegmenterOptions(**options)), []
    for i, probability in enumerate(probabilities):
        if ended := segmenter.push(np.full(FRAME, i, np.float32), probability):
            found.append(ended)
    if ended := segmenter.flush():
        found.append(ended)
    return found, segmenter


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(1, 60), st.sampled_from([0.0, 0.2, 0.45, 0.6, 0.95])), max_size=30
    ),
    st.floats(2.0, 6.0),
)
def test_every_frame_is_its_own_and_none_is_in_two_utterances(runs, cap_s: float) -> None:
    probabilities = [p for n, p in runs for _ in range(n)]
    found, segmenter = segment(probabilities, cap_s=cap_s)

    end_before = 0
    for utterance in found:
        frames = utterance.audio().reshape(-1, FRAME)[:, 0]
        first = utterance.start // FRAME
        assert frames.tolist() == list(range(first, first + len(frames)))
        assert end_before <= utterance.start < utterance.end
        assert utterance.start <= utterance.speech_end <= utterance.end
        assert utterance.duration_s <= cap_s + 1.0
        end_before = utterance.end
    assert segmenter.position == len(probabilities) * FRAME


@settings(max_examples=50, deadline=None)
@given(st.integers(20, 1500))
def test_speech_without_a_pause_is_cut_and_nothing_is_lost_between(n: int) -> None:
    found, _ = segment([0.0] * 20 + [0.9] * n + [0.0] * 20, cap_s=5.0)

    heard = np.concatenate([u.audio().reshape(-1, FRAME)[:, 0] for u in found])
    assert np.array_equal(np.diff(heard), np.ones(len(heard) - 1))
    assert heard[0] <= 20
    assert heard[-1] >= 20 + n
    assert all(u.ending == "cap" for u in found[:-1])
    assert not any(u.is_whole for u in found[1:])


def test_the_beginning_of_the_word_before_the_onset_is_kept() -> None:
    (utterance,), _ = segment([0.0] * 50 + [0.9] * 30 + [0.0] * 30)

    pre_roll = (50 * FRAME - utterance.start) / SAMPLE_RATE
    assert 0.45 <= pre_roll <= 0.55
    assert utterance.speech_end == 80 * FRAME
    assert utterance.is_whole


def test_one_loud_frame_is_no_speech() -> None:
    found, _ = segment([0.0] * 20 + [0.99] + [0.0] * 40)
    assert found == []

    (click,), segmenter = segment([0.0] * 20 + [0.99] * 2 + [0.0] * 40)
    assert not segmenter.is_speech_enough(click)


def test_a_short_pause_stays_inside_and_an_utterance_after_it_is_not_whole() -> None:
    half, third = round(0.5 / FRAME_S), round(0.3 / FRAME_S)
    speech = [0.9] * 20
    assert len(segment(speech + [0.0] * third + speech + [0.0] * half)[0]) == 1
    assert len(segment(speech + [0.0] * (half + 1) + speech)[0]) == 2
    assert len(segment(speech + [0.0] * (third + 1) + speech, endpoint_s=0.3)[0]) == 2


def test_the_detector_hears_speech_and_its_end(detector, speak) -> None:
    spoken = speak("The quick brown fox jumps over the lazy dog.")
    silence = np.zeros(SAMPLE_RATE, np.float32)
    sound = np.concatenate((silence, to_samples(spoken.pcm), silence))
    stream, segmenter, found = detector.stream(), Segmenter(), []
    for at in range(0, len(sound) - FRAME, FRAME):
        frame = sound[at : at + FRAME]
        if ended := segmenter.push(frame, stream.probability(frame)):
            found.append(ended)

    (utterance,) = found
    last_word = spoken.words[-1].end / SAMPLE_RATE + 1
    assert utterance.start / SAMPLE_RATE < 1.0
    assert abs(utterance.speech_end / SAMPLE_RATE - last_word) < 0.3
    assert utterance.end / SAMPLE_RATE < last_word + 0.8


def test_noise_hum_and_clicks_are_not_speech(detector) -> None:
    rng, n = np.random.default_rng(0), SAMPLE_RATE * 10
    times = np.arange(n) / SAMPLE_RATE
    clicks = np.zeros(n)
    clicks[:: SAMPLE_RATE // 7] = 0.9
    sounds = {
        "zeros": np.zeros(n),
        "noise": rng.standard_normal(n) * 0.1,
        "hum": 0.3 * np.sin(2 * np.pi * 50 * times),
        "tone": 0.3 * np.sin(2 * np.pi * 440 * times),
        "clicks": clicks,
    }
    for name, sound in sounds.items():
        stream, segmenter = detector.stream(), Segmenter()
        for at in range(0, n - FRAME, FRAME):
            frame = sound[at : at + FRAME].astype(np.float32)
            segmenter.push(frame, stream.probability(frame))
        assert segmenter.current is None, name
        assert segmenter.flush() is None, name
