"""Bad bodies: each has its status, its code, the field at fault and a message that helps."""

from __future__ import annotations

import json
import math

import pytest

from pushkin_runtime.errors import Draining, NotReady, QueueFull

pytestmark = pytest.mark.anyio

CANARY = "ТАЙНА-secret-42"

# body, code, param, a part of the message
BAD = [
    ({}, "missing_field", "text", "`text` is required"),
    ({"text": ""}, "text_empty", "text", "empty"),
    ({"text": 5}, "invalid_type", "text", "must be a string, got an integer"),
    ({"text": None}, "invalid_type", "text", "got null"),
    ({"text": [CANARY]}, "invalid_type", "text", "got a list"),
    ({"text": "a" * 200_001}, "invalid_value", "text", "200001 characters long, at most 200000"),
    ({"text": CANARY, "max_tokens": "5"}, "invalid_type", "max_tokens", "an integer, got a string"),
    ({"text": "A", "max_tokens": 5.5}, "invalid_type", "max_tokens", "an integer"),
    ({"text": "A", "max_tokens": True}, "invalid_type", "max_tokens", "got a boolean"),
    ({"text": "A", "max_tokens": 0}, "invalid_value", "max_tokens", "at least 1, got 0"),
    ({"text": "A", "max_tokens": 1025}, "invalid_value", "max_tokens", "at most 1024, got 1025"),
    ({"text": "A", "n": -1}, "invalid_value", "n", "at least 1, got -1"),
    ({"text": "A", "n": 2**31}, "invalid_value", "n", "at most 5"),
    ({"text": "A", "n": 10**300}, "invalid_value", "n", "got a huge integer"),
    ({"text": "A", "stop": ["a"] * 9}, "invalid_value", "stop", "9 items, at most 8"),
    ({"text": "A", "stop": [""]}, "invalid_value", "stop[0]", "at least 1 character"),
    ({"text": "A", "stop": ["b", "x" * 65]}, "invalid_value", "stop[1]", "65 characters"),
    ({"text": "A", "stop": "b"}, "invalid_type", "stop", "must be a list, got a string"),
    ({"text": "A", "deadline_ms": 0}, "invalid_value", "deadline_ms", "at least 1"),
    ({"text": "A", "revision": 1}, "invalid_value", "revision", "needs `document_id`"),
    ({"text": "A", "document_id": ""}, "invalid_value", "document_id", "at least 1"),
    ({"text": "A", "document_id": "d" * 257}, "invalid_value", "document_id", "at most 256"),
    ({"text": "A", "quality": CANARY}, "invalid_value", "quality", "'fast', 'balanced' or 'best'"),
    ({"text": "A", "stream": "yes"}, "invalid_type", "stream", "must be true or false"),
    ({"text": "A", "persona": CANARY}, "invalid_value", "persona", "'auto' or 'off'"),
    ({"text": "A", "persona": 3}, "invalid_type", "persona", "must be 'auto', 'off' or an object"),
    ({"text": "A", "persona": {"strength": 3}}, "invalid_value", "persona.strength", "at most 2"),
    ({"text": "A", "adapters": [{"name": "A b"}]}, "invalid_value", "adapters[0].name", "match"),
    ({"text": "A", "adapters": [{"name": "../x"}]}, "invalid_value", "adapters[0].name", "match"),
    ({"text": "A", "adapters": [{"name": "a\0"}]}, "invalid_value", "adapters[0].name", "match"),
    ({"text": "A", "adapters": [{"name": "a\n"}]}, "invalid_value", "adapters[0].name", "match"),
    ({"text": "A", "adapters": [{}]}, "missing_field", "adapters[0].name", "required"),
    (
        {"text": "A", "adapters": [{"name": "a", "scale": 5}]},
        "invalid_value",
        "adapters[0].scale",
        "at most 4, got 5",
    ),
    (
        {"text": "A", "adapters": [{"name": "a"}, {"name": "a"}]},
        "invalid_value",
        "adapters",
        "twice",
    ),
    ({"text": "A", "temprature": 1}, "unknown_field", "temprature", "known are"),
    ({"text": "A", "max_token": 1}, "unknown_field", "max_token", "did you mean `max_tokens`?"),
    (
        {"text": "A", "sampling": {"temprature": 1}},
        "unknown_field",
        "sampling.temprature",
        "did you mean `temperature`?",
    ),
    ([], "invalid_type", None, "the body must be an object, got a list"),
    (CANARY, "invalid_type", None, "got a string"),
    (None, "invalid_type", None, "the body must be an object, got null"),
]

SAMPLING = [
    ("temperature", -0.1),
    ("temperature", 5.1),
    ("min_p", -1),
    ("min_p", 1.1),
    ("top_p", 0),
    ("top_p", 1.5),
    ("top_k", -1),
    ("top_k", 1001),
    ("top_k", 2**31),
    ("repetition_penalty", 0.4),
    ("repetition_penalty", 2.1),
    ("seed", -1),
    ("seed", 2**63),
]

# raw body, code, a part of the message
BROKEN = [
    (b"", "invalid_json", "empty"),
    (b"{", "invalid_json", "line 1, column 2"),
    (b'{"text": "A",}', "invalid_json", "not JSON"),
    (b'{"text": "A"} {"text": "B"}', "invalid_json", "Extra data"),
    (b'{"text": "A", "text": "B"}', "invalid_json", "`text` is given twice"),
    (b'{"text": "\xff"}', "invalid_json", "not UTF-8"),
    (b'\xef\xbb\xbf{"text": "A"}', "invalid_json", "not JSON"),
    ('{"text": "A"}'.encode("utf-16"), "invalid_json", "not UTF-8"),
    (b'{"text": "A", "sampling": {"min_p": NaN}}', "invalid_json", "NaN"),
    (b'{"text": "A", "sampling": {"min_p": -Infinity}}', "invalid_json", "-Infinity"),
    (b'{"text": "A", "sampling": {"min_p": 1e999}}', "invalid_value", "finite"),
    (b'{"text": "A", "n": ' + b"9" * 5000 + b"}", "invalid_json", "thousands of digits"),
    (b'{"text": "A", "top": ' + b"[" * 33 + b"]" * 33 + b"}", "invalid_json", "deeper than 32"),
    (b"[" * 100_000, "invalid_json", "deeper than 32"),
    (b"[" + b"0," * 1_000_000 + b"0]", "invalid_json", "more than 10000 values"),
    (b'{"stop": [' + b"0," * 10_000 + b"0]}", "invalid_json", "more than 10000 values"),
    (b'{"text": "ab\\ud83d"}', "invalid_unicode", "`text` holds half of a surrogate pair"),
    ('{"text": "😀\\udc00"}'.encode(), "invalid_unicode", "at UTF-16 offset 2"),
    (b'{"stop": ["\\ud83d"]}', "invalid_unicode", "`stop[0]`"),
    (b'{"\\ud83d": 1}', "invalid_unicode", "a string"),
]  # fmt: skip


async def refused(daemon, content, path="/v1/continue"):
    n_requests = len(daemon.runtime.requests)
    async with daemon.client() as client:
        response = await client.post(
            path, content=content, headers={"Content-Type": "application/json"}
        )
    assert len(daemon.runtime.requests) == n_requests
    return response.status_code, response.json()["error"]


@pytest.mark.parametrize(("body", "code", "param", "message"), BAD)
async def test_a_bad_field_is_named(daemon, body, code, param, message):
    status, error = await refused(daemon, json.dumps(body))

    assert (status, error["code"], error["param"]) == (400, code, param)
    assert message in error["message"]
    assert CANARY not in error["message"]


@pytest.mark.parametrize(("name", "value"), SAMPLING)
async def test_sampling_out_of_range_is_refused_with_the_value(daemon, name, value):
    status, error = await refused(daemon, json.dumps({"text": "A", "sampling": {name: value}}))

    assert (status, error["code"], error["param"]) == (400, "invalid_value", f"sampling.{name}")
    assert f"got {value}" in error["message"]


@pytest.mark.parametrize(("raw", "code", "message"), BROKEN)
async def test_broken_json_is_400_with_the_place(daemon, raw, code, message):
    status, error = await refused(daemon, raw)

    assert (status, error["code"]) == (400, code)
    assert message in error["message"]


async def test_a_body_of_five_megabytes_is_413(daemon):
    status, error = await refused(daemon, json.dumps({"text": "a" * 5_000_000}))

    assert (status, error["code"]) == (413, "body_too_large")
    assert "part of the text around the caret" in error["message"]


@pytest.mark.parametrize("text", ["", "   ", "\n\t\u00a0"])
@pytest.mark.parametrize(("path", "field"), [("/v1/rephrase", "text"), ("/v1/story", "prompt")])
async def test_there_is_nothing_to_change_in_blank_text(daemon, path, field, text):
    status, error = await refused(daemon, json.dumps({field: text}), path)

    assert (status, error["code"], error["param"]) == (400, "text_empty", field)


async def test_white_space_can_be_continued(daemon):
    async with daemon.client() as client:
        assert (await client.post("/v1/continue", json={"text": "\n"})).status_code == 200


async def test_all_findings_are_reported_at_once(daemon):
    body = {"text": 1, "n": 9, "sampling": {"min_p": 2}}
    _, error = await refused(daemon, json.dumps(body))

    for name in ("`text`", "`n`", "`sampling.min_p`"):
        assert name in error["message"]


async def test_a_field_name_is_cut_and_made_printable(daemon):
    name = "\u202e\n" + CANARY * 20
    _, error = await refused(daemon, json.dumps({"text": "A", name: 1}))

    assert len(error["param"]) == 64
    assert error["param"].startswith("??")
    assert error["param"].isprintable()


async def test_an_unknown_adapter_is_404(daemon):
    async with daemon.client() as client:
        response = await client.post(
            "/v1/continue", json={"text": "A", "adapters": [{"name": "nobody"}]}
        )

    error = response.json()["error"]
    assert response.status_code == 404
    assert (error["code"], error["param"]) == ("adapter_not_found", "adapters[0].name")


async def test_a_missing_capability_is_501_and_not_to_be_retried(daemon):
    async with daemon.client() as client:
        response = await client.post("/v1/continue", json={"text": "A", "quality": "best"})

    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (501, "capability_missing")
    assert (error["type"], error["param"]) == ("server_error", "quality")
    assert response.headers["x-should-retry"] == "false"


@pytest.mark.parametrize(
    ("fault", "code", "retry_after"),
    [
        (NotReady("loading", retry_after_s=1), "not_ready", "1"),
        (NotReady("failed", retry_after_s=None), "not_ready", None),
        (QueueFull("full"), "queue_full", "1"),
        (Draining("bye"), "draining", "2"),
    ],
)
async def test_what_passes_is_503_and_says_when_to_retry(start_daemon, fault, code, retry_after):
    daemon = start_daemon()

    def refuse(*_):
        raise fault

    daemon.runtime.submit = refuse
    async with daemon.client() as client:
        response = await client.post("/v1/continue", json={"text": "A"})

    assert (response.status_code, response.json()["error"]["code"]) == (503, code)
    assert response.headers.get("retry-after") == retry_after
    assert ("x-should-retry" in response.headers) == (retry_after is None)


async def test_a_score_that_is_no_number_is_null(start_daemon):
    daemon = start_daemon([""])
    async with daemon.client() as client:
        response = await client.post("/v1/continue", json={"text": "A"})

    score = response.json()["choices"][0]["score"]
    assert response.status_code == 200
    assert score is None or math.isfinite(score)
