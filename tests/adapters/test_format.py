"""Whatever stands in `adapter.json`, it is a manifest that says the same when written again, or an error."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.errors import AdapterCorrupt, AdapterError
from adapters.format import is_name, parse_manifest, scale_of

RIGHT: dict[str, Any] = {
    "format": 1,
    "name": "quiet",
    "task": "continue",
    "rank": 64,
    "alpha": 128,
    "scale": 16.0,
    "rslora": True,
    "target_modules": ["self_attn.k_proj", "mlp.up_proj"],
    "base_id": "tiny",
    "base_digest": "ab" * 32,
    "stage": "task",
    "parents": ["loud"],
    "languages": ["en", "ru"],
    "licence": "Apache-2.0",
    "training": {"steps": 100, "loss": 1.5, "data": "expert edits", "resumed": False, "note": None},
    "sha256": "cd" * 32,
    "n_bytes": 100,
}
Json = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=6,
)


def test_a_manifest_comes_back_as_it_was() -> None:
    manifest = parse_manifest(json.dumps(RIGHT).encode(), "quiet")

    assert json.loads(manifest.to_json()) == RIGHT
    assert parse_manifest(manifest.to_json(), "quiet") == manifest


def test_what_is_not_required_has_a_default() -> None:
    needed = {"format", "name", "rank", "alpha", "scale", "rslora", "target_modules"} | {
        *("base_id", "base_digest", "sha256", "n_bytes"),
    }

    manifest = parse_manifest(json.dumps({key: RIGHT[key] for key in needed}).encode(), "quiet")

    assert (manifest.stage, manifest.parents, manifest.training) == ("imported", (), {})


@settings(max_examples=150, deadline=None)
@given(
    changes=st.dictionaries(st.sampled_from(sorted(RIGHT)) | st.text(max_size=4), Json, max_size=3)
)
def test_any_change_is_a_manifest_or_an_adapter_error(changes: dict[str, Any]) -> None:
    try:
        manifest = parse_manifest(json.dumps(RIGHT | changes).encode(), "quiet")
    except AdapterError as error:
        message = str(error)
    else:
        message = ""
        assert parse_manifest(manifest.to_json(), "quiet") == manifest
    assert message.startswith("quiet: ") or not message
    assert len(message) < 4000


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"rank": True}, "rank is bool"),
        ({"scale": 0}, "scale is 0"),
        ({"alpha": 1e7}, "alpha is 10000000.0"),
        ({"rslora": False}, "scale is 16.0, but alpha / rank is 2"),
        ({"parents": [1]}, "parents must hold short strings"),
        ({"licence": "x" * 600}, "licence is not printable text"),
        ({"task": "\x1b[2J"}, "task is not printable text"),
        ({"training": {"a": [1]}}, "training.'a' must be a number"),
        ({"rnak": 4}, "unknown key 'rnak'"),
        ({"target_modules": []}, "target_modules must be some of"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_wrong_value_is_named(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(AdapterCorrupt, match=said):
        parse_manifest(json.dumps(RIGHT | changes).encode(), "quiet")


def test_names_and_scales() -> None:
    assert is_name("a.b_c-9")
    assert not any(map(is_name, ["", ".", "..", "A", "a/b", "a\n", "x" * 65]))
    assert scale_of(64, 128, rslora=False) == 2
    assert scale_of(64, 128, rslora=True) == 16
