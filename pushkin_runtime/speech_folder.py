"""Speech models on disk: an encoder folder (config.json and one safetensors file)."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors.numpy import load_file

from pushkin_runtime.speech_model import EncoderConfig, FloatArray, encoder_config, encoder_weights


def read_encoder(folder: Path) -> tuple[EncoderConfig, dict[str, FloatArray]]:
    config = encoder_config(json.loads((folder / "config.json").read_text()), folder.name)
    [path] = folder.glob("*.safetensors")
    return config, encoder_weights(config, load_file(path), path.name)
