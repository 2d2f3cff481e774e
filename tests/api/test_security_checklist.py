"""The checklist of `docs/security.md`, S1 to S19, as far as the edge is what holds it: one test a control.

Beside them, the mistakes that other local model servers are known for, in our shape.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from fastapi.routing import iter_route_contexts

from api.scopes import ROUTES, WEBSOCKET, RouteTable

pytestmark = pytest.mark.anyio

OPENAPI = json.loads((Path(__file__).parents[2] / "openapi.json").read_text("utf-8"))
SCHEMAS = OPENAPI["components"]["schemas"]
WITH_BODY = {"POST", "PUT"}
EXTREMES = ["-1", "2147483648", "-9223372036854775809", "NaN", "Infinity", "1e999", "0.5", "true"]


def requests_of(app):
    """(method, a path that leads there) of every HTTP route."""
    for route in iter_route_contexts(app.routes):
        for method in getattr(route, "methods", None) or {}:
            yield method, re.sub(r"\{[^}]+\}", "x", route.path)


def fields_of(schema, name="", seen=()):
    """(dotted name, schema) of everything in a request's schema."""
    if "$ref" in schema:
        target = schema["$ref"].rpartition("/")[2]
        if target not in seen:
            yield from fields_of(SCHEMAS[target], name, (*seen, target))
        return
    yield name, schema
    for key in ("anyOf", "oneOf", "allOf"):
        for inner in schema.get(key, []):
            yield from fields_of(inner, name, seen)
    yield from (
        fields_of(schema["items"], name, seen) if isinstance(schema.get("items"), dict) else ()
    )
    for field, inner in schema.get("properties", {}).items():
        yield from fields_of(inner, f"{name}.{field}".strip("."), seen)


def request_fields():
    """(operation, field, schema) of all that a client may send."""
    for path, operations in OPENAPI["paths"].items():
        for method, operation in operations.items():
            where = f"{method.upper()} {path}"
            for content in operation.get("requestBody", {}).get("content", {}).values():
                for name, schema in fields_of(content["schema"]):
                    yield where, name, schema
            for parameter in operation.get("parameters", []):
                yield where, parameter["name"], parameter["schema"]


@pytest.fixture
async def client(daemon):
    async with daemon.client() as client:
        yield client


async def each(client, daemon, **extra):
    """The answers to one request for each route, with these headers."""
    for method, path in requests_of(daemon.app):
        if path != "/v1/events" or extra:  # without a refusal it has no end
            yield method, path, await client.request(method, path, **extra)


async def test_s2_a_foreign_host_is_refused_on_every_route(client, daemon):
    """CVE-2024-28224: DNS rebinding."""
    async for method, path, answer in each(client, daemon, headers={"Host": "evil.com:1799"}):
        assert (answer.status_code, method, path) == (421, method, path)


@pytest.mark.parametrize(
    "header",
    [
        {"Origin": "https://evil.com"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
async def test_s3_what_a_page_sends_is_refused_on_every_route(client, daemon, header):
    async for method, path, answer in each(client, daemon, headers=header):
        assert (answer.status_code, method, path) == (403, method, path)


async def test_s4_no_answer_opens_the_door_to_another_origin(client, daemon):
    for headers in ({}, {"Origin": "https://evil.com"}):
        for method in ("GET", "OPTIONS"):
            answer = await client.request(method, "/v1/models", headers=headers)
            assert not [name for name in answer.headers if name.startswith("access-control")]


async def test_s5_every_route_that_is_not_open_asks_for_a_token(daemon):
    table = RouteTable(ROUTES)
    async with daemon.client(**{"X-None": "1"}) as stranger:
        async for method, path, answer in each(stranger, daemon, headers={"X-None": "1"}):
            is_refused = answer.status_code == 401
            assert is_refused == (table.needed(method, path) != "open"), (method, path)


@pytest.mark.parametrize("content_type", [None, "text/plain", "application/x-www-form-urlencoded"])
async def test_s6_a_body_that_needs_no_preflight_is_refused_on_every_route(
    client, daemon, content_type
):
    """A `fetch` with a Blob, or a form: the classic way of a page to a local server."""
    headers = {"Content-Type": content_type} if content_type else {}
    for method, path in requests_of(daemon.app):
        if method in WITH_BODY:
            answer = await client.request(method, path, content=b'{"text": "A"}', headers=headers)
            assert (answer.status_code, path) == (415, path)


async def test_s6_get_changes_nothing(daemon):
    names = {name.partition(" ")[2] for name in ROUTES if name.startswith("GET ")}
    verbs = re.compile(r"load|unload|rebuild|delete|toggle|download")

    assert not [path for path in names if verbs.search(path)]


async def test_s8_a_body_beyond_the_limit_is_refused_on_every_route(client, daemon):
    headers = {"Content-Type": "application/json", "Content-Length": str(2**40)}
    for method, path in requests_of(daemon.app):
        if method in WITH_BODY:
            answer = await client.request(method, path, content=b"{}", headers=headers)
            assert (answer.status_code, path) == (413, path)


NUMBERS = sorted(
    {
        (where, name)
        for where, name, schema in request_fields()
        if schema.get("type") in ("integer", "number") and where.split()[0] in WITH_BODY
    }
)


def body_with(name, literal):
    """A JSON text in which the field of that dotted name is a number written so."""
    fields = {"text": '"A"', "prompt": '"A"', "content": '"A"', "max_tokens": "1", "n_predict": "1"}
    head, _, rest = name.partition(".")
    fields[head] = literal if not rest else f'{{"{rest}": {literal}}}'
    return "{" + ", ".join(f'"{field}": {value}' for field, value in fields.items()) + "}"


@pytest.mark.parametrize(("where", "name"), NUMBERS)
async def test_s9_no_number_breaks_the_daemon(client, where, name):
    """CVE-2026-21869: a negative count reached the engine."""
    method, _, path = where.partition(" ")
    path = re.sub(r"\{[^}]+\}", "x", path)
    for literal in EXTREMES:
        answer = await client.request(
            method,
            path,
            content=body_with(name, literal),
            headers={"Content-Type": "application/json"},
        )
        assert answer.status_code < 500 or answer.status_code in (501, 503), (name, literal)
        assert literal not in ("NaN", "Infinity", "1e999") or answer.status_code >= 400
    assert (await client.get("/health")).status_code == 200


@pytest.mark.parametrize(
    "name",
    [
        "../../x",
        "..",
        "%2e%2e",
        "%2e%2e%2f%2e%2e%2fx",
        "a/../../b",
        "x\x00y",
        "/etc/passwd",
        "~/x",
        "file:///etc/passwd",
        "https://evil.com/x",
        "C:\\x",
        "a" * 65,
    ],
)
async def test_s10_an_adapter_is_a_name_and_never_a_path_or_a_url(client, name):
    """CVE-2024-37032: an id that was used as a path. Links: tests/adapters/test_registry.py."""
    bodies = (
        ("/v1/continue", {"text": "A", "adapters": [{"name": name}]}),
        ("/v1/completions", {"model": "scripted", "prompt": "A", "adapters": [{"name": name}]}),
        ("/v1/completions", {"model": f"scripted:{name}", "prompt": "A"}),
    )
    for path, body in bodies:
        answer = await client.post(path, json=body)
        assert answer.status_code in (400, 404), (path, body)
        assert "No such file" not in answer.text
    # llama.cpp's dialect ignores what it does not know, and a path is such a thing.
    ignored = {"prompt": "A", "n_predict": 1, "adapters": [{"path": name, "scale": 1}]}
    plain = await client.post("/completion", json={"prompt": "A", "n_predict": 1})
    answer = await client.post("/completion", json=ignored)
    assert answer.json()["content"] == plain.json()["content"]
    loaded = await client.post(f"/v1/adapters/{name}/load".replace("\x00", "%00"), json={})
    assert loaded.status_code in (400, 404, 405)


def test_s12_s13_s14_s15_no_field_of_any_request_is_a_path_or_a_url():
    """CVE-2026-5530: a field that named where to fetch from. `file` is the upload's own bytes."""
    suspicious = re.compile(r"(path|url|uri|href|file|host|dir|directory|folder|root|endpoint)s?$")
    found = {
        (where, name)
        for where, name, schema in request_fields()
        if (suspicious.search(name.rpartition(".")[2].lower()) and schema.get("format") != "binary")
        or schema.get("format") in ("uri", "url", "file-path", "path")
    }

    assert not found


async def test_s12_nothing_of_the_cache_is_saved_or_restored_by_a_client(client):
    for action in ("save", "restore", "erase"):
        answer = await client.post(f"/slots/0?action={action}", json={"filename": "../x"})
        assert answer.status_code in (400, 404, 501)


def test_s16_no_request_takes_embeddings():
    """CVE-2025-62164: prompt embeddings that were unpickled. Token ids and pairs of a bias are no vectors."""
    vectors = [
        (where, name)
        for where, name, schema in request_fields()
        if schema.get("type") == "array" and schema.get("items", {}).get("type") == "number"
    ]

    assert not vectors
    names = {name.rpartition(".")[2] for _, name, _ in request_fields()}
    assert not names & {
        "prompt_embeds",
        "inputs_embeds",
        "input_embeds",
        "soft_prompt",
        "image_url",
    }


async def test_s17_s19_there_is_no_debug_route_and_the_others_show_no_text(client):
    secret = "the old man and the canary"
    await client.post("/v1/continue", json={"text": secret})
    for path in ("/slots", "/props", "/v1/status", "/metrics", "/v1/models"):
        assert secret not in (await client.get(path)).text
    for path in (
        "/docs",
        "/redoc",
        "/openapi.json",
        "/debug",
        "/debug/pprof",
        "/admin",
        "/v1/config",
    ):
        assert (await client.get(path)).status_code == 404


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"null", b'"', b"\xff\xfe", b'{"text": "A"' + b"[" * 100_000, b"{}" * 1000,
     b'{"text": {"$ref": "#"}}', b'{"text": "A", "adapters": [[[[]]]]}'],
)  # fmt: skip
async def test_a_malformed_body_is_refused_and_the_next_request_works(client, daemon, body):
    """CVE-2025-48944: a malformed body that took the server down."""
    for method, path in requests_of(daemon.app):
        if method in WITH_BODY and path not in ("/v1/pairings", "/v1/index/rebuild"):
            headers = {"Content-Type": "application/json"}
            answer = await client.request(method, path, content=body, headers=headers)
            # The dialects ignore fields they do not know, as upstream does.
            assert answer.status_code in (200, 400, 404, 415, 501, 503), (path, body[:20])
    assert (await client.post("/v1/continue", json={"text": "A"})).status_code == 200


async def test_every_websocket_route_passes_the_same_guards(daemon):
    routes = [name.split()[1] for name in ROUTES if name.startswith(WEBSOCKET)]
    attacks = [
        [(b"host", b"evil.com:1799")],
        [(b"host", b"127.0.0.1:1799"), (b"origin", b"https://evil.com")],
        [(b"host", b"127.0.0.1:1799"), (b"sec-fetch-site", b"cross-site")],
        [(b"host", b"127.0.0.1:1799")],
        [
            (b"host", b"127.0.0.1:1799"),
            (b"sec-websocket-protocol", b"token-of-the-tests-0123456789"),
        ],
    ]
    for path in routes:
        for headers in attacks:
            sent = []

            async def receive():
                return {"type": "websocket.connect"}

            async def send(message, sent=sent):
                sent.append(message["type"])

            scope = {"type": "websocket", "path": path, "headers": headers, "subprotocols": []}
            await daemon.app(scope | {"root_path": "", "query_string": b""}, receive, send)
            assert sent == ["websocket.close"]
