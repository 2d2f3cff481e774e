"""The shipped persona on both engines: plug, adapter and model together give the same logits, √hidden included."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import save_file

from adapters.composition import LoraWeights, compose
from adapters.registry import AdapterRegistry, read_weights
from indexer.persona_vector import PersonaPlug, load_persona_plug
from indexer.style_encoder import load_style_encoder
from pushkin_runtime.engines.base import Embeddings, EngineOptions, Tokens
from pushkin_runtime.engines.registry import EngineChoice, create_engine
from pushkin_runtime.model_store import base_model, open_model

MODELS = Path(__file__).parents[2] / "models"
MINI = MODELS / "pushkin-mini"
TOLERANCE = 1e-3  # of a logit
HISTORY = (
    "The rain had stopped before they reached the gate; nobody spoke, and the lamp went out.",
    "Снег лежал до самой весны, и никто не помнил такого апреля.",
    "She laughed, put down the letter, and asked for another cup of tea.",
    "Он молчал долго, потом встал и вышел на крыльцо.",
)
TEXT = "In the evening the guests came late, and the old man"


@pytest.fixture(scope="module")
def rows() -> NDArray[np.float32]:
    encoder = load_style_encoder(MODELS / "style-encoder")
    hidden_size = open_model(MINI).config.hidden_size
    plug: PersonaPlug = load_persona_plug(MINI / "adapters" / "persona", encoder.space, hidden_size)
    vectors = encoder.embed(HISTORY)
    query = encoder.embed([TEXT])[0]
    return plug.persona(query, vectors, ["a", "a", "b", "c"]).rows


@pytest.fixture(scope="module")
def float_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped model with its INT4 matrices written out in float32: rounding is not what is compared."""
    import mlx.core as mx

    config = json.loads((MINI / "config.json").read_text("utf-8"))
    packing = config.pop("quantization")
    config.pop("quantization_config", None)
    stored: dict[str, Any] = mx.load(str(MINI / "model.safetensors"))  # type: ignore[assignment]
    weights = {}
    for name, array in stored.items():
        stem = name.removesuffix(".weight")
        if f"{stem}.scales" in stored and name.endswith(".weight"):
            parts = (array, stored[f"{stem}.scales"], stored[f"{stem}.biases"])
            array = mx.dequantize(*parts, group_size=packing["group_size"], bits=packing["bits"])
        if not name.endswith((".scales", ".biases")):
            weights[name] = np.array(array.astype(mx.float32))
    folder = tmp_path_factory.mktemp("models") / "float"
    folder.mkdir()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config | {"dtype": "float32"}))
    shutil.copy(MINI / "tokenizer.json", folder)
    return folder


@pytest.fixture(scope="module")
def adapter() -> LoraWeights:
    """The shipped one; it belongs to the shipped model, whose matrices ours are."""
    base = base_model(open_model(MINI))
    return read_weights(AdapterRegistry([MINI / "adapters"], base).find("persona"))


def logits_of(
    engine_name: str, model: Path, adapter: LoraWeights, rows: NDArray[np.float32] | None
) -> NDArray[np.float32]:
    """Of every position of TEXT, behind the persona and under its adapter."""
    engine = create_engine(EngineChoice(engine_name, "test"), EngineOptions(model_dir=model))
    cache = engine.new_cache(engine.load_lora(compose([adapter], np.dtype(engine.lora_dtype))))
    if rows is not None:
        engine.prefill(cache, Embeddings(rows))
    engine.prefill(cache, Tokens((engine.tokenizer.bos_id,)))
    logits = engine.logits(cache, engine.tokenizer.encode(TEXT))
    engine.close()
    return logits


@pytest.mark.slow
def test_torch_and_mlx_agree_behind_the_shipped_persona(
    rows: NDArray[np.float32], float_model: Path, adapter: LoraWeights
) -> None:
    torch, mlx = (logits_of(name, float_model, adapter, rows) for name in ("torch", "mlx"))
    without = logits_of("torch", float_model, adapter, None)

    assert np.abs(torch - without).max() > 100 * TOLERANCE  # the persona is really there
    assert np.abs(torch - mlx).max() <= TOLERANCE
