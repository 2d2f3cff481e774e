"""Who may talk to the daemon, decided from the headers before a byte of the body is read.

A web page the user opens can reach any loopback port. What keeps it out: the exact `Host` (DNS
rebinding), no `Origin` and no cross-site fetch (browsers say who they are), no CORS header ever,
JSON content types only (a form or a text/plain Blob needs no preflight), and a token whose scope
covers the route.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from email.message import Message as MimeHeader

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.brake import Brake
from api.errors import ApiError
from api.scopes import ROUTES, WEBSOCKET, RouteScope, RouteTable, TokenScope, broadest, covers
from api.services import ApiLimits, Services
from api.tokens import Headers, credential_of, find_token

_METHODS_WITH_BODY = frozenset({"POST", "PUT", "PATCH"})
_HARMLESS_FETCH_SITES = frozenset({b"none", b"same-origin"})


class SecurityMiddleware:
    """Refuses with an answer in the API's own shape; passes on what it lets through, body counted."""

    def __init__(self, app: ASGIApp, services: Services) -> None:
        self._app = app
        self._services = services
        self._table = RouteTable(ROUTES)
        self._brake = Brake(services.limits.wrong_token_pause_s)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self._app(scope, receive, send)
        try:
            check_request(scope, self._services, self._table)
        except ApiError as refusal:
            if refusal.code == "unauthorized":
                await self._brake.hold()
            return await _refuse(refusal, scope, receive, send)
        if scope["type"] == "http":
            limits = self._services.limits
            receive = limited_receive(receive, limits, body_rules(scope, limits))
        return await self._app(scope, receive, send)


@dataclass(frozen=True, slots=True)
class BodyRules:
    """What a body may be. form: multipart/form-data is taken as well as JSON."""

    max_bytes: int
    form: bool = False


def body_rules(scope: Scope, limits: ApiLimits) -> BodyRules:
    """Documents may be large, and files; everything else is JSON.

    A form from a web page is no danger here: it has an Origin, which is refused, and not the token.
    """
    if scope.get("method") == "PUT" and scope["path"].startswith("/v1/documents/"):
        return BodyRules(limits.max_document_bytes, form=True)
    if scope["path"] == "/v1/audio/transcriptions":
        return BodyRules(limits.max_audio_bytes, form=True)
    return BodyRules(limits.max_body_bytes)


def check_request(scope: Scope, services: Services, table: RouteTable) -> None:
    """Raise ApiError unless this request may go on; cheapest and most telling check first."""
    headers: Headers = scope["headers"]
    method = scope.get("method", WEBSOCKET)
    _check_host(headers, _hosts_of(scope, services))
    _check_browser(headers, method)
    needed = table.needed(method, scope["path"])
    if needed != "open":
        held = _scope_of(headers, services)
        if needed is None:
            _refuse_unknown(held, scope["path"], table)
        else:
            _check_scope(held, needed)
    if scope["type"] == "http":
        _check_body_headers(headers, method, body_rules(scope, services.limits))


def limited_receive(receive: Receive, limits: ApiLimits, rules: BodyRules) -> Receive:
    """Wrap `receive` so that a body too long, or too slow to arrive, raises ApiError."""
    deadline = asyncio.get_running_loop().time() + limits.body_timeout_s
    n_bytes = 0
    is_complete = False

    async def receive_within_limits() -> Message:
        nonlocal n_bytes, is_complete
        if is_complete:
            return await receive()
        try:
            async with asyncio.timeout_at(deadline):
                message = await receive()
        except TimeoutError:
            raise ApiError(
                "body_timeout",
                f"the body did not arrive within {limits.body_timeout_s:g} s",
                headers={"Connection": "close"},
            ) from None
        if message["type"] == "http.request":
            n_bytes += len(message.get("body", b""))
            is_complete = not message.get("more_body", False)
            if n_bytes > rules.max_bytes:
                raise _too_large(rules)
        return message

    return receive_within_limits


def _hosts_of(scope: Scope, services: Services) -> frozenset[str]:
    """What Host may say; a Unix socket has no port, and its clients write `localhost`."""
    is_unix = scope.get("server") is not None and scope["server"][1] is None
    return services.allowed_hosts | {"localhost"} if is_unix else services.allowed_hosts


def _check_host(headers: Headers, allowed_hosts: frozenset[str]) -> None:
    hosts = _values(headers, b"host")
    if len(hosts) != 1 or hosts[0].decode("latin-1").lower() not in allowed_hosts:
        raise ApiError(
            "host_refused",
            f"the Host header must be one of {', '.join(sorted(allowed_hosts))}",
        )


def _check_browser(headers: Headers, method: str) -> None:
    if _values(headers, b"origin"):
        raise ApiError("origin_refused", "requests from web pages (with an Origin) are refused")
    if not _HARMLESS_FETCH_SITES.issuperset(_values(headers, b"sec-fetch-site")):
        raise ApiError("cross_site_refused", "requests from other sites are refused")
    if method == "OPTIONS":
        raise ApiError("preflight_refused", "this API has no cross-origin access, so no preflight")


def _scope_of(headers: Headers, services: Services) -> TokenScope:
    """What the sender of a request may do. Raises ApiError for an unknown one."""
    known = find_token(credential_of(headers) or b"", services.tokens.current())
    # Clients that want no key send one all the same, "none" or "sk-…": it is as good as no key.
    scopes = (known.scope if known else None, services.without_token)
    held = broadest(scope for scope in scopes if scope is not None)
    if held is not None:
        return held
    raise ApiError(
        "unauthorized",
        "send `Authorization: Bearer <token>`, and no second credential; `pushkin token` prints it",
        headers={"WWW-Authenticate": "Bearer"},
    )


def _refuse_unknown(held: TokenScope, path: str, table: RouteTable) -> None:
    """Raise ApiError for a request that the table does not name; a route that it has forgotten is the admin's."""
    methods = table.methods(path)
    if methods:
        allow = ", ".join(methods)
        raise ApiError("method_not_allowed", f"this path takes {allow}", headers={"Allow": allow})
    if held != "admin":
        raise ApiError("unknown_path", "there is nothing at this path; see openapi.json")


def _check_scope(held: TokenScope, needed: RouteScope) -> None:
    """Raise ApiError unless a token of scope `held` may use a route that needs `needed`."""
    if not covers(held, needed):
        raise ApiError(
            "scope_insufficient",
            f"this route needs a token of scope `{needed}`, got one of scope `{held}`; "
            f"`pushkin token --scope {needed}` prints one",
        )


async def _refuse(refusal: ApiError, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer; a WebSocket handshake gets the same answer where the server can send it, else 403."""
    if scope["type"] == "websocket" and "websocket.http.response" not in scope.get(
        "extensions", {}
    ):
        return await send({"type": "websocket.close", "code": 1008})
    answer = refusal.response(scope["state"]["request_id"], scope["path"])
    return await answer(scope, receive, send)


def _check_body_headers(headers: Headers, method: str, rules: BodyRules) -> None:
    lengths = _values(headers, b"content-length")
    is_chunked = bool(_values(headers, b"transfer-encoding"))
    has_body = is_chunked or any(length != b"0" for length in lengths)
    if not has_body and not _values(headers, b"content-type"):
        return  # nothing that a page could have smuggled in; a route that needs a body says so
    if has_body or method in _METHODS_WITH_BODY:
        _check_content_type(headers, rules)
    if len(lengths) > 1 or not all(length.isdigit() for length in lengths):
        raise ApiError("invalid_request", "Content-Length must be one whole number")
    # The digits are counted first: int() of thousands of them would raise.
    if any(len(length) > 18 or int(length) > rules.max_bytes for length in lengths):
        raise _too_large(rules)


def _check_content_type(headers: Headers, rules: BodyRules) -> None:
    types = [value.decode("latin-1") for value in _values(headers, b"content-type")]
    encodings = {encoding.strip().lower() for encoding in _values(headers, b"content-encoding")}
    is_known = len(types) == 1 and (_is_json(types[0]) or (rules.form and _is_form(types[0])))
    if not is_known or encodings - {b"identity"}:
        also = ", or a file as `multipart/form-data`" if rules.form else ""
        raise ApiError(
            "unsupported_media_type",
            f"send the body as `Content-Type: application/json`, in UTF-8 and not compressed{also}",
        )


def _is_json(content_type: str) -> bool:
    header = MimeHeader()
    header["content-type"] = content_type
    subtype = header.get_content_subtype()
    charset = header.get_content_charset("utf-8")
    return (
        header.get_content_maintype() == "application"
        and (subtype == "json" or subtype.endswith("+json"))
        and charset in {"utf-8", "utf8"}
    )


def _is_form(content_type: str) -> bool:
    header = MimeHeader()
    header["content-type"] = content_type
    return header.get_content_type() == "multipart/form-data" and bool(header.get_boundary())


def _too_large(rules: BodyRules) -> ApiError:
    remedy = (
        "larger documents are not indexed"
        if rules.form
        else "send the part of the text around the caret"
    )
    return ApiError("body_too_large", f"the body is larger than {rules.max_bytes} bytes: {remedy}")


def _values(headers: Headers, wanted: bytes) -> list[bytes]:
    return [value for name, value in headers if name == wanted]
