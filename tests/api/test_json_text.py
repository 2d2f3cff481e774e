"""Strict JSON in, one-line JSON out."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.json_text import JsonRefused, json_bytes, parse_json
from api.schemas import ContinueBody

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)  # fmt: skip


@given(VALUES)
def test_what_is_written_reads_back_and_is_one_line(value):
    raw = json_bytes(value)

    assert parse_json(raw) == value
    assert len(raw.decode().splitlines()) == 1


@given(st.binary(max_size=64))
def test_bytes_are_a_value_or_a_refusal(raw):
    try:
        value = parse_json(raw)
    except JsonRefused:
        return
    assert json_bytes(value)


@given(st.text(st.characters(exclude_categories=[]), min_size=1))
def test_a_string_with_half_a_pair_is_refused_and_any_other_taken(text):
    raw = json.dumps({"text": text}).encode()
    joined = json.loads(raw)["text"]  # two halves in a row make a character
    is_whole = not any("\ud800" <= c <= "\udfff" for c in joined)
    if is_whole:
        assert parse_json(raw) == {"text": joined}
        return
    with pytest.raises(JsonRefused) as refusal:
        parse_json(raw)
    assert (refusal.value.code, refusal.value.param) == ("invalid_unicode", "text")


@given(st.text(min_size=1))
def test_a_body_keeps_its_text_exactly(text):
    body = ContinueBody.model_validate(parse_json(json_bytes({"text": text, "suffix": text})))
    request = body.to_request("id")

    assert (request.text, request.suffix) == (text, text)


def test_not_a_number_is_never_written():
    with pytest.raises(ValueError, match="JSON"):
        json_bytes({"score": math.nan})


def test_depth_is_bounded_exactly():
    assert parse_json(b"[" * 32 + b"]" * 32) is not None
    with pytest.raises(JsonRefused, match="deeper"):
        parse_json(b"[" * 33 + b"0" + b"]" * 33)
