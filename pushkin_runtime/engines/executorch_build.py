"""Where a model's program is: in the cache folder, under a name that says all it depends on, or made now."""

from __future__ import annotations

import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

import torch
from torch import nn

from pushkin_runtime.engines.executorch_graph import Parts
from pushkin_runtime.engines.executorch_weights import read_linear, read_norm
from pushkin_runtime.errors import EngineUnavailable, ModelUnsupported
from pushkin_runtime.model_config import SMALL_MODEL
from pushkin_runtime.model_store import ModelSpec


def is_quantized(spec: ModelSpec) -> bool:
    """Whether a model's program has 4-bit weights."""
    return spec.config.quantization is not None and spec.n_parameters > SMALL_MODEL


def dtypes(spec: ModelSpec) -> tuple[torch.dtype, torch.dtype]:
    """Return the types of a program's adapters and of its keys and values."""
    return (torch.bfloat16 if is_quantized(spec) else torch.float32), torch.float32


@contextmanager
def find_program(spec: ModelSpec, cache_dir: Path | None) -> Iterator[Path]:
    """Lend the file of the model's program, exporting it first if it is not there.

    cache_dir: where it is kept; None: nowhere, a file made for the loan alone. Raises EngineUnavailable when an
    export is needed and the exporter is not installed, OSError when it cannot be written.
    """
    if cache_dir is None:
        with tempfile.TemporaryDirectory(prefix="pushkin-") as folder:
            path = Path(folder) / "model.pte"
            export_to(spec, path)
            yield path
        return
    path = cache_dir / program_name(spec)
    if not path.is_file():
        cache_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        export_to(spec, path)
    yield path


def describe(spec: ModelSpec) -> dict[str, str]:
    """What a model's program computes with, for people."""
    lora_dtype, kv_dtype = (str(dtype).removeprefix("torch.") for dtype in dtypes(spec))
    weights = "int4, 8-bit activations" if is_quantized(spec) else "float32"
    return {"weights": weights, "adapters": lora_dtype, "keys and values": kv_dtype}


def program_name(spec: ModelSpec) -> str:
    """The file's name in the cache folder: model, ExecuTorch, and our own format of the methods."""
    from pushkin_runtime.engines.executorch_export import FORMAT

    try:
        version = metadata.version("executorch")
    except metadata.PackageNotFoundError as error:
        raise _not_installed() from error
    return f"{spec.digest[:32]}-executorch-{version}-{FORMAT}.pte"


def export_to(spec: ModelSpec, path: Path) -> None:
    """Export the model's program to `path`, which is there whole or not at all.

    Raises EngineUnavailable when the exporter is not installed, ModelUnsupported for a large model with matrices of
    more than 4 bits, OSError.
    """
    quantization = spec.config.quantization
    if quantization is not None and is_quantized(spec):
        odd = {own.bits for own in (quantization, *quantization.exceptions.values())} - {4}
        if odd:
            raise ModelUnsupported(
                f"{spec.id}: a program for ExecuTorch has matrices of 4 bits; got some of {min(odd)}, which would be "
                "rounded to 4. Quantise without `--mixed`, or choose another engine."
            )
    from pushkin_runtime.engines.executorch_export import export_program, write_program

    def linear(module: str) -> nn.Module:
        return read_linear(spec, module, quantize=is_quantized(spec))

    parts = Parts(config=spec.config, linear=linear, norm=lambda name: read_norm(spec, name))
    try:
        program = export_program(parts, spec.digest, *dtypes(spec))
    except ImportError as error:
        raise _not_installed() from error
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        write_program(program, temporary)
        descriptor = os.open(temporary, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _not_installed() -> EngineUnavailable:
    return EngineUnavailable(
        "Exporting a program needs executorch and torchao, which are not installed. "
        "Install the project with the extra 'executorch', or choose another engine."
    )
