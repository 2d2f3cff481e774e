"""Which engines exist and which one runs here; heavy imports happen only when one is chosen."""

from __future__ import annotations

import importlib
import importlib.util
import platform
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pushkin_runtime.engines.base import Engine, EngineOptions, SpeechEncoder
from pushkin_runtime.errors import CapabilityMissing, EngineUnavailable
from pushkin_runtime.model_store import require_files
from pushkin_runtime.speech_model import EncoderConfig, FloatArray, Projector

ENGINES: dict[str, str] = {
    "mlx": "pushkin_runtime.engines.mlx_engine:MlxEngine",
    "onnx": "pushkin_runtime.engines.onnx_engine:OnnxEngine",
    "torch": "pushkin_runtime.engines.torch_engine:TorchEngine",
    "executorch": "pushkin_runtime.engines.executorch_engine:ExecutorchEngine",
    "scripted": "pushkin_runtime.engines.scripted_engine:ScriptedEngine",
}

SPEECH_ENCODERS: dict[str, str] = {
    "mlx": "pushkin_runtime.engines.mlx_speech:MlxSpeechEncoder",
    "onnx": "pushkin_runtime.engines.torch_speech:TorchSpeechEncoder",  # its states are NumPy's
    "torch": "pushkin_runtime.engines.torch_speech:TorchSpeechEncoder",
    "executorch": "pushkin_runtime.engines.torch_speech:TorchSpeechEncoder",
}

MODEL_FREE = frozenset({"scripted"})


@dataclass(frozen=True, slots=True)
class EngineChoice:
    """An engine's name and, for `status`, the reason it was chosen."""

    name: str
    reason: str


def choose_engine(wanted: str) -> EngineChoice:
    """Resolve "auto" for this machine. Raises EngineUnavailable for a name that does not exist."""
    if wanted != "auto":
        if wanted not in ENGINES:
            raise EngineUnavailable(
                f"No engine {wanted!r}. Choose one of: auto, {', '.join(ENGINES)}.", param="engine"
            )
        return EngineChoice(wanted, "chosen by the configuration")
    if sys.platform == "darwin" and platform.machine() == "arm64":
        return EngineChoice("mlx", "Apple silicon: Metal through MLX")
    return EngineChoice("onnx", "no Metal on this machine: ONNX Runtime on the CPU")


def create_engine(choice: EngineChoice, options: EngineOptions) -> Engine:
    """Load the model with the chosen engine, on the calling thread.

    Raises ModelError for a bad model folder, EngineUnavailable when the library cannot be imported.
    """
    engine: Engine = import_engine(choice, options.model_dir)(options)
    return engine


def import_engine(choice: EngineChoice, model_dir: Path) -> Any:
    """Import the chosen engine's class, seconds of work for some; by any thread. Raises as `create_engine`."""
    if choice.name not in MODEL_FREE:
        require_files(model_dir)  # before seconds of imports
    module_name, class_name = ENGINES[choice.name].split(":")
    try:
        return getattr(importlib.import_module(module_name), class_name)
    except ImportError as error:
        raise EngineUnavailable(
            f"The {choice.name} engine needs a library that cannot be imported here ({error}). "
            "Install the project again, or choose another engine."
        ) from error


def create_speech_encoder(
    engine: str,
    config: EncoderConfig,
    weights: Mapping[str, FloatArray],
    projector: Projector,
    n_threads: int | None = None,
) -> SpeechEncoder:
    """Bring a speech encoder into the arrays of the engine of that name.

    n_threads: of the CPU, where the library does not have its own way; None: as it is.
    Raises CapabilityMissing for an engine that hears nothing.
    """
    if engine not in SPEECH_ENCODERS:
        raise CapabilityMissing(
            f"The {engine} engine cannot hear; use mlx, onnx, torch or executorch.", param="speech"
        )
    module_name, class_name = SPEECH_ENCODERS[engine].split(":")
    make = getattr(importlib.import_module(module_name), class_name)
    encoder: SpeechEncoder = make(config, weights, projector, n_threads)
    return encoder
