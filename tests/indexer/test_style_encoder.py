"""The shipped style encoder: whole, stable across machines, and about style rather than names or typography."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from indexer.errors import PersonaUnavailable
from indexer.style_encoder import (
    HASH_BITS,
    MAX_CHARS,
    N_RHYTHM,
    StyleEncoder,
    features,
    folded,
    gelu,
    load_style_encoder,
)

FOLDER = Path(__file__).parents[2] / "models" / "style-encoder"
DINNER = (
    "We had soup first, and then the fish, which was cold; nobody complained of it, for the host, "
    "who had quarrelled with his cook that morning, looked as though he might burst into tears."
)


@pytest.fixture(scope="module")
def encoder() -> StyleEncoder:
    return load_style_encoder(FOLDER)


def test_it_is_whole_and_small_enough_for_a_repository() -> None:
    weights = FOLDER / "style-encoder.safetensors"
    manifest = json.loads((FOLDER / "style-encoder.json").read_text(encoding="utf-8"))

    assert manifest["sha256"] == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) <= 10_000_000


def test_hashes_are_the_same_on_every_machine() -> None:
    """Golden: made once; another value means that shipped tables no longer fit."""
    digest = hashlib.sha256(features('Ёлка стояла — "тихо", и снег шёл.').hashes.tobytes())

    assert digest.hexdigest()[:16] == "435e5442bb36b2e7"


def test_rows_are_unit_float32_and_do_not_depend_on_the_batch(encoder: StyleEncoder) -> None:
    texts = [DINNER, "Он молчал.", "", " ", "!", "a", "𝔘𝔫𝔦 漢字 👩‍👩‍👧"]
    together = encoder.embed(texts)
    alone = np.concatenate([encoder.embed([text]) for text in texts])

    assert together.dtype == np.float32
    assert together.shape == (len(texts), encoder.space.n_dimensions)
    assert np.allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)
    assert np.allclose(together, alone, atol=1e-5)
    assert encoder.embed([]).shape == (0, encoder.space.n_dimensions)


def test_the_space_names_the_file(encoder: StyleEncoder) -> None:
    digest = hashlib.sha256((FOLDER / "style-encoder.safetensors").read_bytes()).hexdigest()

    assert digest[:16] in encoder.space.id


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("“No,” he said – and left…", '"No," he said — and left...'),
        ("Then he met Dorothea there.", "Then he met Casaubon there."),
        ("В 1812 году", "В 1799 году"),
        ("two  spaces\nand a line", "two spaces and a line"),
        ("cafe\u0301", "café"),
    ],
)
def test_typography_names_and_digits_make_no_style(one: str, other: str) -> None:
    assert folded(one) == folded(other)


def test_english_i_is_no_name() -> None:
    assert "i" in folded("And then I said so.").split()


@given(st.text(max_size=300))
def test_any_text_has_features(text: str) -> None:
    found = features(text)

    assert found.rhythm.shape == (N_RHYTHM,)
    assert np.isfinite(found.rhythm).all()
    assert ((found.hashes >= 0) & (found.hashes < 2**HASH_BITS)).all()


def test_a_text_longer_than_any_paragraph_is_cut_not_refused() -> None:
    assert np.array_equal(features("я " * 9000).hashes, features("я " * (MAX_CHARS // 2)).hashes)


def test_words_and_pairs_are_hashed_wherever_they_stand() -> None:
    first, second = features("snow fell").hashes, features("the old snow fell again").hashes

    assert {*first[-3:]} <= {*second}  # two words and their pair


def test_a_paragraph_is_nearer_to_its_like_than_to_another_manner(encoder: StyleEncoder) -> None:
    """Written for this test: two notes in one clipped manner, one period in another."""
    notes = [
        "Up at six. Rain. No letters. Walked to the mill and back.",
        "Cold. Wrote two pages. Bad ones. Slept early, no dreams.",
    ]
    vectors = encoder.embed([*notes, DINNER])

    assert vectors[0] @ vectors[1] > max(vectors[0] @ vectors[2], vectors[1] @ vectors[2])


def test_gelu_is_torchs_tanh_form() -> None:
    values = np.array([-3, -1, 0, 0.5, 2], np.float32)

    expected = [-0.0036373, -0.1588080, 0.0, 0.3457140, 1.9545977]
    assert np.allclose(gelu(values), expected, atol=1e-6)


@pytest.mark.parametrize("damage", ["missing", "truncated", "other", "keys"])
def test_a_damaged_encoder_is_refused_by_kind(tmp_path: Path, damage: str) -> None:
    folder = tmp_path / "encoder"
    shutil.copytree(FOLDER, folder)
    weights, manifest = folder / "style-encoder.safetensors", folder / "style-encoder.json"
    content = bytearray(weights.read_bytes())
    if damage == "missing":
        weights.unlink()
    elif damage == "truncated":
        weights.write_bytes(content[:-1])
    elif damage == "other":
        content[-1] ^= 1
        weights.write_bytes(content)
    else:
        manifest.write_text('{"format": 1}', encoding="utf-8")

    with pytest.raises(PersonaUnavailable, match="style-encoder"):
        load_style_encoder(folder)
