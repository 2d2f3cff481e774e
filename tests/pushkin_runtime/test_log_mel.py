"""Log-mel spectrograms are Whisper's own."""

from __future__ import annotations

import numpy as np
import pytest
from transformers import WhisperFeatureExtractor

from pushkin_runtime.log_mel import SAMPLE_RATE, log_mel, mel_filters

TOLERANCE = 1e-4


def speechlike(n: int, seed: int = 0) -> np.ndarray:
    """Noise that comes and goes, at speech's level."""
    rng = np.random.default_rng(seed)
    swell = np.sin(np.arange(n) / 3000) ** 2
    return (0.1 * swell * rng.standard_normal(n)).astype(np.float32)


@pytest.mark.parametrize("n_mels", [80, 128])
def test_equals_transformers_feature_extractor(n_mels: int) -> None:
    samples = speechlike(30 * SAMPLE_RATE)
    reference = WhisperFeatureExtractor(feature_size=n_mels)(
        samples, sampling_rate=SAMPLE_RATE, return_tensors="np"
    ).input_features[0]
    found = log_mel(samples, n_mels)
    assert found.shape == reference.shape == (n_mels, 3000)
    assert np.abs(found - reference).max() < TOLERANCE


def test_a_short_clip_is_the_beginning_of_the_padded_one() -> None:
    samples = speechlike(2 * SAMPLE_RATE)
    samples[-800:] = (
        0  # at its edge a clip is mirrored, padding is silence: alike only where there is silence
    )
    padded = WhisperFeatureExtractor()(
        samples, sampling_rate=SAMPLE_RATE, return_tensors="np"
    ).input_features[0]
    found = log_mel(samples, 80)
    assert found.shape == (80, 200)
    assert np.abs(found - padded[:, :200]).max() < TOLERANCE


def test_every_filter_has_an_area_of_one() -> None:
    for n_mels in (80, 128):
        areas = mel_filters(n_mels).sum(1) * (SAMPLE_RATE / 400)
        assert np.allclose(areas[n_mels // 2 :], 1.0, atol=0.1)
