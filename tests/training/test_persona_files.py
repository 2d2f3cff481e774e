"""The persona in the repository: whole, small, and read by the serving engine as training read it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from adapters.composition import compose
from adapters.registry import open_adapter, read_weights
from indexer.persona_vector import PersonaPlug, load_persona_plug
from indexer.style_encoder import StyleEncoder, load_style_encoder
from pushkin_runtime.engines.base import Embeddings, EngineOptions
from pushkin_runtime.engines.registry import EngineChoice, create_engine
from pushkin_runtime.model_store import open_model
from training.evaluate_persona import load_model
from training.persona_examples import rows_of
from training.tokenizer import load_tokenizer

MODELS = Path(__file__).parents[2] / "models"
BASE = MODELS / "pushkin-mini"
FOLDER = BASE / "adapters" / "persona"
MAX_ADAPTER_BYTES, MAX_PLUG_BYTES = 3_500_000, 2_000_000  # rank 16 of 30 M parameters
# Written for this test.
NOTES = [
    "Up at six; rain again, and no letters. Walked to the mill, and back by the lower road, thinking of nothing.",
    "Wrote two pages before dinner, bad ones. M. came at nine and stayed until the lamp went out.",
    "A cold day. The river has frozen at the edges; the boys were sliding on it, and I let them.",
]
TEXT = "He shut the door behind him and went slowly down the stairs, and out into the street."
# peft 0.21 asks transformers 5.23 for a name that the latter is about to drop.
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")


@pytest.fixture(scope="module")
def encoder() -> StyleEncoder:
    return load_style_encoder(MODELS / "style-encoder")


@pytest.fixture(scope="module")
def plug(encoder: StyleEncoder) -> PersonaPlug:
    return load_persona_plug(FOLDER, encoder.space, open_model(BASE).config.hidden_size)


def test_it_is_small_and_its_files_are_those_described() -> None:
    for kind, limit in (("adapter", MAX_ADAPTER_BYTES), ("persona-plug", MAX_PLUG_BYTES)):
        content = (FOLDER / f"{kind}.safetensors").read_bytes()
        manifest = json.loads((FOLDER / f"{kind}.json").read_text(encoding="utf-8"))
        assert manifest["sha256"] == hashlib.sha256(content).hexdigest()
        assert len(content) <= limit


def test_adapter_and_plug_are_of_one_model() -> None:
    adapter = json.loads((FOLDER / "adapter.json").read_text(encoding="utf-8"))
    manifest = json.loads((FOLDER / "persona-plug.json").read_text(encoding="utf-8"))

    assert manifest["settings"]["base_digest"] == adapter["base_digest"]
    assert adapter["task"] == adapter["stage"] == "persona"


def test_a_persona_is_made_of_paragraphs(encoder: StyleEncoder, plug: PersonaPlug) -> None:
    persona = plug.persona(encoder.embed([TEXT])[0], encoder.embed(NOTES), ["a", "a", "b"])

    assert persona.rows.shape == (plug.n_rows, plug.hidden_size)
    assert set(persona.sources) == {"a", "b"}
    assert not np.allclose(persona.rows, plug.null().rows)


def test_the_engine_reads_it_as_training_did(encoder: StyleEncoder, plug: PersonaPlug) -> None:
    """√hidden scaling, LoRA, layout: one logit apart in any of them and this fails."""
    torch.set_num_threads(1)
    tokenizer = load_tokenizer(BASE)
    prefix = [tokenizer.token_to_id(name) for name in ("<bos>", "<lang:en>", "<genre:prose>")]
    tokens = tokenizer.encode(TEXT, add_special_tokens=False).ids
    query, vectors = encoder.embed([TEXT])[0], encoder.embed(NOTES)
    rows = plug.persona(query, vectors, ["a", "a", "b"]).rows
    expected = _training_logits(prefix + tokens, query, vectors)

    engine = create_engine(
        EngineChoice(name="torch", reason="the reference"), EngineOptions(model_dir=BASE)
    )
    spec = open_adapter(FOLDER.parent, FOLDER.name, engine.base)
    lora = engine.load_lora(compose([read_weights(spec)], np.dtype(engine.lora_dtype)))
    cache = engine.new_cache(lora)
    engine.prefill(cache, Embeddings(rows))
    served = engine.logits(cache, prefix + tokens)
    engine.close()

    assert np.abs(served - expected).max() <= 1e-3


@torch.inference_mode()
def _training_logits(ids: list[int], query: Any, vectors: Any) -> Any:
    """Logits after each of `ids` behind the persona, the way `training.persona_lora` computes its loss."""
    model = load_model(BASE, FOLDER)
    history = (vectors, np.array([0, 0, 1]))
    batch = rows_of([np.array([*ids, 0])], 1, [query], [history])  # the last id is only a target
    persona, _ = model.plug(batch.history)
    head = model.model.get_output_embeddings().weight
    return (model.states(persona, batch)[0] @ head.T).numpy()
