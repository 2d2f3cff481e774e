"""A `.pte` file opened with ExecuTorch's runtime; every call is on the thread that loaded it."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pushkin_runtime.engines.executorch_export import FORMAT, MAX_HEAD_ROWS
from pushkin_runtime.errors import EngineFailed, EngineUnavailable, ModelCorrupt

_PACKAGE = "executorch"


class ExecutorchProgram:
    """The methods of a program. Its planned memory is shared by them: what one returns lasts until the next call."""

    def __init__(self, path: Path, digest: str, n_threads: int) -> None:
        runtime = _runtime()
        if runtime._threadpool_get_thread_count() != n_threads:
            runtime._unsafe_reset_threadpool(n_threads)
        try:
            self._program = runtime._load_program(str(path))
            found = tuple(
                self._program.load_method(name).call(())[0] for name in ("format", "digest")
            )
        except RuntimeError as error:
            raise ModelCorrupt(
                f"{path}: not a program that ExecuTorch can open ({error}). Remove it, or export the model again."
            ) from error
        if found != (FORMAT, digest):
            raise ModelCorrupt(
                f"{path}: made for format {found[0]} and model {found[1]:.12}, expected {FORMAT} and "
                f"{digest:.12}. Export the model again."
            )
        with translated("the program's loading"):
            self._forward = self._program.load_method("forward")
            self._head = self._program.load_method("head")

    def forward(self, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
        """Run the layers; return their rows, (n, hidden_size), until the next call. Writes into caches."""
        with translated("forward"):
            rows: torch.Tensor = self._forward.call(inputs, False)[-1]
        return rows

    def head(self, rows: torch.Tensor) -> NDArray[np.float32]:
        """rows: (n, hidden_size) → (n, vocab_size) logits of the caller."""
        rows = rows.clone()
        found = []
        for start in range(0, rows.shape[0], MAX_HEAD_ROWS):
            with translated("head"):
                part = self._head.call((rows[start : start + MAX_HEAD_ROWS],), False)[0]
            found.append(part.numpy().copy())
        return found[0] if len(found) == 1 else np.concatenate(found)


@contextmanager
def translated(what: str) -> Iterator[None]:
    """Raise what the runtime raises as EngineFailed."""
    try:
        yield
    except RuntimeError as error:
        raise EngineFailed(f"ExecuTorch could not run {what}: {error}") from error


def _runtime() -> Any:
    """Import the runtime alone: the package's own front loads the exporter too, for seconds."""
    found = importlib.util.find_spec(_PACKAGE)
    if found is None or found.submodule_search_locations is None:
        raise EngineUnavailable(
            "The executorch engine needs the executorch package, which is not installed. "
            "Install the project with the extra 'executorch', or choose another engine."
        )
    from executorch.extension.pybindings import _C

    folder = Path(next(iter(found.submodule_search_locations)))
    [library] = (folder / "extension/llm/custom_ops").glob("libcustom_ops_aot_lib.*")
    torch.ops.load_library(library)  # attention; loading it twice is harmless
    return _C
