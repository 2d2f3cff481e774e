"""What routes say of their answers in `openapi.json`.

References by name, where FastAPI would take the types: it makes a validator of each for each route, hundreds that
validate nothing and were a third of the daemon's start. `openapi.py` writes the schemas; a test follows every reference.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from api.errors import STATUSES, ErrorBody, LlamaErrorBody

Responses = dict[int | str, dict[str, Any]]
Schema = dict[str, Any]

JSON = "application/json"
EVENTS = "text/event-stream"


@dataclass(frozen=True, slots=True)
class Events:
    """What an event of a stream looks like, under a name of its own among the schemas."""

    name: str
    schema: Schema

    def content(self) -> dict[str, Any]:
        """The entry of the stream among the media types of an answer."""
        return {EVENTS: {"itemSchema": {"$ref": f"#/components/schemas/{self.name}"}}}


def schema_of(model: type) -> Schema:
    """The reference to a model's schema."""
    return {"$ref": f"#/components/schemas/{model.__name__}"}


def answers(schema: type | Schema, *, stream: Events | None = None) -> dict[str, Any]:
    """The entry of a status with a JSON body, or with a stream of events."""
    whole = {"schema": schema_of(schema) if isinstance(schema, type) else schema}
    return {"content": {JSON: whole} | (stream.content() if stream else {})}


def named_events(name: str, events: Mapping[str, type | Schema]) -> Events:
    """A stream in which each kind of event has a name."""
    kinds = [
        {
            "type": "object",
            "properties": {"event": {"const": kind}, "data": json_text(schema)},
            "required": ["event", "data"],
        }
        for kind, schema in events.items()
    ]
    return Events(name, {"oneOf": kinds})


def unnamed_events(name: str, *data: Schema) -> Events:
    """A stream of `data:` lines alone, each like one of these (`json_text`)."""
    schema = data[0] if len(data) == 1 else {"anyOf": list(data)}
    return Events(name, {"type": "object", "properties": {"data": schema}, "required": ["data"]})


def json_text(*schemas: type | Schema) -> Schema:
    """A string that holds JSON like one of these."""
    contents = [schema_of(schema) if isinstance(schema, type) else schema for schema in schemas]
    content = contents[0] if len(contents) == 1 else {"anyOf": contents}
    return {"type": "string", "contentMediaType": JSON, "contentSchema": content}


def error_responses(*statuses: int) -> Responses:
    """The entries of these statuses, and of any other, with the common body."""
    return _errors(ErrorBody, statuses)


def llama_error_responses(*statuses: int) -> Responses:
    """The same with the body that llama-server's clients read."""
    return _errors(LlamaErrorBody, statuses)


def _errors(body: type, statuses: tuple[int, ...]) -> Responses:
    described: dict[int | str, str] = {status: _codes_of(status) for status in statuses}
    described["default"] = "Any other error"
    return {
        status: {"description": description, **answers(body)}
        for status, description in described.items()
    }


def _codes_of(status: int) -> str:
    codes = (f"`{code}`" for code, its_status in STATUSES.items() if its_status == status)
    return "One of " + ", ".join(codes)
