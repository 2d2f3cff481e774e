"""Dictation under a persona: half of the batches read as they will be served to somebody with documents.

Serving adds the persona adapter to the audio LoRA and puts the plug's rows first. Here the adapter's update is added to the
frozen weights and taken off again, and the rows are those of made-up paragraph vectors.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from adapters.format import JSON_NAME, WEIGHTS_NAME, parse_manifest
from indexer.persona_vector import PersonaPlug, load_persona_plug
from indexer.style_encoder import load_style_encoder

_LAYER = re.compile(r".*?(layers\.\d+\..+)\.base_layer\.weight")
_PARAGRAPHS = 16


class PersonaSwitch:
    """Turns the persona adapter of a base with a LoRA on and off, exactly."""

    def __init__(self, model: nn.Module, adapter: Path, style_encoder: Path) -> None:
        manifest = parse_manifest((adapter / JSON_NAME).read_bytes(), adapter.name)
        tensors = load_file(adapter / WEIGHTS_NAME)
        self._weights: list[tuple[nn.Parameter, Tensor, Tensor]] = []
        for name, parameter in model.named_parameters():
            match = _LAYER.fullmatch(name)
            if match and f"{match[1]}.lora_a" in tensors:
                a, b = (tensors[f"{match[1]}.lora_{side}"].float() for side in "ab")
                changed = parameter.detach() + manifest.scale * (b @ a)
                self._weights.append((parameter, parameter.detach().clone(), changed))
        if len(self._weights) != len(tensors) // 2:
            raise ValueError(
                f"{adapter} does not fit: {len(self._weights)} of {len(tensors) // 2} matrices have a place"
            )
        space = load_style_encoder(style_encoder).space
        config: Any = model.config
        self._n_dimensions = space.n_dimensions
        self._plug: PersonaPlug = load_persona_plug(
            adapter, space, config.get_text_config().hidden_size
        )

    def set(self, is_on: bool) -> None:
        """Put the weights with or without the persona adapter in place."""
        for parameter, plain, changed in self._weights:
            parameter.data = changed if is_on else plain

    def rows(self, seed: int) -> Tensor:
        """A persona's rows (n_rows, hidden_size), of paragraphs that nobody wrote."""
        source = np.random.default_rng(seed)
        vectors = source.standard_normal((_PARAGRAPHS, self._n_dimensions)).astype(np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        documents = [str(i % 5) for i in range(_PARAGRAPHS)]
        return torch.from_numpy(self._plug.persona(None, vectors, documents).rows)
