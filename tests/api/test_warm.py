"""`POST /v1/warm` through the real runtime."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.anyio

TEXT = "The old house stood by the river. "


async def test_it_answers_at_once_and_the_request_that_follows_finds_its_prompt_read(start_daemon):
    daemon = start_daemon()
    async with daemon.client() as client:
        warmed = await client.post("/v1/warm", json={"text": TEXT, "document_id": "d"})
        end = await daemon.runtime.end()
        real = await client.post("/v1/continue", json={"text": TEXT, "document_id": "d"})

    assert warmed.status_code == 202
    assert warmed.json() == {"id": warmed.headers["x-request-id"]}
    assert end.result.usage.completion_tokens == 0
    usage = real.json()["usage"]
    assert usage["cached_tokens"] == usage["prompt_tokens"]


async def test_a_rephrasing_is_laid_out_as_the_real_one(start_daemon):
    daemon = start_daemon()
    wanted = {"text": TEXT, "before": "Once. ", "after": " Then.", "instruction": "shorter"}
    async with daemon.client() as client:
        await client.post("/v1/warm", json={"task": "rephrase", **wanted})
        await daemon.runtime.end()
        real = await client.post("/v1/rephrase", json=wanted)

    usage = real.json()["usage"]
    assert usage["cached_tokens"] == usage["prompt_tokens"]


async def test_it_is_no_generation_for_metrics(start_daemon):
    daemon = start_daemon()
    async with daemon.client() as client:
        await client.post("/v1/warm", json={"text": TEXT})
        await daemon.runtime.end()
        found = (await client.get("/metrics")).text

    assert "pushkin_generations_total{" not in found
    assert 'route="/v1/warm",status="202"' in found


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"text": ""}, 400),
        ({}, 400),
        ({"text": "A", "n": 2}, 400),
        ({"text": "A", "task": "dictate"}, 400),
        ({"text": "A", "revision": 1}, 400),
        ({"text": "A", "adapters": [{"name": "nobody"}]}, 404),
    ],
)
async def test_what_cannot_be_read_is_refused(start_daemon, body, status):
    daemon = start_daemon()
    async with daemon.client() as client:
        refused = await client.post("/v1/warm", json=body)

    assert refused.status_code == status
    assert "error" in refused.json()


async def test_it_can_be_ended_by_its_id(start_daemon):
    daemon = start_daemon(gated=True)
    async with daemon.client(
        **{"Authorization": "Bearer token-of-the-tests-0123456789", "X-Request-Id": "ahead-1"}
    ) as client:
        await client.post("/v1/warm", json={"text": TEXT})
    async with daemon.client() as client:
        ended = await client.delete("/v1/requests/ahead-1")
    daemon.permits.release(1000)

    assert ended.json() == {"id": "ahead-1", "cancelled": True}


@pytest.mark.parametrize("path", ["/v1/continue", "/v1/warm"])
async def test_an_idle_daemon_is_healthy_and_serves_the_next_request(start_daemon, path):
    daemon = start_daemon(idle_unload_s=1.0)
    async with daemon.client() as client:
        while (found := (await client.get("/health")).json())["state"] != "unloaded":
            assert found["status"] == "ok"
        status = (await client.get("/v1/status")).json()
        served = await client.post(path, json={"text": TEXT})

    assert found["status"] == "ok"
    assert status["model"]["id"] == "scripted"
    assert served.status_code in (200, 202)
