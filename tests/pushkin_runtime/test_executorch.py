"""The ExecuTorch engine's own parts: weights, caches that rows share, programs on disk."""

from __future__ import annotations

import math
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
import torch

from pushkin_runtime.engines import executorch_build
from pushkin_runtime.engines.base import EngineOptions
from pushkin_runtime.engines.executorch_build import find_program, program_name
from pushkin_runtime.engines.executorch_cache import ExecutorchKVCache, sight
from pushkin_runtime.engines.executorch_weights import symmetric_codes
from pushkin_runtime.engines.registry import EngineChoice, create_engine
from pushkin_runtime.engines.torch_linear import StoredMatrix, dequantize
from pushkin_runtime.errors import EngineUnavailable, ModelCorrupt, ModelUnsupported
from pushkin_runtime.model_config import parse_config
from pushkin_runtime.model_store import open_model
from pushkin_runtime.quantize import Recipe, quantize_model
from tests.pushkin_runtime.conftest import CONFIG, WINDOW


def stored_matrix(weights: np.ndarray) -> StoredMatrix:
    parts = (np.array(part) for part in mx.quantize(mx.array(weights), group_size=64, bits=4))
    packed, scales, biases = (torch.from_numpy(part) for part in parts)
    return StoredMatrix(packed.view(torch.int32), scales, biases, 4)


def test_weights_whose_zero_is_in_the_middle_convert_exactly() -> None:
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 16, (8, 128), dtype=np.uint8)
    packed = torch.from_numpy((codes[:, ::2] | codes[:, 1::2] << 4).view(np.int32).copy())
    scales = torch.from_numpy(2.0 ** -rng.integers(3, 9, (8, 2)).astype(np.float32))
    stored = StoredMatrix(packed, scales, -8 * scales, 4)

    ours, our_scales = symmetric_codes(stored)

    assert our_scales.shape == (8, 2)
    again = ours.view(8, 2, 64) * our_scales[..., None]
    torch.testing.assert_close(again.view(8, 128), dequantize(stored), rtol=0, atol=0)


def test_other_weights_are_rounded_to_the_nearest_codes() -> None:
    stored = stored_matrix(np.random.default_rng(1).standard_normal((64, 256)).astype(np.float32))
    exact = dequantize(stored)

    codes, scales = symmetric_codes(stored)

    assert codes.dtype == torch.int8
    assert scales.shape == (64, 8)
    assert int(codes.min()) >= -8
    assert int(codes.max()) <= 7
    assert torch.equal(scales, scales.to(torch.bfloat16).float())
    again = (codes.view(64, 8, 32) * scales[..., None]).view(64, 256)
    assert float((again - exact).norm() / exact.norm()) < 0.09


def rows_seen(cache: ExecutorchKVCache, end: int, window: int | None) -> list[set[int]]:
    seen = sight(cache, end, window)
    slots = np.arange(seen.span.start, seen.span.stop)
    return [set(slots[(row == 0).numpy()].tolist()) for row in seen.mask]


def test_rows_see_what_they_share_and_their_own_tokens_within_the_window() -> None:
    cache = ExecutorchKVCache(parse_config(CONFIG, "tiny"), torch.float32)
    cache.reserve(20)
    cache.n_tokens = 20
    rows = cache.forked(parse_config(CONFIG, "tiny"), 20, 3)
    rows.reserve(26)
    rows.n_tokens = 25  # five steps: slots 20 to 34, three for each position

    everything = rows_seen(rows, 26, None)
    near = rows_seen(rows, 26, WINDOW)

    for row in range(3):
        own = {20 + 3 * step + row for step in range(6)}
        assert everything[row] == set(range(20)) | own
        assert near[row] == set(range(10, 20)) | own  # positions 10 to 25
    narrow = rows_seen(rows, 26, 4)
    assert narrow[1] == {20 + 3 * step + 1 for step in range(2, 6)}


def test_a_chunk_of_a_prompt_is_causal() -> None:
    cache = ExecutorchKVCache(parse_config(CONFIG, "tiny"), torch.float32)
    cache.reserve(12)
    cache.n_tokens = 9

    assert rows_seen(cache, 12, None) == [set(range(n)) for n in (10, 11, 12)]
    assert rows_seen(cache, 12, 5) == [set(range(first, first + 5)) for first in (5, 6, 7)]
    assert sight(cache, 12, 5).mask.min() == -math.inf


def test_a_program_is_made_once_and_a_broken_export_leaves_nothing(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = open_model(tiny_model)
    folder = tmp_path / "cache"

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("pushkin_runtime.engines.executorch_export.export_program", lambda *_: 0)
    monkeypatch.setattr("pushkin_runtime.engines.executorch_export.write_program", interrupted)
    with pytest.raises(KeyboardInterrupt), find_program(spec, folder):
        pass
    assert list(folder.iterdir()) == []

    (folder / program_name(spec)).write_bytes(b"made before")
    with find_program(spec, folder) as path:
        assert path.read_bytes() == b"made before"


def test_a_damaged_program_is_an_error_that_names_it(tiny_model: Path, tmp_path: Path) -> None:
    path = tmp_path / program_name(open_model(tiny_model))
    path.write_bytes(b"not a program" * 100)

    with pytest.raises(ModelCorrupt, match=path.name):
        create_engine(
            EngineChoice("executorch", "test"),
            EngineOptions(model_dir=tiny_model, cache_dir=tmp_path),
        )


def test_a_program_of_another_model_is_refused(
    tiny_model: Path, quantized_model: Path, programs: Path, tmp_path: Path
) -> None:
    with find_program(open_model(tiny_model), programs) as path:
        (tmp_path / program_name(open_model(quantized_model))).write_bytes(path.read_bytes())

    with pytest.raises(ModelCorrupt, match="Export the model again"):
        create_engine(
            EngineChoice("executorch", "test"),
            EngineOptions(model_dir=quantized_model, cache_dir=tmp_path),
        )


def test_without_executorch_the_engine_says_what_to_install(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> str:
        raise executorch_build.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(executorch_build.metadata, "version", missing)
    with pytest.raises(EngineUnavailable, match="extra 'executorch'"):
        create_engine(
            EngineChoice("executorch", "test"),
            EngineOptions(model_dir=tiny_model, cache_dir=Path("unused")),
        )


def test_matrices_of_more_bits_are_not_rounded_to_four(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quantize_model(open_model(tiny_model), tmp_path / "mixed", Recipe(mixed_bits=8))
    monkeypatch.setattr(executorch_build, "SMALL_MODEL", 1000)

    with (
        pytest.raises(ModelUnsupported, match="got some of 8, which would be rounded"),
        find_program(open_model(tmp_path / "mixed"), tmp_path / "cache"),
    ):
        pass
