"""The persona's mathematics: attention, the document cap, norms, strength, the null persona, the file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from adapters.checked_folder import About, write_folder
from indexer.errors import PersonaUnavailable
from indexer.persona_vector import (
    DOCUMENT_CAP,
    KIND,
    PersonaPlug,
    PlugWeights,
    capped,
    load_persona_plug,
)
from indexer.types import EmbeddingSpace

E, D, H, M = 12, 8, 16, 3
SPACE = EmbeddingSpace(id="style:test", n_dimensions=E)
NORM = 96.0


def _arrays(seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    shapes = {
        "query_w": (E, E),
        "in_w": (H, E),
        "in_b": (H,),
        "out_w": (M * D, H),
        "out_b": (M * D,),
        "instruction": (D,),
        "null": (M, D),
    }
    made = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    return made | {
        "log_gain": np.zeros(2, np.float32),
        "log_temperature": np.log(np.array([0.1], np.float32)),
        "target_norm": np.array([NORM], np.float32),
    }


@pytest.fixture
def plug() -> PersonaPlug:
    return PersonaPlug(PlugWeights(**_arrays()), SPACE.id, "0" * 64)


def _unit(n: int, seed: int = 1) -> Any:
    vectors = np.random.default_rng(seed).normal(size=(n, E)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_rows_have_the_norm_of_the_models_own(plug: PersonaPlug) -> None:
    for persona in (plug.null(), plug.persona(None, _unit(9), list("aabbccdde"))):
        assert persona.rows.shape == (plug.n_rows, D) == (1 + M, D)
        assert persona.rows.dtype == np.float32
        assert np.allclose(np.linalg.norm(persona.rows, axis=1), NORM, rtol=1e-5)


def test_the_last_layer_may_come_after_the_mean(plug: PersonaPlug) -> None:
    """The paper projects every paragraph, then averages; the mean of a linear layer is the same."""
    made, vectors = _arrays(), _unit(9)
    weights = plug.attention(vectors[0], vectors, list("aabbccdde"))
    hidden = vectors * E**0.5 @ made["in_w"].T + made["in_b"]
    inner = np.sqrt(2 / np.pi) * (hidden + 0.044715 * hidden**3)
    projected = 0.5 * hidden * (1 + np.tanh(inner)) @ made["out_w"].T + made["out_b"]
    mean = (weights @ projected).reshape(M, D)
    rows = plug.persona(vectors[0], vectors, list("aabbccdde")).rows[1:]

    assert np.allclose(rows, NORM * mean / np.linalg.norm(mean, axis=1, keepdims=True), atol=1e-3)


def test_strength_0_is_the_null_persona_and_2_goes_beyond_1(plug: PersonaPlug) -> None:
    vectors, documents = _unit(9), list("aabbccdde")
    rows = {s: plug.persona(None, vectors, documents, strength=s).rows[1:] for s in (0.0, 1.0, 2.0)}
    null = plug.null().rows

    assert np.array_equal(plug.persona(None, vectors, documents, strength=0).rows, null)
    nearer = np.linalg.norm(rows[1.0] - null[1:], axis=1)
    assert (np.linalg.norm(rows[2.0] - null[1:], axis=1) > nearer).all()


def test_an_empty_index_gives_the_null_persona_without_sources(plug: PersonaPlug) -> None:
    persona = plug.persona(_unit(1)[0], _unit(0), [])

    assert np.array_equal(persona.rows, plug.null().rows)
    assert persona.sources == {}
    assert persona.style is None


def test_without_a_text_before_the_cursor_all_paragraphs_count_alike(plug: PersonaPlug) -> None:
    assert np.allclose(plug.attention(None, _unit(8), list("abcdefgh")), 1 / 8)


def test_attention_turns_to_what_resembles_the_text(plug: PersonaPlug) -> None:
    made = _arrays() | {"query_w": np.eye(E, dtype=np.float32)}
    plug = PersonaPlug(PlugWeights(**made), SPACE.id, "0" * 64)
    vectors = _unit(8)

    assert plug.attention(vectors[5], vectors, list("abcdefgh")).argmax() == 5


def test_no_document_outweighs_a_quarter_however_long_it_is(plug: PersonaPlug) -> None:
    documents = ["novel"] * 96 + list("abcd")
    sources = plug.persona(None, _unit(100), documents).sources

    assert sources["novel"] == pytest.approx(DOCUMENT_CAP)
    assert sum(sources.values()) == pytest.approx(1, abs=1e-5)


@given(arrays(np.float64, st.integers(1, 12), elements=st.floats(1e-6, 1)))
def test_water_filling_keeps_order_sum_and_cap(totals: Any) -> None:
    shares = capped(totals / totals.sum())

    assert shares.sum() == pytest.approx(1)
    assert shares.max() <= max(DOCUMENT_CAP, 1 / len(shares)) + 1e-9
    order = np.argsort(totals)
    assert (np.diff(shares[order]) >= -1e-9).all()


def test_shares_within_the_cap_are_left_alone() -> None:
    shares = np.array([0.25, 0.25, 0.2, 0.2, 0.1])

    assert np.allclose(capped(shares), shares)


def test_what_does_not_fit_is_refused(plug: PersonaPlug) -> None:
    with pytest.raises(ValueError, match="strength"):
        plug.persona(None, _unit(2), ["a", "b"], strength=2.5)
    with pytest.raises(ValueError, match="vectors"):
        plug.persona(None, _unit(2), ["a"])


def test_a_plug_survives_its_file_and_knows_its_space(tmp_path: Path, plug: PersonaPlug) -> None:
    about = About(settings={"space": SPACE.id}, licence="test", facts={})
    write_folder(tmp_path, KIND, _arrays(), about)
    loaded = load_persona_plug(tmp_path, SPACE, D)

    assert np.array_equal(loaded.null().rows, plug.null().rows)
    with pytest.raises(PersonaUnavailable, match="trained on vectors of style:test"):
        load_persona_plug(tmp_path, EmbeddingSpace(id="e5", n_dimensions=E), D)
    with pytest.raises(PersonaUnavailable, match="rows of 8"):
        load_persona_plug(tmp_path, SPACE, D + 1)


@pytest.mark.parametrize("change", [{"null": np.zeros((9, D), np.float32)}, {"in_w": None}])
def test_a_plug_of_another_shape_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    made = {name: value for name, value in (_arrays() | change).items() if value is not None}
    write_folder(tmp_path, KIND, made, About(settings={"space": SPACE.id}, licence="", facts={}))

    with pytest.raises(PersonaUnavailable, match="persona-plug"):
        load_persona_plug(tmp_path, SPACE, D)
