"""`/v1/documents`, consent, folders, events, export: the index through the front door."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
from dataclasses import asdict

import httpx
import numpy as np
import pytest

from api.document_answers import index_event
from api.errors import CODES, STATUSES
from api.event_hub import MAX_LISTENERS, MAX_WAITING, EventHub
from api.services import ApiLimits
from indexer import errors
from indexer.errors import code_of
from indexer.extract import read_text
from indexer.folders import FolderOptions
from indexer.paragraphs import segment
from indexer.pipeline import PipelineOptions, Stages
from indexer.service import DocumentIndex, IndexOptions
from indexer.types import EmbeddingSpace
from indexer.watch import WatchOptions

pytestmark = pytest.mark.anyio

CANARY = "канарейка-canary-9"
TEXT = (
    "He had lived in that house for thirty years and had never once opened the door to a stranger.\n\n"
    f"Он прожил в этом доме тридцать лет и ни разу не открыл дверь незнакомому человеку, {CANARY}."
)


class Embedder:
    space = EmbeddingSpace(id="tests", n_dimensions=8)

    def embed(self, texts):
        seeds = [list(hashlib.sha256(text.encode()).digest()) for text in texts]
        return np.stack([np.random.default_rng(seed).random(8) for seed in seeds]).astype(
            np.float32
        )

    def close(self):
        pass


def read_file(pushed):
    if pushed.content.startswith(b"%PDF"):
        raise errors.DocumentScanned("The document has pages but no text layer.")
    return read_text(pushed.content.decode(), markdown=pushed.suffix == ".md")


@pytest.fixture
def with_index(tmp_path, start_daemon):
    """A daemon with an index of its own, and one folder in its configuration."""
    root = tmp_path / "Texts"
    root.mkdir()
    (root / "one.txt").write_text(TEXT)
    hub = EventHub()
    stages = Stages(
        read_text=lambda pushed: read_text(
            pushed.text, markdown=pushed.markdown, ai_ranges=pushed.ai_ranges
        ),
        read_file=read_file,
        segment=segment,
        make_embedder=Embedder,
    )
    options = IndexOptions(
        path=tmp_path / "index.noindex",
        folders=FolderOptions(allowed={"texts": root}, watch=WatchOptions(retry_s=0.5)),
        pipeline=PipelineOptions(keep_text=True),
    )
    index = DocumentIndex(
        options,
        stages,
        is_busy=lambda: False,
        sink=lambda event: hub.publish("index", index_event(event)),
    )
    index.start().result()
    yield start_daemon(
        index=index, events=hub, limits=ApiLimits(max_body_bytes=5000, max_document_bytes=20_000)
    )
    index.close()


async def allow(client, choice="on"):
    answer = await client.put("/v1/consent", json={"global": choice})
    assert answer.status_code == 200


async def until_ended(client, document_id):
    """Wait for the end of a document's newest job."""
    for _ in range(4000):
        answer = (await client.get(f"/v1/documents/{document_id}")).json()
        if answer["job"]["finished_at"]:
            return answer
        await asyncio.sleep(0.005)
    raise AssertionError("the job did not end")


async def test_from_push_to_receipt(with_index):
    async with with_index.client() as client:
        await allow(client)
        pushed = await client.put("/v1/documents/doc-1", json={"text": TEXT, "revision": 3})
        state = await until_ended(client, "doc-1")
        listed = (await client.get("/v1/documents")).json()["documents"]
        receipt = await client.delete("/v1/documents/doc-1")
        gone = await client.get("/v1/documents/doc-1")

    assert pushed.status_code == 202
    assert (pushed.json()["job"]["state"], pushed.json()["job"]["document_id"]) == (
        "queued",
        "doc-1",
    )
    assert (state["job"]["state"], state["job"]["n_embedded"]) == ("done", 2)
    document = state["document"]
    assert (document["revision"], document["languages"]) == (3, {"en": 1, "ru": 1})
    assert [found["id"] for found in listed] == ["doc-1"]
    assert CANARY not in json.dumps(listed)
    answer = receipt.json()
    assert (answer["paragraphs_removed"], answer["verified"]) == (2, True)
    assert (gone.status_code, gone.json()["error"]["code"]) == (404, "document_not_found")


async def test_consent_is_off_first_and_ask_needs_it_each_time(with_index):
    async with with_index.client() as client:
        first = await client.get("/v1/consent")
        refused = await client.put("/v1/documents/d", json={"text": TEXT, "consent": True})
        await allow(client, "ask")
        asked = await client.put("/v1/documents/d", json={"text": TEXT})
        given = await client.put("/v1/documents/d", json={"text": TEXT, "consent": True})
        await until_ended(client, "d")
        excluded = await client.put("/v1/consent", json={"documents": {"d": "exclude"}})

    assert first.json()["global"] == "off"
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "consent_required")
    assert (asked.status_code, asked.json()["error"]["param"]) == (403, "consent")
    assert given.status_code == 202
    assert excluded.json()["consent"]["documents"] == {"d": "exclude"}
    assert [r["paragraphs_removed"] for r in excluded.json()["receipts"]] == [2]


async def test_what_a_machine_wrote_is_left_out(with_index):
    theirs = "The machine wrote this long sentence about a house on a hill and nobody at all in it."
    text = f"{TEXT}\n\n{theirs}"
    offset_utf16 = len(text[: text.index(theirs)].encode("utf-16-le")) // 2
    ranges = [{"offset_utf16": offset_utf16, "length_utf16": len(theirs), "origin": "ai"}]
    async with with_index.client() as client:
        await allow(client)
        await client.put("/v1/documents/d", json={"text": text, "ranges": ranges})
        state = await until_ended(client, "d")
        exported = (await client.get("/v1/persona/export")).text

    assert state["document"]["n_paragraphs"] == 2
    assert "machine wrote" not in exported


async def test_a_file_is_taken_as_a_form(with_index, tmp_path):
    async with with_index.client() as client:
        await allow(client, "ask")
        files = {"file": (f"{CANARY}.md", f"# Title\n\n{TEXT}".encode(), "text/markdown")}
        data = {"revision": "7", "consent": "true"}
        pushed = await client.put("/v1/documents/d", files=files, data=data)
        state = await until_ended(client, "d")
        scan = {"file": ("scan.pdf", b"%PDF-1.4")}
        await client.put("/v1/documents/scan", files=scan, data={"consent": "true"})
        failed = await until_ended(client, "scan")

    assert pushed.status_code == 202
    assert (state["document"]["revision"], state["document"]["media_type"]) == (7, "text/markdown")
    assert (failed["document"], failed["job"]["error_code"]) == (None, "document_scanned")
    for path in (tmp_path / "index.noindex").iterdir():
        assert f"{CANARY}.md".encode() not in path.read_bytes()


@pytest.mark.parametrize(
    ("options", "status", "code"),
    [
        ({"json": {}}, 400, "missing_field"),
        ({"json": {"text": 1}}, 400, "invalid_type"),
        ({"json": {"text": "x", "txt": 1}}, 400, "unknown_field"),
        ({"json": {"text": "x", "revision": -1}}, 400, "invalid_value"),
        (
            {"json": {"text": "x", "ranges": [{"offset_utf16": 0, "length_utf16": 0, "origin": "ai"}]}},
            400,
            "invalid_value",
        ),
        ({"content": b'{"text": "x", "text": "y"}', "headers": {"content-type": "application/json"}}, 400, "invalid_json"),
        ({"content": b"text", "headers": {"content-type": "text/plain"}}, 415, "unsupported_media_type"),
        ({"content": b"x", "headers": {"content-type": "multipart/form-data"}}, 415, "unsupported_media_type"),
        ({"content": b"x", "headers": {"content-type": "multipart/form-data; boundary=b"}}, 400, None),
        ({"files": {"file": b"x" * 30_000}}, 413, "body_too_large"),
        ({"json": {"text": "x" * 30_000}}, 413, "body_too_large"),
        ({"files": {"other": b"x"}}, 400, "unknown_field"),
        ({"files": {"file": b"x"}, "data": {"revision": "one"}}, 400, "invalid_value"),
        ({"files": {"file": b"x"}, "data": {"consent": "yes"}}, 400, "invalid_value"),
        ({"files": {"file": b"x"}, "data": {"revision": "1" * 100}}, 400, None),
        ({"files": [("file", b"x"), ("file", b"y")]}, 400, "invalid_request"),
    ],
)  # fmt: skip
async def test_what_cannot_be_taken_says_why(with_index, options, status, code):
    async with with_index.client() as client:
        await allow(client)
        answer = await client.put("/v1/documents/d", **options)

    assert answer.status_code == status
    if code is not None:
        assert answer.json()["error"]["code"] == code


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/continue"),
        ("PUT", "/v1/consent"),
        ("POST", "/v1/folders"),
    ],
)
async def test_a_form_is_taken_nowhere_else(with_index, method, path):
    async with with_index.client() as client:
        answer = await client.request(method, path, files={"file": b"x"})

    assert answer.status_code == 415


async def test_a_form_needs_the_token_and_no_browser(with_index):
    async with with_index.client() as client:
        origin = await client.put(
            "/v1/documents/d", files={"file": b"x"}, headers={"Origin": "https://example.com"}
        )
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(with_index.app), base_url="http://127.0.0.1:1799"
    ) as client:
        token = await client.put("/v1/documents/d", files={"file": b"x"})

    assert (origin.status_code, token.status_code) == (403, 401)


async def test_only_folders_of_the_configuration_can_be_watched(with_index):
    async with with_index.client() as client:
        await allow(client, "ask")
        unknown = await client.post("/v1/folders", json={"name": "/etc", "consent": True})
        refused = await client.post("/v1/folders", json={"name": "texts"})
        taken = await client.post("/v1/folders", json={"name": "texts", "consent": True})
        for _ in range(2000):
            documents = (await client.get("/v1/documents")).json()["documents"]
            if documents:
                break
            await asyncio.sleep(0.005)
        consent = (await client.get("/v1/consent")).json()
        removed = await client.delete("/v1/folders/texts")

    assert (unknown.status_code, unknown.json()["error"]["param"]) == (404, "name")
    assert (refused.status_code, taken.status_code) == (403, 202)
    assert [(d["origin"], d["path"]) for d in documents] == [("folder", "one.txt")]
    assert consent["folders"] == {"texts": True}
    assert removed.json() == {"name": "texts", "documents_removed": 1}


async def test_the_export_has_everything_and_forgetting_leaves_nothing(with_index, tmp_path):
    async with with_index.client() as client:
        await allow(client)
        await client.put("/v1/documents/d", json={"text": TEXT})
        await until_ended(client, "d")
        exported = await client.get("/v1/persona/export", params={"vectors": "true"})
        receipt = (await client.delete("/v1/persona")).json()
        after = (await client.get("/v1/persona/export")).text

    assert exported.headers["content-type"].startswith("application/x-ndjson")
    kinds = [json.loads(line)["type"] for line in exported.text.splitlines()]
    assert kinds == ["header", "consent", "document", "paragraph", "paragraph"]
    assert CANARY in exported.text
    assert (receipt["documents_removed"], receipt["verified"]) == (1, True)
    assert receipt["statistics"] is None  # this daemon keeps none
    assert [json.loads(line)["type"] for line in after.splitlines()] == ["header", "consent"]
    for path in (tmp_path / "index.noindex").iterdir():
        assert CANARY.encode() not in path.read_bytes()


async def test_a_rebuild_is_a_job(with_index):
    async with with_index.client() as client:
        answer = await client.post("/v1/index/rebuild", json={})

    assert (answer.status_code, answer.json()["job"]["kind"]) == (202, "rebuild")


async def test_events_tell_how_it_goes_and_end_with_the_daemon(with_index, open_call, read_events):
    async with open_call(with_index, "/v1/events", method="GET") as call:
        assert await call.body_part() == b": ping\n\n"
        async with with_index.client() as client:
            await allow(client)
            await client.put("/v1/documents/d", json={"text": TEXT})
            await until_ended(client, "d")
        with_index.services.events.close()

    body = b"".join(m.get("body", b"") for m in call.messages[1:]).decode()
    events = [event.data for event in read_events(body.removeprefix(": ping\n\n"))]
    states = [e["job"]["state"] for e in events if e["kind"] == "job" and e["document_id"] == "d"]
    assert (states[0], states[-1]) == ("queued", "done")
    assert "consent" in {event["kind"] for event in events}
    assert CANARY not in body


async def test_a_listener_that_leaves_is_forgotten(with_index, open_call):
    hub = with_index.services.events
    async with open_call(with_index, "/v1/events", method="GET") as call:
        await call.body_part()
        assert len(hub._listeners) == 1
        call.leave()

    assert not hub._listeners


async def test_a_listener_that_does_not_read_loses_events_and_is_told():
    hub = EventHub()
    async with hub.listener() as listener:
        for number in range(MAX_WAITING + 7):
            hub.publish("index", {"n": number})
        await asyncio.sleep(0.05)
        seen = [await listener.next(1) for _ in range(MAX_WAITING + 1)]

    assert seen[-1].name == "dropped"
    assert seen[-1].data == {"n": 7}


async def test_listeners_are_bounded(with_index):
    hub = with_index.services.events
    hub._listeners.update(object() for _ in range(MAX_LISTENERS))
    async with with_index.client() as client:
        answer = await client.get("/v1/events")
    hub._listeners.clear()

    assert answer.status_code == 503


async def test_without_an_index_the_paths_say_so(daemon):
    async with daemon.client() as client:
        answer = await client.get("/v1/documents")

    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "index_closed")


def test_each_error_of_the_indexer_has_the_code_that_jobs_show():
    classes = [
        found
        for found in vars(errors).values()
        if isinstance(found, type) and issubclass(found, errors.IndexerError)
    ]
    assert len(classes) > 15
    for found in classes:
        assert CODES[found] == code_of(found("message"))
        assert CODES[found] in STATUSES


async def test_no_log_holds_a_text_or_a_name(with_index, caplog):
    with caplog.at_level(logging.DEBUG):
        async with with_index.client() as client:
            await allow(client)
            await client.put(f"/v1/documents/{CANARY}", json={"text": TEXT})
            await until_ended(client, CANARY)
            files = {"file": (f"{CANARY}.pdf", f"%PDF {CANARY}".encode())}
            await client.put("/v1/documents/e", files=files)
            failed = await until_ended(client, "e")
            await client.put("/v1/documents/e", json={"text": [CANARY]})
            await client.post("/v1/folders", json={"name": CANARY})

    assert "canary-9" not in json.dumps(asdict(with_index.services.limits)) + str(failed)
    # The test's own client logs its URLs.
    mine = [record for record in caplog.records if not record.name.startswith("http")]
    assert mine
    assert not [r for r in mine if "canary-9" in f"{r.getMessage()} {r.__dict__!r}"]
