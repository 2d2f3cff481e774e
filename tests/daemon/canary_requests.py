"""Requests with a canary in every field that takes text, made from the contract itself.

A new route of the application is covered by being there: its body is filled from its schema.
"""

from __future__ import annotations

import io
import itertools
import json
import re
import wave
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, cast

from fastapi import FastAPI
from fastapi.routing import iter_route_contexts

from api.app import create_app
from api.openapi import openapi_document
from api.services import Services
from api.tokens import FixedTokens

MARK = "zq7canary"  # part of every canary; nothing else has it
JSON = "application/json"
# Fields that decide how much work a request is, or that would make it something else.
_GIVEN: dict[str, object] = {
    "max_tokens": 4, "n_predict": 4, "stream": False, "deadline_ms": 5000, "n": 1, "best_of": 1,
    "consent": True, "format": "plain", "encoding_format": "float", "t_max_predict_ms": 5000,
    "quality": "fast", "action": "off", "global": "on", "counts": True,
}  # fmt: skip
_numbers = itertools.count()


@dataclass(frozen=True)
class Sent:
    """One request. route: "POST /v1/continue", the path as a template."""

    route: str
    path: str
    content: bytes | None = None
    content_type: str | None = None
    files: dict[str, Any] | None = None
    data: dict[str, str] | None = None
    headers: dict[str, str] = field(default_factory=dict)


def canary(*, schema: dict[str, Any] | None = None) -> str:
    """A canary of its own, as long as a paragraph where that is taken, plain where a pattern asks for it."""
    schema = schema or {}
    short = f"{MARK}{next(_numbers):05d}"
    if "pattern" in schema or schema.get("maxLength", 1000) < 400:
        return short
    return f"{short} opened the door to a stranger, and {short} вышел на крыльцо. " * 4


def application() -> FastAPI:
    """The application as it is served, of which only the routes are used."""
    nobody = cast("Any", object())
    tokens = FixedTokens.of({"x" * 43: "admin"})
    return create_app(
        Services(
            runtime=nobody,
            tokens=tokens,
            allowed_hosts=frozenset({"127.0.0.1:1"}),
            version="0",
            started_at=0,
        )
    )


def routes(app: FastAPI) -> list[str]:
    """ "METHOD template" of every route."""
    return sorted(
        f"{method} {route.path}"
        for route in iter_route_contexts(app.routes)
        for method in getattr(route, "methods", None) or {"WEBSOCKET"}
    )


def requests_of(app: FastAPI) -> Iterator[Sent]:
    """Every route several times: well formed, complete, and wrong in every way that quotes could come from."""
    document = openapi_document(app)
    schemas = document["components"]["schemas"]
    for route in routes(app):
        method, _, template = route.partition(" ")
        if method == "WEBSOCKET":
            continue
        operation = document["paths"].get(template, {}).get(method.lower(), {})
        content = operation.get("requestBody", {}).get("content", {})
        path = _path(template, operation)
        headers = {"X-Request-Id": canary(schema={"maxLength": 64}), "User-Agent": canary()[:40]}
        yield Sent(route, path + _query(operation), headers=headers)
        if method in ("POST", "PUT"):
            yield from _bodies(route, path, content, schemas)


def _bodies(
    route: str, path: str, content: dict[str, Any], schemas: dict[str, Any]
) -> Iterator[Sent]:
    schema = content.get(JSON, {}).get("schema", {"type": "object"})
    for stream in (False, True):
        needed = _filled(schema, schemas, only_required=True)
        if isinstance(needed, dict) and stream:
            needed["stream"] = True
        yield Sent(
            route,
            path,
            _encode(needed),
            JSON,
            headers={"X-Request-Id": canary(schema={"pattern": ""})},
        )
    whole = _filled(schema, schemas, only_required=False)
    if needed in ({}, {"stream": True}) and isinstance(whole, dict):
        # Nothing is required: it may take one field or another, and not both.
        for name, value in whole.items():
            yield Sent(route, path, _encode({name: value}), JSON)
    yield Sent(route, path, _encode(whole), JSON)
    if isinstance(whole, dict):
        yield Sent(route, path, _encode({**whole, canary(schema={"pattern": ""}): canary()}), JSON)
        yield Sent(
            route, path, _encode({name: [canary(), {"x": canary()}] for name in whole}), JSON
        )
    yield Sent(route, path, b'{"text": "' + canary().encode() + b'" oops', JSON)
    yield Sent(route, path, canary().encode("utf-16"), JSON)
    yield Sent(route, path, canary().encode(), "text/plain")
    if "multipart/form-data" in content:
        yield from _forms(route, path, content["multipart/form-data"]["schema"], schemas)


def _forms(
    route: str, path: str, schema: dict[str, Any], schemas: dict[str, Any]
) -> Iterator[Sent]:
    """A text and a recording, each with the fields that are needed and with all of them, names canaries."""
    for suffix, file_content in ((".txt", canary().encode()), (".wav", _second_of_silence())):
        file = (canary(schema={"pattern": ""}) + suffix, file_content, "application/octet-stream")
        for only_required in (True, False):
            fields = _filled(schema, schemas, only_required=only_required)
            data = {name: value for name, value in fields.items() if isinstance(value, str)}
            data.pop("file", None)
            yield Sent(route, path, files={"file": file}, data=data)
        yield Sent(route, path, files={canary()[:20]: file}, data={canary()[:20]: canary()})


def _second_of_silence() -> bytes:
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as recording:
        recording.setnchannels(1)
        recording.setsampwidth(2)
        recording.setframerate(16_000)
        recording.writeframes(bytes(32_000))
    return buffer.getvalue()


def _filled(schema: dict[str, Any], schemas: dict[str, Any], *, only_required: bool) -> Any:
    """A value of a schema, canaries where it takes any text."""
    if "$ref" in schema:
        schema = schemas[schema["$ref"].rpartition("/")[2]]
    for choice in ("anyOf", "oneOf", "allOf"):
        if choice in schema:
            return _filled(schema[choice][0], schemas, only_required=only_required)
    if "const" in schema or "enum" in schema:
        return schema.get("const", schema.get("enum", [None])[0])
    kind = schema.get("type")
    if kind == "object":
        return _object(schema, schemas, only_required=only_required)
    if kind == "array":
        items = schema.get("items", {"type": "string"})
        return [_filled(items, schemas, only_required=only_required)]
    if kind in ("integer", "number"):
        return max(schema.get("minimum", 0), schema.get("exclusiveMinimum", -1) + 1, 0)
    return {"boolean": False, "null": None}.get(str(kind), canary(schema=schema))


def _object(
    schema: dict[str, Any], schemas: dict[str, Any], *, only_required: bool
) -> dict[str, Any]:
    properties = schema.get("properties", {})
    wanted = schema.get("required", []) if only_required else properties
    made = {
        name: _filled(properties[name], schemas, only_required=only_required) for name in wanted
    }
    return made | {name: value for name, value in _GIVEN.items() if name in properties}


def _path(template: str, operation: dict[str, Any]) -> str:
    by_name = {p["name"]: p["schema"] for p in operation.get("parameters", []) if p["in"] == "path"}

    def value(match: re.Match[str]) -> str:
        schema = by_name.get(match[1], {"pattern": ""})
        return "0" if schema.get("type") == "integer" else canary(schema={"pattern": ""})

    return re.sub(r"\{(\w+)[^}]*\}", value, template)


def _query(operation: dict[str, Any]) -> str:
    """A canary in each string of the query, and in one that nobody knows."""
    names = [
        p["name"]
        for p in operation.get("parameters", [])
        if p["in"] == "query" and p["schema"].get("type") == "string"
    ]
    pairs = [f"{name}={canary(schema={'pattern': ''})}" for name in (*names, MARK)]
    return "?" + "&".join(pairs)


def _encode(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()
