"""`openapi.json`, the contract with the editor: generated from the routes, compared in a test."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import TypeAdapter

from api.answers import DeltaEvent, ProgressEvent, StartEvent
from api.dictation_events import DictationEventAnswer
from api.dictation_schemas import ControlMessage, StartMessage
from api.document_answers import IndexEventAnswer
from api.document_schemas import DocumentBody
from api.errors import STATUSES, ErrorBody, LlamaErrorBody
from api.schemas import ContinueBody, RephraseBody, StoryBody
from api.scopes import ROUTES, RouteScope

CONTRACT_VERSION = "1.0.0"

DESCRIPTION = """\
The daemon of the Killah editor, on the loopback interface of one machine.

Text goes in and out verbatim; offsets are UTF-16 code units and are called `*_utf16`.
Every error has the body `ErrorBody`. Every answer carries `X-Request-Id`; a client may choose the id
by sending that header (1 to 64 of `A-Za-z0-9._-`, not in use), and cancel with
`DELETE /v1/requests/{id}` or by closing the connection.
"""

STREAM_CONTENT: dict[str, Any] = {
    "text/event-stream": {
        "schema": {"type": "string"},
        "x-events": {
            "start": {"$ref": "#/components/schemas/StartEvent"},
            "progress": {"$ref": "#/components/schemas/ProgressEvent"},
            "delta": {"$ref": "#/components/schemas/DeltaEvent"},
            "done": {"$ref": "#/components/schemas/GenerationAnswer"},
            "error": {"$ref": "#/components/schemas/ErrorBody"},
        },
    }
}

# FastAPI writes integer bounds as floats (2**63 - 1 is not one), and knows nothing of events.
_BODIES = (ContinueBody, RephraseBody, StoryBody, DocumentBody)
# The messages of `WS /v1/dictation`, which OpenAPI has no place for, stand among the schemas.
_EVENTS = (
    StartEvent,
    ProgressEvent,
    DeltaEvent,
    IndexEventAnswer,
    StartMessage,
    ControlMessage,
    DictationEventAnswer,
)


def error_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The `responses` entries of these statuses, and of any other, with the common body."""
    answers: dict[int | str, dict[str, Any]] = {
        status: {"model": ErrorBody, "description": _codes_of(status)} for status in statuses
    }
    return answers | {"default": {"model": ErrorBody, "description": "Any other error"}}


def llama_error_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The same with the body that llama-server's clients read."""
    return {
        status: {**answer, "model": LlamaErrorBody}
        for status, answer in error_responses(*statuses).items()
    }


def openapi_document(app: FastAPI) -> dict[str, Any]:
    """The document of an app; the same for every run of the same code."""
    document = get_openapi(
        title="lil Pushkin", version=CONTRACT_VERSION, description=DESCRIPTION, routes=app.routes
    )
    components = document["components"]
    schemas = components["schemas"]
    for model in (*_BODIES, *_EVENTS):
        schema = TypeAdapter[Any](model).json_schema(ref_template="#/components/schemas/{model}")
        schemas |= schema.pop("$defs", {})
        schemas[model.__name__] = schema
    components["schemas"] = dict(sorted(schemas.items()))
    components["securitySchemes"] = {
        "token": {"type": "http", "scheme": "bearer"},
        "api_key": {"type": "apiKey", "in": "header", "name": "X-Api-Key"},
    }
    document["security"] = [{"token": []}, {"api_key": []}]
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            operation |= _access(ROUTES.get(f"{method.upper()} {path}", "admin"))
    return document


def _access(scope: RouteScope) -> dict[str, Any]:
    """What an operation says about the token it needs; OpenAPI has scopes for OAuth only."""
    return {"security": []} if scope == "open" else {"x-token-scope": scope}


def _codes_of(status: int) -> str:
    codes = (f"`{code}`" for code, its_status in STATUSES.items() if its_status == status)
    return "One of " + ", ".join(codes)
