"""The contract as a file, and random bodies against it."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from api.openapi import openapi_document
from api.schemas import ContinueBody, RephraseBody, SamplingBody

GOLDEN = Path(__file__).parents[2] / "openapi.json"


def test_openapi_json_is_what_the_code_says(daemon, golden):
    document = openapi_document(daemon.app)

    golden(GOLDEN, json.dumps(document, ensure_ascii=False, indent=2) + "\n")


def test_every_reference_in_openapi_json_leads_somewhere():
    text = GOLDEN.read_text(encoding="utf-8")
    schemas = json.loads(text)["components"]["schemas"]
    references = {part.split('"')[0] for part in text.split("#/components/schemas/")[1:]}

    assert references <= set(schemas)
    assert {"StartEvent", "DeltaEvent", "ProgressEvent", "GenerationAnswer"} <= references


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(exclude_categories=[])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
FIELDS = sorted({*ContinueBody.model_fields, *RephraseBody.model_fields, "unknown"})
SAMPLING = st.dictionaries(st.sampled_from(sorted(SamplingBody.model_fields)), JSON, max_size=3)
BODIES = st.builds(
    lambda fields, sampling, text: fields | sampling | text,
    st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=4),
    st.fixed_dictionaries({}, optional={"sampling": SAMPLING, "max_tokens": st.integers(1, 9)}),
    st.fixed_dictionaries({}, optional={"text": st.text(min_size=1)}),
)


@pytest.mark.parametrize("path", ["/v1/continue", "/v1/rephrase"])
def test_no_body_breaks_the_daemon(start_daemon, path):
    daemon = start_daemon()
    loop = asyncio.new_event_loop()
    client = daemon.client()

    @settings(
        max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), database=None
    )
    @given(BODIES)
    def check(body):
        response = loop.run_until_complete(
            client.post(
                path, content=json.dumps(body), headers={"Content-Type": "application/json"}
            )
        )

        assert response.status_code in {200, 400, 404} or "quality" in body
        assert response.status_code < 500 or response.status_code == 501
        if response.status_code != 200:
            assert set(response.json()["error"]) == {
                "code", "message", "type", "param", "request_id",
            }  # fmt: skip
            assert response.json()["error"]["code"] != "internal_error"

    try:
        check()
    finally:
        loop.run_until_complete(client.aclose())
        loop.close()
