"""Chunks may be cut anywhere, rates may be any: the sound is the same and as long."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audio.errors import FormatUnsupported
from audio.pcm import SAMPLE_RATE, PcmFormat, PcmReader, to_pcm
from audio.resample import Resampler


@given(st.binary(max_size=4000), st.lists(st.integers(0, 97), max_size=80), st.integers(1, 3))
def test_odd_chunks_make_the_same_samples(data: bytes, cuts: list[int], channels: int) -> None:
    form = PcmFormat(channels=channels)
    reader, parts, at = PcmReader(form), [], 0
    for cut in [*cuts, len(data)]:
        parts.append(reader.read(data[at : at + cut]))
        at += cut

    assert np.array_equal(np.concatenate(parts), PcmReader(form).read(data))


def test_channels_are_averaged_and_floats_clipped() -> None:
    stereo = np.array([100, 300, -32768, -32768], "<i2").tobytes()
    floats = np.array([0.5, 2.0, np.nan, -np.inf], "<f4").tobytes()

    assert PcmReader(PcmFormat(channels=2)).read(stereo).tolist() == [200, -32768]
    assert PcmReader(PcmFormat(encoding="f32le")).read(floats).tolist() == [16384, 32767, 0, 0]


@pytest.mark.parametrize(
    ("form", "param"),
    [
        ({"encoding": "u8"}, "format"),
        ({"rate": 4000}, "rate"),
        ({"rate": 10**9}, "rate"),
        ({"channels": 0}, "channels"),
        ({"channels": 99}, "channels"),
    ],
)
def test_a_format_that_is_not_taken_is_named(form: dict, param: str) -> None:
    with pytest.raises(FormatUnsupported) as caught:
        PcmFormat(**form)

    assert caught.value.param == param


@settings(max_examples=15, deadline=None)
@given(
    st.sampled_from([8000, 11025, 22050, 44100, 48000, 96000]),
    st.integers(1, 5000),
    st.integers(0, 2**32 - 1),
)
def test_resampling_by_blocks_has_no_drift_and_no_noise(rate: int, block: int, seed: int) -> None:
    n = rate * 2
    times = np.arange(n) / rate
    frequency = np.random.default_rng(seed).uniform(200, 3000)
    tone = (0.5 * np.sin(2 * np.pi * frequency * times)).astype(np.float32)
    pcm, resampler = to_pcm(tone), Resampler(rate)
    parts = [resampler.push(pcm[i : i + block]) for i in range(0, n, block)]
    parts.append(resampler.push(pcm[:0], is_last=True))
    out = np.concatenate(parts)

    assert len(out) == round(n * SAMPLE_RATE / rate)
    expected = 0.5 * np.sin(2 * np.pi * frequency * np.arange(len(out)) / SAMPLE_RATE)
    inner = slice(400, -400)
    error = out[inner] - expected[inner]
    snr = 10 * np.log10(np.mean(expected[inner] ** 2) / np.mean(error**2))
    assert snr > 30
