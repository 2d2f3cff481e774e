"""Tokens, properties, slots, health, and what is not supported."""

from __future__ import annotations

import asyncio

import pytest

from pushkin_runtime.types import Health
from tests.api.conftest import until

pytestmark = pytest.mark.anyio

CANARY = "КАНАРЕЙКА-canary-7"


async def test_tokens_and_back(daemon):
    text = "What is ё 媽 🤗 <bos>?"
    async with daemon.client() as client:
        made = (await client.post("/tokenize", json={"content": text})).json()["tokens"]
        back = (await client.post("/detokenize", json={"tokens": made})).json()["content"]
        plain = await client.post("/tokenize", json={"content": text, "parse_special": False})

    assert back == text
    assert 2 in made
    assert 2 not in plain.json()["tokens"]


async def test_a_special_start_and_pieces_on_request(daemon):
    async with daemon.client() as client:
        answer = await client.post(
            "/tokenize", json={"content": "aá", "add_special": True, "with_pieces": True}
        )
        empty = await client.post("/tokenize", json={})

    assert answer.json()["tokens"] == [
        {"id": 2, "piece": "<bos>"},
        {"id": 101, "piece": "a"},
        {"id": 199, "piece": [0xC3]},
        {"id": 165, "piece": [0xA1]},
    ]
    assert empty.json() == {"tokens": []}


@pytest.mark.parametrize("tokens", [[-1], [260], [2**31], [1.5], ["a"]])
async def test_a_number_that_is_no_token_is_refused(daemon, tokens):
    async with daemon.client() as client:
        response = await client.post("/detokenize", json={"tokens": tokens})

    assert response.status_code == 400
    assert response.json()["error"]["param"] == "tokens[0]"


async def test_bytes_that_are_no_text_are_replaced(daemon):
    async with daemon.client() as client:
        response = await client.post("/detokenize", json={"tokens": [101, 199]})

    assert response.json()["content"] == "a�"


async def test_properties_name_the_model_the_slots_and_the_defaults(daemon):
    async with daemon.client() as client:
        props = (await client.get("/props")).json()

    settings = props["default_generation_settings"]
    assert settings["n_ctx"] == 4096
    assert settings["params"]["temperature"] == 0.8
    assert settings["params"]["seed"] == 2**32 - 1
    assert settings["params"]["n_predict"] == -1
    assert (props["total_slots"], props["model_path"]) == (4, "scripted")
    assert props["modalities"] == {"vision": False, "audio": False}
    assert props["chat_template"] == ""


async def test_slots_tell_how_many_are_busy_and_nothing_of_the_text(start_daemon, open_call):
    daemon = start_daemon((CANARY,), gated=True, endless=True)
    body = {"prompt": [CANARY] * 4, "n_predict": 24, "stream": True}  # long ones get three places
    async with (
        open_call(daemon, "/completion", body) as call,
        daemon.client() as client,
    ):
        await daemon.runtime.submitted(4)
        daemon.permits.release(20)
        await asyncio.to_thread(until, lambda: daemon.runtime.status().n_active == 4)
        busy = await client.get("/slots")
        refused = await client.get("/slots?fail_on_no_slot=0")
        call.leave()
        await daemon.runtime.ending()
        daemon.permits.release(1000)
    for _ in range(4):
        await daemon.runtime.end()

    assert [slot["is_processing"] for slot in busy.json()] == [True] * 4
    assert list(busy.json()[0]) == ["id", "n_ctx", "speculative", "is_processing"]
    assert "canary" not in busy.text
    assert refused.status_code == 503
    assert refused.json()["error"]["message"] == "no slot available"


async def test_idle_slots_are_available(daemon):
    async with daemon.client() as client:
        response = await client.get("/slots?fail_on_no_slot=1")

    assert response.status_code == 200
    assert not any(slot["is_processing"] for slot in response.json())


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/slots/0?action=save", {"filename": "../../x"}),
        ("/slots/1?action=restore", {"filename": "a.bin"}),
        ("/slots/abc?action=erase", {}),
        ("/props", {}),
        ("/infill", {"input_prefix": CANARY, "input_suffix": CANARY}),
        ("/apply-template", {"messages": [{"role": "user", "content": CANARY}]}),
    ],
)
async def test_routes_without_sense_here_say_why(daemon, path, body):
    async with daemon.client() as client:
        response = await client.post(path, json=body)
    error = response.json()["error"]

    assert response.status_code == error["code"] == 501
    assert error["type"] == "not_supported_error"
    assert len(error["message"]) > 40
    assert "canary" not in response.text


@pytest.mark.parametrize("path", ["/health", "/v1/health"])
async def test_health_is_read_by_upstream_s_clients(daemon, path, monkeypatch):
    async with daemon.client(**{"X-Nothing": "1"}) as client:
        ready = await client.get(path)
        loading = Health(ok=False, state="loading", reason="the model is loading", retry_after_s=1)
        monkeypatch.setattr(daemon.runtime, "health", lambda: loading)
        waiting = await client.get(path)

    assert (ready.status_code, ready.json()["status"]) == (200, "ok")
    assert "error" not in ready.json()
    assert waiting.status_code == 503
    assert waiting.json()["error"] == {
        "code": 503,
        "message": "Loading model",
        "type": "unavailable_error",
    }
    assert waiting.json()["status"] == "loading"
