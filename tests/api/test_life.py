"""`/health`, `/v1/status`, `/v1/models`."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pushkin_runtime.types import Health

pytestmark = pytest.mark.anyio


async def test_health_is_200_only_when_ok(daemon):
    async with daemon.client(**{"X-None": "1"}) as client:
        response = await client.get("/health")

    assert response.status_code == 200
    assert response.json()["status"] == "ok"
    assert set(response.json()) == {"status", "state", "reason"}


@pytest.mark.parametrize(
    ("found", "status", "retry_after"),
    [
        (Health(ok=False, state="loading", reason="loading", retry_after_s=1), "loading", "1"),
        (Health(ok=False, state="draining", reason="bye"), "draining", None),
        (Health(ok=False, state="ready", reason="nothing moves"), "failed", None),
        (Health(ok=False, state="failed", reason="/Users/ada/model is gone"), "failed", None),
    ],
)
async def test_health_is_503_otherwise_and_names_no_folder(
    start_daemon, found, status, retry_after
):
    daemon = start_daemon()
    daemon.runtime.health = lambda: found
    async with daemon.client() as client:
        response = await client.get("/health")

    assert response.status_code == 503
    assert response.json()["status"] == status
    assert response.headers.get("retry-after") == retry_after
    assert "ada" not in response.text


async def test_status_shows_engine_model_queue_cache_and_counts(start_daemon):
    daemon = start_daemon()
    async with daemon.client() as client:
        await client.post("/v1/continue", json={"text": "A"})
        status = (await client.get("/v1/status")).json()

    assert status["version"] == "0.1.0"
    assert status["state"] == "ready"
    assert status["engine"]["name"] == "scripted"
    assert status["model"]["id"] == "scripted"
    assert status["queue"]["limit"] > 0
    assert status["counts"]["requests"] == 1
    assert status["counts"]["tokens"] > 1
    assert status["kv_cache"]["budget_bytes"] > 0
    assert status["uptime_s"] >= 0


async def test_models_are_an_openai_list(daemon):
    async with daemon.client() as client:
        listed = (await client.get("/v1/models")).json()
        one = await client.get("/v1/models/scripted")
        none = await client.get("/v1/models/gpt-9")

    assert listed["object"] == "list"
    assert listed["data"] == [one.json()]
    assert set(one.json()) == {"id", "object", "created", "owned_by", "parent"}
    assert (none.status_code, none.json()["error"]["code"]) == (404, "model_not_found")


async def test_nothing_is_listed_while_the_model_loads(start_daemon):
    daemon = start_daemon()
    loading = replace(daemon.runtime.status(), model=None, state="loading")
    daemon.runtime.status = lambda: loading
    async with daemon.client() as client:
        assert (await client.get("/v1/models")).json() == {"object": "list", "data": []}
        assert (await client.get("/v1/status")).json()["model"] is None
