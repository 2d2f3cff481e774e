"""Quantising for the command: the runtime's job, the text its loss is measured on, and how much memory it took."""

from __future__ import annotations

import gc
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from daemon.errors import InputError
from daemon.paths import bundled_models

if TYPE_CHECKING:
    from pushkin_runtime.held_out import HeldOut
    from pushkin_runtime.quantize import QuantizeReport, Recipe

_OUR_TEXT = "held-out.txt"  # beside the models that come with us
MAX_TEXT_BYTES = 1 << 20


def held_out_text(path: Path | None) -> str:
    """Return the text of `path`, or of ours. Raises InputError for one that is not prose in UTF-8."""
    path = path or bundled_models() / _OUR_TEXT
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; give --eval-text or --no-eval.") from error
    if len(content) > MAX_TEXT_BYTES:
        raise InputError(f"{path}: {len(content)} bytes, expected at most {MAX_TEXT_BYTES}.")
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 at byte {error.start}.") from error
    if not text.strip():
        raise InputError(f"{path}: there is no text in it.")
    return text


def quantize(
    source: Path, output: Path, recipe: Recipe, on_progress: Callable[[int, int], None]
) -> QuantizeReport:
    """Check the model in `source` and write it quantised. Raises RuntimeFault or OSError."""
    from pushkin_runtime.model_store import open_model
    from pushkin_runtime.quantize import quantize_model

    return quantize_model(open_model(source), output.absolute(), recipe, on_progress)


def measure(folder: Path, text: str) -> HeldOut:
    """Load the model in `folder` with the engine that reads every layout here, and score `text`."""
    from pushkin_runtime.engines.base import EngineOptions
    from pushkin_runtime.engines.registry import EngineChoice, choose_engine, create_engine
    from pushkin_runtime.held_out import held_out_loss

    auto = choose_engine("auto")
    choice = auto if auto.name == "mlx" else EngineChoice("torch", "reads every layout")
    engine = create_engine(choice, EngineOptions(model_dir=folder))
    try:
        return held_out_loss(engine, text)
    finally:
        engine.close()
        gc.collect()  # two models at once would not fit where one does


def peak_rss() -> int:
    """The most memory this process has had, in bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
