"""The guards: who is refused, with which status and code, before any body is read."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.errors import ApiError
from api.scopes import ROUTES, RouteTable
from api.security import check_request
from api.services import ApiLimits, Services, loopback_hosts
from api.tokens import FixedTokens

pytestmark = pytest.mark.anyio

TOKEN = b"Bearer token-of-the-tests-0123456789"
HOST = (b"host", b"127.0.0.1:1799")
AUTH = (b"authorization", TOKEN)
JSON = (b"content-type", b"application/json")
BODY = b'{"text": "A", "max_tokens": 1}'


@pytest.fixture
def ask(daemon, open_call):
    """`ask(headers, path, method, body)` sends exactly these headers and returns the finished call."""

    async def send(headers, path="/v1/continue", method="POST", body=BODY):
        async with open_call(daemon, path, method=method) as call:
            call.scope["headers"] = headers
            call.send_body(body)
        return call

    return send


def code_of(call):
    error = call.json()["error"]
    assert set(error) == {"code", "message", "type", "param", "request_id"}
    headers = dict(call.messages[0]["headers"])
    assert headers[b"x-request-id"].decode() == error["request_id"]
    assert not any(name.startswith(b"access-control") for name in headers)
    return call.status, error["code"]


@pytest.mark.parametrize("host", [b"127.0.0.1:1799", b"localhost:1799", b"[::1]:1799"])
async def test_loopback_names_with_the_port_are_let_in(ask, host):
    assert (await ask([(b"host", host), AUTH, JSON])).status == 200


@pytest.mark.parametrize(
    "hosts",
    [
        [b"evil.com"],
        [b"evil.com:1799"],
        [b"127.0.0.1"],
        [b"127.0.0.1:80"],
        [b"localhost.:1799"],
        [b"localhost:1799@evil.com"],
        [b"127.0.0.1.evil.com:1799"],
        [b"[::1].evil.com:1799"],
        [b"0.0.0.0:1799"],
        [b"192.168.1.2:1799"],
        [b"\xff:1799"],
        [b""],
        [],
        [b"127.0.0.1:1799", b"127.0.0.1:1799"],
    ],
)
@pytest.mark.parametrize("path", ["/v1/continue", "/health", "/nothing"])
async def test_any_other_host_is_misdirected_on_every_path(ask, hosts, path):
    call = await ask([*((b"host", host) for host in hosts), AUTH, JSON], path)

    assert code_of(call) == (421, "host_refused")


@pytest.mark.parametrize(
    "origin", [b"https://evil.com", b"null", b"http://127.0.0.1:1799", b"file://", b""]
)
async def test_every_origin_is_foreign(ask, origin):
    call = await ask([HOST, AUTH, JSON, (b"origin", origin)])

    assert code_of(call) == (403, "origin_refused")


@pytest.mark.parametrize(
    ("site", "status"),
    [(b"none", 200), (b"same-origin", 200), (b"same-site", 403), (b"cross-site", 403), (b"", 403)],
)
async def test_fetches_from_other_sites_are_refused(ask, site, status):
    assert (await ask([HOST, AUTH, JSON, (b"sec-fetch-site", site)])).status == status


async def test_preflights_are_refused(ask):
    call = await ask([HOST, (b"access-control-request-method", b"POST")], method="OPTIONS")

    assert code_of(call) == (403, "preflight_refused")


@pytest.mark.parametrize(
    "authorization",
    [
        [],
        [b""],
        [b"Bearer"],
        [b"Bearer "],
        [b"Bearer wrong"],
        [TOKEN[:-1]],
        [TOKEN + b"0"],
        [TOKEN.removeprefix(b"Bearer ")],
        [TOKEN.replace(b"Bearer", b"Basic")],
        [b"Bearer \xff\xfe"],
        [TOKEN, TOKEN],
    ],
)
@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/v1/continue"), ("GET", "/v1/status"), ("GET", "/nothing"), ("HEAD", "/health")],
)
async def test_without_the_token_nothing_answers(ask, authorization, method, path):
    headers = [HOST, JSON, *((b"authorization", value) for value in authorization)]
    call = await ask(headers, path, method)

    assert code_of(call) == (401, "unauthorized")
    assert dict(call.messages[0]["headers"])[b"www-authenticate"] == b"Bearer"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ([(b"x-api-key", TOKEN.removeprefix(b"Bearer "))], 200),
        ([(b"x-api-key", b"wrong")], 401),
        ([(b"x-api-key", TOKEN)], 401),
        ([AUTH, (b"x-api-key", TOKEN.removeprefix(b"Bearer "))], 401),
        ([(b"x-api-key", TOKEN.removeprefix(b"Bearer "))] * 2, 401),
    ],
)
async def test_an_api_key_is_the_same_credential_and_there_is_one_only(ask, headers, status):
    assert (await ask([HOST, JSON, *headers])).status == status


async def test_the_scheme_may_be_written_in_any_case(ask):
    assert (await ask([HOST, JSON, (b"authorization", TOKEN.replace(b"B", b"b"))])).status == 200


async def test_health_is_open(ask):
    assert (await ask([HOST], "/health", "GET", b"")).status == 200


async def test_no_auth_lets_everybody_write_and_turns_off_nothing_else(start_daemon):
    daemon = start_daemon(without_token="editor")
    async with daemon.client(**{"X-None": "1"}) as client:
        plain = await client.get("/v1/status")
        with_a_made_up_key = await client.get("/v1/status", headers={"X-Api-Key": "none"})
        foreign = await client.get("/v1/status", headers={"Origin": "https://evil.com"})
        admin = await client.delete("/v1/persona")

    codes = (plain.status_code, with_a_made_up_key.status_code, foreign.status_code)
    assert codes == (200, 200, 403)
    assert (admin.status_code, admin.json()["error"]["code"]) == (403, "scope_insufficient")


@pytest.mark.parametrize(
    "headers",
    [
        [(b"content-length", b"23")],
        [(b"transfer-encoding", b"chunked")],
        [(b"content-type", b"")],
        [(b"content-type", b"text/plain")],
        [(b"content-type", b"application/x-www-form-urlencoded")],
        [(b"content-type", b"multipart/form-data; boundary=x")],
        [(b"content-type", b"application/jsonp")],
        [(b"content-type", b"text/json")],
        [(b"content-type", b"application/json; charset=utf-16")],
        [JSON, JSON],
        [JSON, (b"content-encoding", b"gzip")],
    ],
)
async def test_only_plain_utf8_json_is_taken(ask, headers):
    call = await ask([HOST, AUTH, *headers])

    assert code_of(call) == (415, "unsupported_media_type")


@pytest.mark.parametrize(
    "content_type",
    [b"application/json", b'Application/JSON; Charset="UTF-8"', b"application/x+json"],
)
async def test_every_spelling_of_json_is_taken(ask, content_type):
    assert (await ask([HOST, AUTH, (b"content-type", content_type)])).status == 200


@given(st.binary(max_size=40), st.sampled_from([b"", b"application/json;charset", b"a/json;"]))
def test_no_content_type_breaks_the_check(tail, head):
    scope = {"type": "http", "method": "POST", "path": "/v1/continue"}
    scope["headers"] = [HOST, (b"content-type", head + tail)]
    services = Services(
        runtime=None,
        tokens=FixedTokens(),
        without_token="admin",
        allowed_hosts=loopback_hosts(1799),
        version="",
        started_at=0.0,
    )
    try:
        check_request(scope, services, RouteTable(ROUTES))
    except ApiError as error:
        refused_as = error.code
    else:
        refused_as = None
    assert refused_as in {None, "unsupported_media_type"}


@pytest.mark.parametrize(
    ("length", "status", "code"),
    [
        (b"4194305", 413, "body_too_large"),
        (b"9" * 5000, 413, "body_too_large"),
        (b"-1", 400, "invalid_request"),
        (b"1e3", 400, "invalid_request"),
    ],
)
async def test_a_declared_length_is_checked_before_reading(ask, length, status, code):
    assert code_of(await ask([HOST, AUTH, JSON, (b"content-length", length)])) == (status, code)


async def test_a_chunked_body_is_counted_while_it_comes(start_daemon, open_call):
    daemon = start_daemon(limits=ApiLimits(max_body_bytes=100))
    async with open_call(daemon, "/v1/continue") as call:
        call.send_body(b" " * 60, more=True)
        call.send_body(b" " * 60, more=True)

    assert code_of(call) == (413, "body_too_large")


async def test_a_body_that_does_not_come_is_given_up_and_not_to_be_retried(start_daemon, open_call):
    daemon = start_daemon(limits=ApiLimits(body_timeout_s=0.01))
    async with open_call(daemon, "/v1/continue") as call:
        call.send_body(b'{"text"', more=True)

    assert code_of(call) == (400, "body_timeout")
    assert dict(call.messages[0]["headers"])[b"connection"] == b"Close".lower()


async def test_no_body_is_read_before_the_token_is_checked(daemon, open_call):
    async with open_call(daemon, "/v1/continue") as call:
        call.scope["headers"] = [HOST, JSON]

    assert call.status == 401


@pytest.mark.parametrize(
    ("given", "is_taken"),
    [("mine-1_2.3", True), ("x" * 64, True), ("x" * 65, False), ("a b", False), ("a/../b", False)],
)
async def test_a_well_formed_request_id_of_the_client_is_kept(daemon, given, is_taken):
    async with daemon.client() as client:
        response = await client.get("/v1/status", headers={"X-Request-Id": given})

    assert (response.headers["x-request-id"] == given) == is_taken


async def test_an_id_in_use_is_replaced(start_daemon, open_call):
    daemon = start_daemon(gated=True)
    headers = [(b"x-request-id", b"twice")]
    body = {"text": "A", "stream": True}
    async with open_call(daemon, "/v1/continue", body, headers) as first:
        await first.body_part()
        async with open_call(daemon, "/v1/continue", body, headers) as second:
            daemon.permits.release(1000)

    ids = [dict(call.messages[0]["headers"])[b"x-request-id"] for call in (first, second)]
    assert ids[0] == b"twice"
    assert ids[1].startswith(b"req_")


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE", "GET", "HEAD", "TRACE", "BREW"])
async def test_a_wrong_method_is_405_and_says_which_is_right(ask, method):
    call = await ask([HOST, AUTH, JSON], method=method)

    assert call.status == 405
    assert dict(call.messages[0]["headers"])[b"allow"] == b"POST"
    assert code_of(call) == (405, "method_not_allowed")


@pytest.mark.parametrize("content_type", [b"text/plain", b"application/json"])
async def test_a_wrong_method_is_405_whatever_is_sent(ask, content_type):
    call = await ask([HOST, AUTH, (b"content-type", content_type)], "/v1/models", "POST")

    assert code_of(call) == (405, "method_not_allowed")


@pytest.mark.parametrize(
    ("path", "method", "expected"),
    [
        ("/v1/index/rebuild", "POST", (503, "index_closed")),  # there is none here
        ("/v1/adapters/none/load", "POST", (404, "adapter_not_found")),
        ("/infill", "POST", (501, "capability_missing")),
        ("/v1/continue", "POST", (400, "invalid_json")),
        ("/v1/completions", "POST", (400, "invalid_json")),
    ],
)
async def test_a_request_without_a_body_needs_no_content_type(ask, path, method, expected):
    for headers in ([], [(b"content-length", b"0")]):
        call = await ask([HOST, AUTH, *headers], path, method, b"")
        error = call.json().get("error", {})

        assert (call.status, error.get("reason") or error.get("code")) == expected


@pytest.mark.parametrize("path", ["/", "/v1", "/v1/continue/", "/docs", "/openapi.json", "/redoc"])
async def test_unknown_paths_are_404(ask, path):
    assert code_of(await ask([HOST, AUTH], path, "GET", b"")) == (404, "unknown_path")


async def test_websockets_pass_the_same_guards(daemon):
    sent = []

    async def send(message):
        sent.append(message)

    async def receive():
        return {"type": "websocket.connect"}

    scope = {"type": "websocket", "path": "/v1/dictation", "headers": [HOST], "subprotocols": []}
    await daemon.app(scope | {"root_path": "", "query_string": b""}, receive, send)

    assert [message["type"] for message in sent] == ["websocket.close"]


async def test_a_get_changes_nothing_and_needs_no_content_type(ask):
    call = await ask([HOST, AUTH], "/v1/models", "GET", b"")

    assert json.loads(call.messages[1]["body"])["object"] == "list"


def test_a_token_that_is_no_secret_is_refused():
    for token in ("", "short"):
        with pytest.raises(ValueError, match="at least 16"):
            FixedTokens.of({token: "admin"})
