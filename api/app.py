"""The application, assembled in one place."""

from __future__ import annotations

from types import ModuleType

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware

from api.admission import AdmissionMiddleware
from api.editor_dialect import routes as editor
from api.errors import CODES, answer_error
from api.llama_dialect import completion, embedding, lora_adapters, server, tokens
from api.openai_dialect import completions, embeddings, models
from api.request_scope import RequestScopeMiddleware
from api.routes import (
    adapters,
    dictation,
    documents,
    events,
    health,
    metrics,
    pairing,
    persona,
    privacy,
    requests,
    transcriptions,
    usage,
    warm,
    writing,
)
from api.security import SecurityMiddleware
from api.services import Services
from api.validation import answer_invalid_request
from api.waking import WakingMiddleware


def create_app(services: Services) -> FastAPI:
    """Build the ASGI application around a runtime; it starts nothing and holds no other state."""
    return _application(
        services,
        *(writing, warm, requests, adapters, documents, privacy, persona),
        *(models, completions, embeddings, dictation, transcriptions),
        *(completion, tokens, lora_adapters, server, embedding),
        *(events, health, pairing, metrics, usage),
    )


def create_editor_app(services: Services) -> FastAPI:
    """Build the application of the shipped editor's port: what that editor asks for and nothing else.

    The editor knows no token, so `services.without_token` is "editor"; every other guard is on.
    """
    return _application(services, editor, embedding)


def _application(services: Services, *modules: ModuleType) -> FastAPI:
    app = FastAPI(
        openapi_url=None,  # and with it /docs and /redoc
        redirect_slashes=False,
        # FastAPI's own telemetry records exception messages, and the environment can switch it on.
        telemetry={
            "tracing": False,
            "metrics": False,
            "logs": False,
            "operation_spans": False,
            "auto_configure": False,
        },
        middleware=[
            Middleware(RequestScopeMiddleware, services=services),
            Middleware(SecurityMiddleware, services=services),
            Middleware(AdmissionMiddleware, limits=services.limits),
            Middleware(WakingMiddleware, runtime=services.runtime),
        ],
        exception_handlers={
            **dict.fromkeys(CODES, answer_error),
            HTTPException: answer_error,
            RequestValidationError: answer_invalid_request,
        },
    )
    app.state.services = services
    for module in modules:
        app.include_router(module.router)
    return app
