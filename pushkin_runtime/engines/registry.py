"""Which engines exist and which one runs here; heavy imports happen only when one is chosen."""

from __future__ import annotations

import importlib
import importlib.util
import platform
import sys
from dataclasses import dataclass

from pushkin_runtime.engines.base import Engine, EngineOptions
from pushkin_runtime.errors import EngineUnavailable
from pushkin_runtime.model_store import require_files

ENGINES: dict[str, str] = {
    "mlx": "pushkin_runtime.engines.mlx_engine:MlxEngine",
    "torch": "pushkin_runtime.engines.torch_engine:TorchEngine",
    "scripted": "pushkin_runtime.engines.scripted_engine:ScriptedEngine",
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
    return EngineChoice("torch", "no Metal on this machine: PyTorch on the CPU")


def create_engine(choice: EngineChoice, options: EngineOptions) -> Engine:
    """Load the model with the chosen engine, on the calling thread.

    Raises ModelError for a bad model folder, EngineUnavailable when the library cannot be imported.
    """
    if choice.name not in MODEL_FREE:
        require_files(options.model_dir)  # before seconds of imports
    module_name, class_name = ENGINES[choice.name].split(":")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise EngineUnavailable(
            f"The {choice.name} engine needs a library that cannot be imported here ({error}). "
            "Install the project again, or choose another engine."
        ) from error
    engine: Engine = getattr(module, class_name)(options)
    return engine
