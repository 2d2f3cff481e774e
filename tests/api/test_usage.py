"""`POST /v1/feedback` and `/v1/stats` through the real application, runtime and file."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from indexer.extract import read_text
from indexer.pipeline import Stages
from indexer.service import DocumentIndex, IndexOptions
from usage.desk import UsageDesk

pytestmark = pytest.mark.anyio

CANARY = "канарейка-canary-77ab"


@pytest.fixture
def usage(tmp_path) -> Iterator[UsageDesk]:
    desk = UsageDesk(tmp_path / "stats.sqlite3")
    yield desk
    desk.close()


@pytest.fixture
def daemon(start_daemon, usage):
    return start_daemon([" one", " two"], usage=usage)


async def write(client, **more):
    body = {"text": "Before", "n": 2, "max_tokens": 4, **more}
    return (await client.post("/v1/continue", json=body)).json()


async def say(client, answer, outcome="accepted", **more):
    body = {"request_id": answer["id"], "outcome": outcome, **more}
    return await client.post("/v1/feedback", json=body)


async def test_feedback_is_taken_and_dropped_while_statistics_are_off(daemon):
    async with daemon.client() as client:
        response = await say(client, await write(client))
        stats = (await client.get("/v1/stats")).json()

    assert response.status_code == 200
    assert response.json() == {"recorded": False, "reason": "off"}
    assert (stats["features"], stats["suggestions"]["all"]) == ({}, [])


async def test_a_suggestion_is_followed_from_shown_to_accepted(daemon):
    async with daemon.client() as client:
        await client.put("/v1/stats/consent", json={"counts": True})
        answer = await write(client, sampling={"min_p": 0.12})
        for outcome in ("shown", "accepted"):
            assert (await say(client, answer, outcome)).json()["recorded"]
        stats = (await client.get("/v1/stats")).json()
        lines = (await client.get("/v1/stats/export")).text.splitlines()

    (rate,) = stats["suggestions"]["all"]
    assert (rate["shown"], rate["accepted"], rate["rate"]) == (1, 1, 1.0)
    assert rate["low"] < 0.21
    assert rate["high"] == 1.0
    assert stats["suggestions"]["min_p"][0]["value"] == "0.11-0.15"
    assert stats["suggestions"]["adapters"][0]["value"] == "none"
    assert stats["features"]["POST /v1/continue"] == 1
    assert json.loads(lines[-1])["outcome"] == "accepted"


async def test_an_answer_that_nobody_remembers_is_told(daemon):
    async with daemon.client() as client:
        await client.put("/v1/stats/consent", json={"counts": True})
        response = await say(client, {"id": "somebody-else"})

    assert response.json() == {"recorded": False, "reason": "unknown_request"}


async def test_texts_are_kept_by_a_second_decision_and_come_out_as_pairs(daemon):
    async with daemon.client() as client:
        early = await client.put("/v1/stats/consent", json={"counts": True, "texts": True})
        await client.put("/v1/stats/consent", json={"counts": True})
        await client.put("/v1/stats/consent", json={"texts": True})
        answer = await write(client)
        await say(client, answer, "edited", choice=1, text=" two and more")
        pairs = await client.get("/v1/stats/pairs")

    assert (early.status_code, early.json()["error"]["code"]) == (403, "text_consent_early")
    assert early.json()["error"]["param"] == "texts"
    pair = json.loads(pairs.text)
    assert (pair["prompt"], pair["chosen"]) == ("Before", " two and more")
    assert pair["rejected"] == answer["choices"][1]["text"]
    assert pairs.headers["content-type"] == "application/x-ndjson"


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        ({"outcome": "accepted"}, "missing_field", "request_id"),
        ({"request_id": "r"}, "missing_field", "outcome"),
        ({"request_id": "r", "outcome": "liked"}, "invalid_value", "outcome"),
        ({"request_id": "r", "outcome": "shown", "accepted_chars": 1}, "invalid_value", "accepted_chars"),
        ({"request_id": "r", "outcome": "accepted", "text": CANARY}, "invalid_value", "text"),
        ({"request_id": "r", "outcome": "edited", "text": 5}, "invalid_type", "text"),
        ({"request_id": "r", "outcome": "accepted", "choice": -1}, "invalid_value", "choice"),
        ({"request_id": "r", "outcome": "accepted", "choise": 1}, "unknown_field", "choise"),
    ],
)  # fmt: skip
async def test_wrong_feedback_is_refused_by_field_and_quotes_nothing(daemon, body, code, param):
    async with daemon.client() as client:
        response = await client.post("/v1/feedback", json=body)

    error = response.json()["error"]
    assert (response.status_code, error["code"], error["param"]) == (400, code, param)
    assert CANARY not in response.text


async def test_a_choice_that_the_answer_does_not_have_is_refused(daemon):
    async with daemon.client() as client:
        await client.put("/v1/stats/consent", json={"counts": True})
        response = await say(client, await write(client), choice=9)

    assert (response.status_code, response.json()["error"]["param"]) == (400, "choice")


async def test_forgetting_the_statistics(daemon, tmp_path):
    async with daemon.client() as client:
        await client.put("/v1/stats/consent", json={"counts": True})
        await say(client, await write(client))
        erased = (await client.delete("/v1/stats")).json()
        stats = (await client.get("/v1/stats")).json()

    assert erased["n_suggestions"] == 1
    assert not stats["consent"]["counts"]
    assert not list(tmp_path.glob("stats.sqlite3*"))


async def test_what_failed_is_no_use_of_a_feature(daemon, usage):
    async with daemon.client() as client:
        await client.put("/v1/stats/consent", json={"counts": True})
        await client.post("/v1/continue", json={"text": ""})
        await client.get("/v1/models")
        stats = (await client.get("/v1/stats")).json()

    assert stats["features"] == {"PUT /v1/stats/consent": 1}


async def test_a_daemon_without_statistics_says_so(start_daemon):
    daemon = start_daemon()
    async with daemon.client() as client:
        response = await client.get("/v1/stats")

    assert (response.status_code, response.json()["error"]["code"]) == (503, "usage_closed")


async def test_forgetting_everything_takes_the_statistics_along(start_daemon, usage, tmp_path):
    stages = Stages(read_text=read_text, read_file=read_text, segment=list, make_embedder=list)
    index = DocumentIndex(
        IndexOptions(path=tmp_path / "index"), stages, is_busy=bool, sink=lambda event: None
    )
    index.start().result()
    daemon = start_daemon(usage=usage, index=index)
    async with daemon.client() as client:
        await client.put("/v1/stats/consent", json={"counts": True})
        await say(client, await write(client))
        receipt = (await client.delete("/v1/persona")).json()
    index.close()

    assert receipt["statistics"]["n_suggestions"] == 1
    assert not list(tmp_path.glob("stats.sqlite3*"))
