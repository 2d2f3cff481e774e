"""A model in floats (or in more bits) → a new model folder in INT4, tensor by tensor: any size in little memory.

The numbers are mx.quantize's of the bfloat16 weights, the layout is mlx-lm's, which every engine of ours reads.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401 - teaches NumPy bfloat16, through which safetensors slices
import mlx.core as mx
from safetensors import safe_open

from adapters.tensor_writer import header_bytes, write_new
from pushkin_runtime.affine import expand, quantize_symmetric, square, to_bytes
from pushkin_runtime.errors import InvalidRequest
from pushkin_runtime.model_config import ModelConfig, Quantization
from pushkin_runtime.model_folder import (
    WEIGHTS_NAME,
    copy_rest,
    new_model_folder,
    write_manifest,
)
from pushkin_runtime.model_store import ModelSpec, expected_shapes

BLOCK = 1 << 24  # weights worked on at once: 64 MB as float32, and a few copies
SYMMETRIC_GROUP_SIZE = 32  # of GGUF's Q4_0
ROOM = 1.02  # of the disk, times what the weights take


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How to quantise.

    mixed_bits: of the matrices that suffer most (`is_sensitive`); None treats all alike. symmetric: INT4 with
    bias = -8 · scale in groups of 32, which GGUF's Q4_0 and XNNPACK hold exactly.
    """

    bits: int = 4
    group_size: int = 64
    mixed_bits: int | None = None
    symmetric: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizeReport:
    """What was written.

    n_bytes, source_bytes: of the weight files. bits_per_weight: of all that is stored, scales, biases and norms
    included. rounding_error: ‖stored − source‖ / ‖source‖ over all quantised matrices, Frobenius norms.
    """

    quantization: str
    n_parameters: int
    n_matrices: int
    n_sensitive: int
    n_bytes: int
    source_bytes: int
    bits_per_weight: float
    rounding_error: float


def is_sensitive(module: str, n_layers: int) -> bool:
    """Whether `module` keeps more bits in a mixed model: the head, and values and FFN outputs of some layers.

    The layers are the first and the last eighth and every third between. Source: `use_more_bits` of llama.cpp's
    Q4_K_M (src/llama-quant.cpp), which mlx-lm's mixed recipes follow (mlx_lm/convert.py). A tied head stays with
    the embeddings, as in mlx-lm: it is a sixth of a 4B's bytes.
    """
    if module == "lm_head":
        return True
    if not module.endswith(("self_attn.v_proj", "mlp.down_proj")):
        return False
    layer, eighth = int(module.split(".")[1]), n_layers // 8
    return layer < eighth or layer >= 7 * n_layers // 8 or (layer - eighth) % 3 == 2


def quantize_model(
    spec: ModelSpec,
    out: Path,
    recipe: Recipe,
    on_progress: Callable[[int, int], None] = lambda n_done, n_total: None,
) -> QuantizeReport:
    """Write the quantised model as the new folder `out`.

    on_progress(n_done, n_total): weights. Raises InvalidRequest when `out` exists, the source has no more bits than
    the recipe, a matrix does not divide into groups, or the disk is too small; OSError.
    """
    _check_source(spec, recipe)
    quantization = _quantization(spec.config, recipe)
    job = _Job(spec, recipe, quantization, on_progress)
    with new_model_folder(out) as made:
        _check_room(made, job.n_bytes)
        written = write_new(made / WEIGHTS_NAME, job.parts())
        copy_rest(spec, made, quantization)
        write_manifest(made, quantized={"source_id": spec.id, "source_digest": spec.digest})
    return QuantizeReport(
        quantization=quantization.label,
        n_parameters=spec.n_parameters,
        n_matrices=job.n_matrices,
        n_sensitive=len(quantization.exceptions),
        n_bytes=written.n_bytes,
        source_bytes=spec.n_bytes,
        bits_per_weight=8 * written.n_bytes / spec.n_parameters,
        rounding_error=math.sqrt(job.error / job.norm) if job.norm else 0.0,
    )


def _check_source(spec: ModelSpec, recipe: Recipe) -> None:
    own = spec.config.quantization
    if own is not None and own.bits <= recipe.bits:
        raise InvalidRequest(
            f"{spec.id} is quantised already ({spec.quantization}); {recipe.bits} bits would only add to its error. "
            "Give the model it was made from.",
            param="source",
        )
    if recipe.symmetric and (recipe.bits, recipe.group_size, recipe.mixed_bits) != (
        4,
        SYMMETRIC_GROUP_SIZE,
        None,
    ):
        raise InvalidRequest(
            f"The symmetric form is 4 bits in groups of {SYMMETRIC_GROUP_SIZE}, all matrices alike.",
            param="symmetric",
        )
    odd = [
        f"{name} {shape}"
        for name, shape in expected_shapes(spec.config).items()
        if len(shape) == 2 and shape[1] % recipe.group_size
    ]
    if odd:
        raise InvalidRequest(
            f"{spec.id}: rows of {odd[0]} and {len(odd) - 1} more do not divide into groups of "
            f"{recipe.group_size}; try --group-size 32.",
            param="group_size",
        )


def _check_room(folder: Path, n_bytes: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < n_bytes * ROOM:
        raise InvalidRequest(
            f"{folder.parent}: {n_bytes / 1e9:.2f} GB are needed and {free / 1e9:.2f} GB are free. "
            "Name a folder on another disk, or make room.",
            param="out",
        )


def _quantization(config: ModelConfig, recipe: Recipe) -> Quantization:
    exceptions: dict[str, Quantization] = {}
    if recipe.mixed_bits is not None:
        more = Quantization(group_size=recipe.group_size, bits=recipe.mixed_bits)
        modules = [name.removesuffix(".weight") for name in expected_shapes(config)]
        exceptions = {m: more for m in modules if is_sensitive(m, config.n_layers)}
    return Quantization(group_size=recipe.group_size, bits=recipe.bits, exceptions=exceptions)


class _Job:
    """The tensors to write, in order; error and norm: sums of squares over the matrices written so far."""

    def __init__(
        self,
        spec: ModelSpec,
        recipe: Recipe,
        quantization: Quantization,
        on_progress: Callable[[int, int], None],
    ) -> None:
        self._spec, self._recipe, self._quantization = spec, recipe, quantization
        self._on_progress, self._n_done = on_progress, 0
        self._shapes = expected_shapes(spec.config)
        layout: dict[str, tuple[str, tuple[int, ...]]] = {}
        for name in sorted(self._shapes):
            layout |= self._layout(name)
        self._header = header_bytes(layout, {"format": "mlx"})
        sizes = {"U32": 4, "BF16": 2}
        data = sum(sizes[dtype] * math.prod(shape) for dtype, shape in layout.values())
        self.n_bytes = len(self._header) + data
        self.n_matrices = sum(len(shape) == 2 for shape in self._shapes.values())
        self.error = self.norm = 0.0

    def parts(self) -> Iterator[bytes]:
        """Yield the bytes of the new weights file."""
        yield self._header
        for name in sorted(self._shapes):
            yield from self._tensors(name)
            mx.clear_cache()

    def _layout(self, name: str) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Stored name → dtype and shape of what `_tensors` yields, in its order."""
        stored, shape = self._spec.tensors[name].stored_name, self._shapes[name]
        if len(shape) == 1:
            return {stored: ("BF16", shape)}
        own = self._quantization.of(name.removesuffix(".weight"))
        stem = stored.removesuffix("weight")
        groups = (shape[0], shape[1] // own.group_size)
        return {
            stored: ("U32", (shape[0], shape[1] * own.bits // 32)),
            f"{stem}scales": ("BF16", groups),
            f"{stem}biases": ("BF16", groups),
        }

    def _tensors(self, name: str) -> Iterator[bytes]:
        """Yield a norm, or the codes, scales and biases of a matrix, which is worked on in blocks of rows."""
        shape = self._shapes[name]
        if len(shape) == 1:
            yield to_bytes(self._rows(name, slice(None)))
            self._count(shape[0])
            return
        n_at_once = max(1, BLOCK // shape[1])
        blocks = []
        for start in range(0, shape[0], n_at_once):
            rows = slice(start, min(start + n_at_once, shape[0]))
            blocks.append([to_bytes(part) for part in self._quantized(name, rows)])
            self._count((rows.stop - rows.start) * shape[1])
        for parts in zip(*blocks, strict=True):
            yield from parts

    def _count(self, n_weights: int) -> None:
        self._n_done += n_weights
        self._on_progress(self._n_done, self._spec.n_parameters)

    def _quantized(self, name: str, rows: slice) -> list[mx.array]:
        weights, own = self._rows(name, rows), self._quantization.of(name.removesuffix(".weight"))
        exact = weights.astype(mx.float32)
        if self._recipe.symmetric:
            parts = quantize_symmetric(exact, own.group_size)
        else:
            parts = list(mx.quantize(weights, own.group_size, own.bits))
        self.error += square(expand(parts[0], parts[1], parts[2], own) - exact)
        self.norm += square(exact)
        return parts

    def _rows(self, name: str, rows: slice) -> mx.array:
        """Return rows of a tensor of the source in bfloat16; only these are read."""
        stored = self._read(name, rows)
        own = self._spec.config.quantization
        stem = name.removesuffix("weight")
        if own is None or f"{stem}scales" not in self._spec.tensors:
            return stored.astype(mx.bfloat16)
        scales, biases = (self._read(f"{stem}{part}", rows) for part in ("scales", "biases"))
        weights = expand(stored, scales, biases, own.of(stem.removesuffix(".")))
        return weights.astype(mx.bfloat16)

    def _read(self, name: str, rows: slice) -> mx.array:
        file = self._spec.tensors[name]
        with safe_open(
            file.path, framework="mlx"
        ) as opened:  # a mapping of its own, gone at the end
            part: Any = opened.get_slice(file.stored_name)[rows]
        array: mx.array = part
        mx.eval(array)
        return array
