"""`openapi.json`, the contract with the editor: generated from the routes, compared in a test."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import TypeAdapter

from api.answers import DeltaEvent, GenerationAnswer, ProgressEvent, StartEvent
from api.dictation_events import DictationEventAnswer
from api.dictation_schemas import ControlMessage, StartMessage
from api.document_answers import IndexEventAnswer
from api.document_schemas import DocumentBody
from api.errors import ErrorBody, LlamaErrorBody
from api.llama_dialect import completion
from api.llama_dialect.answers import LlamaCompletion, LlamaCompletionFrame
from api.openai_dialect import completions
from api.openai_dialect.completion_answers import CompletionAnswer
from api.openai_dialect.embeddings import EmbeddingList
from api.routes import events, transcriptions, writing
from api.routes.events import DroppedEvent, PairingEvent
from api.routes.health import HealthAnswer
from api.schemas import ContinueBody, RephraseBody, StoryBody
from api.scopes import ROUTES, RouteScope
from api.transcription_answers import TranscriptAnswer, TranscriptDelta, TranscriptDone

CONTRACT_VERSION = "1.0.0"
OPENAPI_VERSION = "3.2.0"  # the first that describes the events of a stream, `itemSchema`

DESCRIPTION = """\
The daemon of the Killah editor, on the loopback interface of one machine.

Text goes in and out verbatim; offsets are UTF-16 code units and are called `*_utf16`.
Every error has the body `ErrorBody`. Every answer carries `X-Request-Id`; a client may choose the id
by sending that header (1 to 64 of `A-Za-z0-9._-`, not in use), and cancel with
`DELETE /v1/requests/{id}` or by closing the connection.
"""

# FastAPI writes integer bounds as floats (2**63 - 1 is not one).
_BODIES = (ContinueBody, RephraseBody, StoryBody, DocumentBody)
# What `responses.py` refers to, and the messages of `WS /v1/dictation`, which OpenAPI has no place for.
_REFERRED = (
    *(ErrorBody, LlamaErrorBody, HealthAnswer),
    *(GenerationAnswer, CompletionAnswer, EmbeddingList, LlamaCompletion, LlamaCompletionFrame),
    StartEvent,
    ProgressEvent,
    DeltaEvent,
    IndexEventAnswer,
    *(PairingEvent, DroppedEvent),
    *(TranscriptAnswer, TranscriptDelta, TranscriptDone),
    StartMessage,
    ControlMessage,
    DictationEventAnswer,
)


_STREAMS = (
    *(writing.EVENTS, events.EVENTS, transcriptions.EVENTS),
    *(completion.EVENTS, completions.EVENTS),
)


def openapi_document(app: FastAPI) -> dict[str, Any]:
    """The document of an app; the same for every run of the same code."""
    document = get_openapi(
        title="lil Pushkin",
        version=CONTRACT_VERSION,
        openapi_version=OPENAPI_VERSION,
        description=DESCRIPTION,
        routes=app.routes,
    )
    components = document["components"]
    schemas = components["schemas"]
    for model in (*_BODIES, *_REFERRED):
        schema = TypeAdapter[Any](model).json_schema(ref_template="#/components/schemas/{model}")
        schemas |= schema.pop("$defs", {})
        schemas[model.__name__] = schema
    schemas |= {stream.name: stream.schema for stream in _STREAMS}
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
