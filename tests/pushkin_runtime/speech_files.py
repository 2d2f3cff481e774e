"""Tiny speech models of the real shape: a random Whisper encoder, a random projector."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from adapters.checked_folder import About, write_folder
from pushkin_runtime.log_mel import SAMPLE_RATE
from pushkin_runtime.speech_folder import KIND, weights_sha256
from pushkin_runtime.speech_model import EncoderConfig, encoder_config, encoder_shapes

ENCODER: dict[str, Any] = {
    "num_mel_bins": 80,
    "d_model": 32,
    "encoder_layers": 2,
    "encoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "max_source_positions": 1500,
}
N_STACK = 3
ROW_RMS = 0.8


def tiny_encoder(
    seed: int = 0, **changes: int
) -> tuple[dict[str, Any], EncoderConfig, dict[str, np.ndarray]]:
    """A config as in config.json, the same read, and random weights."""
    content = ENCODER | changes
    config = encoder_config(content, "config.json")
    rng = np.random.default_rng(seed)
    weights = {
        name: (rng.standard_normal(shape) * 0.2).astype(np.float32)
        for name, shape in encoder_shapes(config).items()
    }
    return content, config, weights


def write_encoder(folder: Path, prefix: str = "", **changes: int) -> None:
    """Write an encoder in Hugging Face's layout."""
    content, _, weights = tiny_encoder(**changes)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(content))
    save_file({prefix + name: a for name, a in weights.items()}, folder / "encoder.safetensors")


def write_projector(
    folder: Path, encoder: Path, base_digest: str, hidden_size: int, **settings: Any
) -> None:
    """Write a random projector for an encoder's folder."""
    rng = np.random.default_rng(1)
    arrays = {
        "first": rng.standard_normal((24, N_STACK * ENCODER["d_model"])) * 0.1,
        "first_bias": np.zeros(24),
        "second": rng.standard_normal((hidden_size, 24)) * 0.2,
        "second_bias": np.zeros(hidden_size),
        "row_rms": np.array([ROW_RMS]),
        "heard": rng.standard_normal((6, hidden_size)),
        "heard_bias": np.zeros(6),
    }
    named = {
        "encoder": encoder.name,
        "encoder_sha256": weights_sha256(encoder),
        "n_stack": N_STACK,
        "base_digest": base_digest,
    }
    about = About(settings=named | settings, licence="test", facts={})
    halves = {name: array.astype(np.float16) for name, array in arrays.items()}
    write_folder(folder, KIND, halves, about)


def speechlike(seconds: float, seed: int = 0) -> np.ndarray:
    """Noise that comes and goes, at speech's level: (n,) float32 at 16 kHz."""
    n = round(seconds * SAMPLE_RATE)
    rng = np.random.default_rng(seed)
    return (0.1 * np.sin(np.arange(n) / 3000) ** 2 * rng.standard_normal(n)).astype(np.float32)
