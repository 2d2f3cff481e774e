"""`/v1/continue`, `/v1/rephrase`, `/v1/story` through the real runtime."""

from __future__ import annotations

import asyncio

import pytest

from api.services import ApiLimits
from quality.changes import Change, apply_changes

pytestmark = pytest.mark.anyio

NASTY = '  ё\u0301 “тест”\r\n\n\tпробел \u2028\u2029\x85\u00a0 👩‍👩‍👧 🇫🇷 \\n "q" \x7f​ '


async def test_continue_answers_with_every_part_of_the_contract(daemon):
    async with daemon.client() as client:
        response = await client.post(
            "/v1/continue", json={"text": "Once", "sampling": {"seed": 7, "min_p": 0.2}}
        )

    answer = response.json()
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    assert set(answer) == {
        "id", "model", "adapters", "persona", "sampling", "choices", "usage", "timings",
    }  # fmt: skip
    assert answer["id"] == response.headers["x-request-id"]
    assert answer["model"] == "scripted"
    assert answer["sampling"]["seed"] == 7
    assert answer["sampling"]["min_p"] == 0.2
    assert set(answer["usage"]) == {"prompt_tokens", "cached_tokens", "completion_tokens"}
    assert set(answer["timings"]) == {
        "queue_ms", "adapter_ms", "persona_ms", "prefill_ms", "ttft_ms", "decode_ms", "total_ms",
        "tokens_per_second",
    }  # fmt: skip
    [choice] = answer["choices"]
    assert set(choice) == {"index", "text", "finish_reason", "score"}
    assert choice["text"] == " and so it goes."
    assert choice["finish_reason"] == "stop"


async def test_text_comes_out_verbatim_as_json_and_as_events(start_daemon, read_events):
    daemon = start_daemon([NASTY])
    wanted = {"text": "A", "max_tokens": 1000}
    async with daemon.client() as client:
        whole = await client.post("/v1/continue", json=wanted)
        streamed = await client.post("/v1/continue", json=wanted | {"stream": True})

    events = read_events(streamed.text)
    assert whole.json()["choices"][0]["text"] == NASTY
    assert "".join(e.data["text"] for e in events if e.event == "delta") == NASTY
    assert events[-1].data["choices"][0]["text"] == NASTY


@pytest.mark.parametrize("path", ["/v1/continue", "/v1/rephrase", "/v1/story"])
async def test_text_goes_in_verbatim(daemon, path):
    field = "prompt" if path == "/v1/story" else "text"
    async with daemon.client() as client:
        response = await client.post(path, json={field: NASTY, "max_tokens": 1})

    assert response.status_code == 200
    assert daemon.runtime.requests[-1].text == NASTY


async def test_stream_is_framed_as_start_progress_delta_done(daemon, read_events):
    async with daemon.client() as client:
        response = await client.post(
            "/v1/continue",
            json={"text": "Once upon a time there was a king."},
            headers={"Accept": "text/event-stream"},
        )

    events = read_events(response.text)
    names = [e.event for e in events]
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert response.headers["cache-control"] == "no-store"
    assert names[0] == "start"
    assert names[-1] == "done"
    assert names == sorted(names, key=["start", "progress", "delta", "done"].index)
    assert events[0].data["id"] == events[-1].data["id"] == response.headers["x-request-id"]
    assert events[0].data["cached_tokens"] >= 0
    assert "[DONE]" not in response.text


async def test_a_frame_is_one_line_even_for_clients_that_split_on_every_line_break(start_daemon):
    daemon = start_daemon([NASTY])
    async with (
        daemon.client() as client,
        client.stream("POST", "/v1/continue", json={"text": "A", "stream": True}) as response,
    ):
        lines = [line async for line in response.aiter_lines()]

    assert {line.partition(":")[0] for line in lines} <= {"event", "data", ""}


async def test_alternatives_come_from_one_request(start_daemon):
    daemon = start_daemon([" to the east, where the sun rises", " under a bridge"])
    async with daemon.client() as client:
        response = await client.post(
            "/v1/continue", json={"text": "He went", "n": 2, "max_tokens": 100}
        )

    texts = {choice["text"] for choice in response.json()["choices"]}
    assert texts == {" to the east, where the sun rises", " under a bridge"}


async def test_a_stop_string_is_not_part_of_the_text(start_daemon):
    daemon = start_daemon([" one. two. three."])
    async with daemon.client() as client:
        response = await client.post("/v1/continue", json={"text": "Count:", "stop": [". th"]})

    [choice] = response.json()["choices"]
    assert choice["text"] == " one. two"
    assert choice["finish_reason"] == "stop"


async def test_max_tokens_ends_with_length(start_daemon):
    daemon = start_daemon(endless=True)
    async with daemon.client() as client:
        response = await client.post("/v1/story", json={"prompt": "A fox.", "max_tokens": 5})

    assert response.json()["choices"][0]["finish_reason"] == "length"
    assert response.json()["usage"]["completion_tokens"] == 5


async def test_deadline_returns_what_exists(start_daemon):
    daemon = start_daemon(gated=True, endless=True)
    daemon.permits.release(5)

    async with daemon.client() as client:
        request = asyncio.create_task(
            client.post("/v1/continue", json={"text": "A", "deadline_ms": 1, "max_tokens": 1000})
        )
        await daemon.runtime.ending()
        daemon.permits.release(1)
        response = await request

    assert response.status_code == 200
    assert response.json()["choices"][0]["finish_reason"] == "deadline"


async def test_a_newer_request_for_the_document_supersedes_the_older(start_daemon):
    daemon = start_daemon(gated=True, endless=True)
    async with daemon.client() as client:
        wanted = {"text": "A", "document_id": "d1", "revision": 1, "max_tokens": 50}
        older = asyncio.create_task(client.post("/v1/continue", json=wanted))
        daemon.permits.release(3)
        await daemon.runtime.event()
        newer = asyncio.create_task(
            client.post("/v1/continue", json=wanted | {"text": "Ab", "revision": 2})
        )
        await daemon.runtime.submitted(2)
        daemon.permits.release(1_000)
        responses = await asyncio.gather(older, newer)

    assert [r.status_code for r in responses] == [200, 200]
    reasons = [r.json()["choices"][0]["finish_reason"] for r in responses]
    assert reasons == ["superseded", "length"]


async def test_delete_cancels_by_the_id_the_client_chose(start_daemon):
    daemon = start_daemon(gated=True, endless=True)
    async with daemon.client() as client:
        request = asyncio.create_task(
            client.post(
                "/v1/continue",
                json={"text": "A", "max_tokens": 1000},
                headers={"X-Request-Id": "mine.1"},
            )
        )
        daemon.permits.release(5)
        await daemon.runtime.event()
        cancelled = await client.delete("/v1/requests/mine.1")
        daemon.permits.release(100)
        response = await request
        unknown = await client.delete("/v1/requests/another")

    assert cancelled.json() == {"id": "mine.1", "cancelled": True}
    assert response.json()["choices"][0]["finish_reason"] == "cancelled"
    assert response.json()["id"] == "mine.1"
    assert unknown.status_code == 404
    assert unknown.json()["error"]["code"] == "request_not_found"


async def test_explained_changes_turn_the_selection_into_the_choice(start_daemon):
    daemon = start_daemon(["Он ушёл 👋 утром."])
    original = "Он ушел 👋 рано утром"
    async with daemon.client() as client:
        response = await client.post("/v1/rephrase", json={"text": original, "explain": True})

    [choice] = response.json()["choices"]
    changes = [Change(**change) for change in choice["changes"]]
    assert apply_changes(original, changes) == choice["text"]
    assert [c.category for c in changes] == ["spelling", "deletion", "punctuation"]


async def test_an_engine_that_breaks_at_once_has_a_real_status(start_daemon):
    daemon = start_daemon(fail_after=0)
    async with daemon.client() as client:
        response = await client.post("/v1/continue", json={"text": "A"})

    assert response.status_code == 500
    assert response.json()["error"]["code"] == "engine_failed"
    assert response.headers["x-should-retry"] == "false"


async def test_an_engine_that_breaks_in_mid_stream_ends_with_an_error_event(
    start_daemon, read_events
):
    daemon = start_daemon(fail_after=5)
    async with daemon.client() as client:
        response = await client.post("/v1/continue", json={"text": "A", "stream": True})

    events = read_events(response.text)
    assert response.status_code == 200
    assert [e.event for e in events].count("error") == 1
    assert "".join(e.data["text"] for e in events if e.event == "delta") == " and "
    assert events[-1].event == "error"
    error = events[-1].data["error"]
    assert error["code"] == "engine_failed"
    assert error["request_id"] == response.headers["x-request-id"]


async def test_a_silent_stream_is_pinged(start_daemon, open_call):
    daemon = start_daemon(gated=True, limits=ApiLimits(ping_interval_s=0.01))
    async with open_call(daemon, "/v1/continue", {"text": "A", "stream": True}) as call:
        parts = [await call.body_part() for _ in range(3)]
        daemon.permits.release(100)

    assert parts[0].startswith(b"event: start\n")
    assert parts[1:] == [b": ping\n\n"] * 2
    assert b"event: done\n" in b"".join(m.get("body", b"") for m in call.messages)
