"""Adapters by number: per request, for all requests, and really none."""

from __future__ import annotations

import pytest

from pushkin_runtime.adapter_pool import AdapterOptions
from pushkin_runtime.engines.scripted_engine import BASE
from pushkin_runtime.types import AdapterRef

pytestmark = pytest.mark.anyio


async def content(client, **body):
    response = await client.post("/completion", json={"prompt": "a", "n_predict": 12, **body})
    assert response.status_code == 200, response.text
    return response.json()["content"]


async def test_the_list_has_numbers_names_and_scales(with_adapters):
    async with with_adapters.client() as client:
        listed = (await client.get("/lora-adapters")).json()

    assert [(a["id"], a["path"], a["name"], a["scale"]) for a in listed] == [
        (0, "formal", "formal", 0.0),
        (1, "plain", "plain", 0.0),
    ]
    assert list(listed[0])[:5] == ["id", "path", "scale", "task_name", "prompt_prefix"]
    assert len(listed[0]["sha256"]) == 64


async def test_a_request_chooses_and_what_it_leaves_out_is_off(with_adapters):
    async with with_adapters.client() as client:
        response = await client.post(
            "/completion",
            json={"prompt": "a", "n_predict": 1, "lora": [{"id": 1, "scale": 0.5}]},
        )
        bare, formal, plain, both = [
            await content(client, lora=lora)
            for lora in (
                [],
                [{"id": 0, "scale": 1.0}],
                [{"id": 1, "scale": 1.0}],
                [{"id": 0, "scale": 1.0}, {"id": 1, "scale": 1.0}],
            )
        ]

    answer = response.json()
    assert answer["adapters"] == [{"name": "plain", "scale": 0.5}]
    assert answer["generation_settings"]["lora"] == [{"id": 1, "scale": 0.5}]
    assert len({bare, formal, plain, both}) == 4


async def test_texts_of_other_scales_never_mix_in_the_cache(with_adapters):
    """Upstream's regression: a prompt read at one scale must not answer at another."""
    async with with_adapters.client() as client:
        off, on = [{"id": 0, "scale": 0.0}], [{"id": 0, "scale": 1.0}]
        fresh_off = await content(client, lora=off, cache_prompt=False)
        fresh_on = await content(client, lora=on, cache_prompt=False)
        for lora, expected in ((off, fresh_off), (on, fresh_on), (off, fresh_off), (on, fresh_on)):
            assert await content(client, lora=lora) == expected
        response = await client.post(
            "/completion", json={"prompt": "a", "n_predict": 1, "lora": on}
        )

    assert fresh_off != fresh_on
    assert response.json()["timings"]["cache_n"] > 0


async def test_the_list_for_all_requests_is_what_was_set_last(with_adapters):
    async with with_adapters.client() as client:
        bare = await content(client)
        changed = await client.post("/lora-adapters", json=[{"id": 0, "scale": 0.5}])
        scales = [a["scale"] for a in (await client.get("/lora-adapters")).json()]
        formal, really_bare = await content(client), await content(client, lora=[])
        await client.post("/lora-adapters", json=[])
        after = await content(client)

    assert changed.json() == {"success": True}
    assert scales == [0.5, 0.0]
    assert formal != bare
    assert really_bare == after == bare


async def test_without_a_choice_the_task_s_own_adapter_writes(
    tmp_path, write_adapter, start_daemon
):
    write_adapter(tmp_path, "continue", BASE, seed=1)
    daemon = start_daemon(adapters=AdapterOptions(roots=(tmp_path,)))
    async with daemon.client() as client:
        listed = (await client.get("/lora-adapters")).json()
        by_default, bare = await content(client), await content(client, lora=[])
        answer = (await client.post("/completion", json={"prompt": "a", "n_predict": 1})).json()

    assert [a["scale"] for a in listed] == [1.0]
    assert by_default != bare
    assert answer["adapters"] == [{"name": "continue", "scale": 1.0}]


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ([{"id": 2, "scale": 1.0}], 404, "lora[0].id"),
        ([{"id": -1, "scale": 1.0}], 400, "[0].id"),
        ([{"id": 2**31, "scale": 1.0}], 400, "[0].id"),
        ([{"id": 0, "scale": 4.5}], 400, "[0].scale"),
        ({"adapters": []}, 400, None),
    ],
)
async def test_a_number_that_no_adapter_has_is_an_error(with_adapters, body, status, param):
    async with with_adapters.client() as client:
        response = await client.post("/lora-adapters", json=body)
        after = (await client.get("/lora-adapters")).json()

    assert response.status_code == response.json()["error"]["code"] == status
    assert response.json()["error"]["param"] == param
    assert [a["scale"] for a in after] == [0.0, 0.0]


async def test_a_request_with_an_unknown_number_is_not_the_base_model_s_answer(with_adapters):
    async with with_adapters.client() as client:
        response = await client.post(
            "/completion", json={"prompt": "a", "lora": [{"id": 7, "scale": 1.0}]}
        )

    assert response.status_code == 404
    assert response.json()["error"]["type"] == "not_found_error"
    assert with_adapters.runtime.requests == []


async def test_scale_zero_is_no_adapter(with_adapters):
    async with with_adapters.client() as client:
        await content(client, lora=[{"id": 0, "scale": 0.0}, {"id": 1, "scale": 2.0}])

    assert with_adapters.runtime.requests[-1].adapters == (AdapterRef("plain", 2.0),)
