"""`/v1/adapters`, adapters in requests, and adapters among the models."""

from __future__ import annotations

import json

import pytest

from pushkin_runtime.adapter_pool import AdapterOptions
from pushkin_runtime.engines.scripted_engine import BASE

pytestmark = pytest.mark.anyio


@pytest.fixture
def with_adapters(tmp_path, write_adapter, start_daemon):
    """A daemon with the adapters formal and plain, and a broken one."""
    for seed, name in enumerate(("formal", "plain")):
        write_adapter(tmp_path, name, BASE, seed=seed, task="continue", languages=("en",))
    write_adapter(tmp_path, "foreign", BASE, base_id="another", base_digest="ab" * 32)
    return start_daemon(adapters=AdapterOptions(roots=(tmp_path,)))


async def test_the_list_names_each_adapter_its_state_and_what_is_wrong(with_adapters):
    async with with_adapters.client() as client:
        listed = (await client.get("/v1/adapters")).json()["adapters"]

    by_name = {adapter["name"]: adapter for adapter in listed}
    assert {name: a["state"] for name, a in by_name.items()} == {
        "foreign": "broken",
        "formal": "on_disk",
        "plain": "on_disk",
    }
    assert "another" in by_name["foreign"]["problem"]
    formal = by_name["formal"]
    assert (formal["rank"], formal["alpha"], formal["scale"]) == (4, 8.0, 2.0)
    assert len(formal["sha256"]) == 64
    assert formal["base_digest"] == BASE.digest
    assert formal["probe_delta"] is None


async def test_load_measures_and_unload_gives_back(with_adapters):
    async with with_adapters.client() as client:
        loaded = (await client.post("/v1/adapters/formal/load", json={"pinned": True})).json()
        status = (await client.get("/v1/status")).json()["adapters"]
        unloaded = (await client.post("/v1/adapters/formal/unload", json={})).json()
        after = (await client.get("/v1/status")).json()["adapters"]

    assert (loaded["state"], loaded["pinned"]) == ("resident", True)
    assert loaded["applied_modules"] == len(BASE.modules)
    assert loaded["probe_delta"] > 0
    assert status["n_bytes"] > 0
    assert (unloaded["state"], unloaded["pinned"]) == ("on_disk", False)
    assert after["n_resident"] == 0


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("POST", "/v1/adapters/nobody/load", 404, "adapter_not_found"),
        ("POST", "/v1/adapters/nobody/unload", 404, "adapter_not_found"),
        ("POST", "/v1/adapters/foreign/load", 422, "adapter_incompatible"),
        ("POST", "/v1/adapters/NoBody/load", 400, "invalid_value"),
        ("POST", "/v1/adapters/%2e%2e/load", 404, None),
        ("POST", "/v1/adapters/..%2fx/load", 404, "unknown_path"),
        ("POST", "/v1/adapters/a%00b/load", 400, "invalid_value"),
        ("GET", "/v1/adapters/formal/load", 405, "method_not_allowed"),
    ],
)
async def test_what_cannot_be_loaded_says_why(with_adapters, method, path, status, code):
    async with with_adapters.client() as client:
        response = await client.request(method, path, json={})

    assert response.status_code == status
    if code is not None:
        assert response.json()["error"]["code"] == code


@pytest.mark.parametrize(
    ("body", "status"),
    [({"pinned": "yes"}, 400), ({"path": "/etc/passwd"}, 400), ([], 400)],
)
async def test_the_body_of_load_is_checked(with_adapters, body, status):
    async with with_adapters.client() as client:
        response = await client.post("/v1/adapters/formal/load", json=body)

    assert response.status_code == status


async def test_answers_say_which_adapters_were_used(with_adapters):
    chosen = [{"name": "plain", "scale": 0.5}, {"name": "formal", "scale": 1.0}]
    async with with_adapters.client() as client:
        both = (await client.post("/v1/continue", json={"text": "A", "adapters": chosen})).json()
        none = (await client.post("/v1/continue", json={"text": "A", "adapters": []})).json()

    assert both["adapters"] == [chosen[1], chosen[0]]
    assert none["adapters"] == []
    assert both["choices"][0]["text"] != none["choices"][0]["text"]


async def test_a_stream_under_a_new_adapter_starts_and_may_tell_of_loading(with_adapters):
    body = {"text": "A", "adapters": [{"name": "formal"}], "stream": True}
    async with with_adapters.client() as client:
        frames = (await client.post("/v1/continue", json=body)).text.split("\n\n")

    events = [dict(line.split(": ", 1) for line in f.splitlines()) for f in frames if f]
    assert events[0]["event"] == "start"
    assert events[-1]["event"] == "done"
    assert json.loads(events[-1]["data"])["adapters"] == [{"name": "formal", "scale": 1.0}]


async def test_adapters_are_models_of_their_base(with_adapters):
    async with with_adapters.client() as client:
        models = (await client.get("/v1/models")).json()["data"]
        one = await client.get("/v1/models/scripted:formal")

    assert [(m["id"], m["parent"]) for m in models] == [
        ("scripted", None),
        ("scripted:formal", "scripted"),
        ("scripted:plain", "scripted"),
    ]
    assert one.status_code == 200
