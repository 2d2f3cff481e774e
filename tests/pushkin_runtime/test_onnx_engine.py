"""What the onnx engine does with a checkpoint's own numbers; its obligations are in the contract suite."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from pushkin_runtime.engines import onnx_engine, onnx_weights
from pushkin_runtime.engines.base import EngineOptions, Tokens
from pushkin_runtime.engines.onnx_engine import OnnxEngine
from pushkin_runtime.engines.torch_engine import TorchEngine
from pushkin_runtime.errors import ModelCorrupt, ModelUnsupported

PROMPT = tuple(np.random.default_rng(5).integers(4, 500, 90).tolist())  # the window is 16


def logits(engine: OnnxEngine | TorchEngine) -> NDArray[np.float32]:
    cache = engine.new_cache()
    engine.prefill(cache, Tokens(PROMPT[:40]))
    return engine.logits(cache, PROMPT[40:])


def symmetric(scales: NDArray[np.float32], bits: int) -> NDArray[np.float32]:
    return -scales * (1 << (bits - 1))


def at_a_code(scales: NDArray[np.float32], bits: int) -> NDArray[np.float32]:
    rng = np.random.default_rng(2)
    codes = rng.integers((1 << (bits - 1)) - 2, (1 << (bits - 1)) + 3, scales.shape)
    return -scales * codes.astype(np.float32)


def between_codes(scales: NDArray[np.float32], bits: int) -> NDArray[np.float32]:
    rng = np.random.default_rng(3)
    offsets = (1 << (bits - 1)) + rng.uniform(-1.5, 1.5, scales.shape)
    return (-scales * offsets).astype(np.float32)


@pytest.mark.parametrize("biases", [symmetric, at_a_code, between_codes])
@pytest.mark.parametrize("bits", [4, 8])
def test_any_offset_is_exact(
    bits: int,
    biases: Callable[[NDArray[np.float32], int], NDArray[np.float32]],
    quantized_with: Callable[..., Path],
) -> None:
    """MatMulNBits has whole codes as zeros; what a bias has beyond one is not rounded away."""
    folder = quantized_with(bits, biases)
    onnx, torch = (
        OnnxEngine(EngineOptions(model_dir=folder)),
        TorchEngine(EngineOptions(model_dir=folder)),
    )
    expected = logits(torch)

    assert expected.std() > 0.5
    np.testing.assert_allclose(logits(onnx), expected, atol=2e-4)


def test_int8_activations_stay_near(quantized_model: Path) -> None:
    """One scale a group of 64 inputs; six layers of 64 dimensions are the worst case for it."""
    exact = logits(OnnxEngine(EngineOptions(model_dir=quantized_model)))
    rounded = logits(OnnxEngine(EngineOptions(model_dir=quantized_model), int8_activations=True))

    assert 0 < np.abs(rounded - exact).max() < 0.25
    assert np.linalg.norm(rounded - exact) / np.linalg.norm(exact) < 0.05


def test_int8_activations_cost_the_embedded_model_next_to_nothing() -> None:
    root = Path(__file__).parents[2]
    options = EngineOptions(model_dir=root / "models" / "pushkin-mini")
    texts = [
        (root / "examples" / f"{name}.txt").read_text("utf-8") for name in ("english", "russian")
    ]

    def scores(engine: OnnxEngine) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Log-probabilities (n, vocab) after each token of the texts, and the NLL of the next, (n,)."""
        all_scores, nll = [], []
        for text in texts:
            ids = engine.tokenizer.encode(text)
            rows = engine.logits(engine.new_cache(), ids)[:-1].astype(np.float64)
            rows -= np.log(np.exp(rows).sum(1, keepdims=True))
            all_scores.append(rows)
            nll.append(-rows[np.arange(len(rows)), ids[1:]])
        return np.concatenate(all_scores), np.concatenate(nll)

    exact, exact_nll = scores(OnnxEngine(options, int8_activations=False))
    rounded, rounded_nll = scores(OnnxEngine(options))

    assert 0 < (np.exp(exact) * (exact - rounded)).sum(1).mean() < 1e-3
    assert rounded_nll.mean() == pytest.approx(exact_nll.mean(), rel=0.005)


def test_int8_activations_are_taken_from_a_size_on(
    quantized_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = EngineOptions(model_dir=quantized_model)
    monkeypatch.setattr(onnx_engine, "INT8_FROM", 1000)
    np.testing.assert_array_equal(
        logits(OnnxEngine(options)), logits(OnnxEngine(options, int8_activations=True))
    )


def test_a_large_model_of_floats_is_refused_before_it_is_read(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_engine, "SMALL_MODEL", 1000)

    with pytest.raises(ModelUnsupported, match="pushkin models quantize"):
        OnnxEngine(EngineOptions(model_dir=tiny_model))


def test_alternatives_lie_in_the_memory_of_the_prefix(tiny_model: Path) -> None:
    engine = OnnxEngine(EngineOptions(model_dir=tiny_model))
    cache = engine.new_cache()
    engine.prefill(cache, Tokens(PROMPT))
    rows = engine.fork(cache, n_tokens=len(PROMPT), n_rows=5)

    assert np.shares_memory(rows.block(), cache.block())
    for step in range(60):  # 300 slots: the block grows, for both
        engine.next_logits(rows, range(step, step + 5))
    assert np.shares_memory(rows.block(), cache.block())
    assert (rows.n_tokens, cache.n_tokens) == (len(PROMPT) + 60, len(PROMPT))


def test_alternatives_from_unpacked_matrices_are_what_one_text_gets(quantized_model: Path) -> None:
    engine = OnnxEngine(EngineOptions(model_dir=quantized_model))
    cache = engine.new_cache()
    engine.prefill(cache, Tokens(PROMPT))
    texts = np.random.default_rng(6).integers(4, 500, (5, 20))
    rows = engine.fork(cache, n_tokens=len(PROMPT), n_rows=5)
    together = [engine.next_logits(rows, tokens) for tokens in texts.T.tolist()]

    for text, following in zip(texts.tolist(), np.swapaxes(together, 0, 1), strict=True):
        np.testing.assert_allclose(engine.logits(cache, text), following, atol=2e-4)


def test_rows_that_go_on_alike_are_read_once(tiny_model: Path) -> None:
    """And so a text of one token, whose rows would be taken for a prompt of several."""
    engine = OnnxEngine(EngineOptions(model_dir=tiny_model))
    rows = engine.fork(engine.new_cache(), n_tokens=0, n_rows=3)
    first = engine.next_logits(rows, [7, 7, 7])
    apart = engine.next_logits(rows, [7, 8, 9])

    np.testing.assert_array_equal(first[0], first[2])
    assert rows.slot_of(rows.n_tokens) == 4
    for token, following in zip((7, 8, 9), apart, strict=True):
        alone = engine.logits(engine.new_cache(), [7, token])[-1]
        np.testing.assert_allclose(following, alone, atol=2e-5)


@pytest.fixture
def _as_a_large_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_engine, "SMALL_MODEL", 1000)
    monkeypatch.setattr(onnx_engine, "INT8_FROM", 1000)
    monkeypatch.setattr(onnx_weights, "SPILL_BYTES", 1)


@pytest.mark.usefixtures("_as_a_large_model")
def test_what_is_packed_may_be_let_go_of(
    quantized_with: Callable[..., Path], tmp_path: Path
) -> None:
    """Scales and zeros lie in files without a name; whoever still reads them finds the same numbers."""
    folder = quantized_with(4, between_codes)
    kept = OnnxEngine(EngineOptions(model_dir=folder))
    spilled = OnnxEngine(EngineOptions(model_dir=folder, cache_dir=tmp_path / "cache"))
    expected = logits(kept)

    assert (tmp_path / "cache").is_dir()
    assert not list((tmp_path / "cache").iterdir())
    np.testing.assert_array_equal(logits(spilled), expected)
    spilled._checkpoint.release()
    np.testing.assert_array_equal(logits(spilled), expected)


@pytest.mark.usefixtures("_as_a_large_model")
def test_without_room_for_a_file_the_numbers_stay_in_memory(
    quantized_model: Path, tmp_path: Path
) -> None:
    (tmp_path / "cache").write_text("where a folder should be")
    spilled = OnnxEngine(EngineOptions(model_dir=quantized_model, cache_dir=tmp_path / "cache"))

    expected = logits(OnnxEngine(EngineOptions(model_dir=quantized_model)))
    np.testing.assert_array_equal(logits(spilled), expected)


def test_a_changed_file_is_found_out_though_it_is_read_while_it_is_hashed(
    quantized_with: Callable[..., Path], manifest_writer: Callable[[Path], None]
) -> None:
    folder = quantized_with(4, symmetric)
    manifest_writer(folder)
    OnnxEngine(EngineOptions(model_dir=folder))
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (folder / "model.safetensors").write_bytes(weights)

    with pytest.raises(ModelCorrupt, match=r"model\.safetensors has another SHA-256"):
        OnnxEngine(EngineOptions(model_dir=folder))


def test_a_folder_of_links_is_read(quantized_model: Path, tmp_path: Path) -> None:
    """As Hugging Face's cache has them: every file somewhere else, under its hash."""
    folder = tmp_path / "model"
    folder.mkdir()
    for number, file in enumerate(sorted(quantized_model.iterdir())):
        blob = tmp_path / f"blobs-{number}" / "content"
        blob.parent.mkdir()
        blob.write_bytes(file.read_bytes())
        (folder / file.name).symlink_to(blob)

    linked = OnnxEngine(EngineOptions(model_dir=folder))

    expected = logits(OnnxEngine(EngineOptions(model_dir=quantized_model)))
    np.testing.assert_array_equal(logits(linked), expected)
