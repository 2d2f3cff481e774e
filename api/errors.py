"""The one place that knows HTTP status codes.

Every answer that is not a success has the body
`{"error": {"code", "message", "type", "param", "request_id"}}`. `STATUSES` lists every code the API can
send; `CODES` translates the exceptions of the lower floors, most specific class first (MRO).
The API's own refusals are `ApiError`s raised with a code.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Mapping
from typing import TYPE_CHECKING, NotRequired

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from typing_extensions import TypedDict

from adapters import errors as adapters
from api.json_text import json_bytes
from audio import errors as audio
from indexer import errors as indexer
from pushkin_runtime import errors as runtime
from usage import errors as usage

if TYPE_CHECKING:
    from collections.abc import Iterable

log = logging.getLogger("pushkin.api")

STATUSES: dict[str, int] = {
    "invalid_json": 400,
    "invalid_unicode": 400,
    "unknown_field": 400,
    "missing_field": 400,
    "invalid_type": 400,
    "invalid_value": 400,
    "text_empty": 400,
    "invalid_request": 400,
    "context_length_exceeded": 400,
    "choice_unknown": 400,
    "adapter_error": 400,
    "audio_error": 400,
    "audio_format_unsupported": 400,
    "body_timeout": 400,  # not 408: the official OpenAI client would send the same body again
    "unauthorized": 401,
    "origin_refused": 403,
    "cross_site_refused": 403,
    "preflight_refused": 403,
    "scope_insufficient": 403,
    "pairing_refused": 403,
    "consent_required": 403,
    "text_consent_early": 403,
    "unknown_path": 404,
    "adapter_not_found": 404,
    "model_not_found": 404,
    "request_not_found": 404,
    "document_not_found": 404,
    "audio_device_not_found": 404,
    "method_not_allowed": 405,
    "body_too_large": 413,
    "document_too_large": 413,
    "audio_too_long": 413,
    "unsupported_media_type": 415,
    "host_refused": 421,
    "adapter_exists": 422,
    "adapter_corrupt": 422,
    "adapter_incompatible": 422,
    "adapter_unsupported": 422,
    "adapter_ineffective": 422,
    "document_error": 422,
    "document_encrypted": 422,
    "document_scanned": 422,
    "document_parse_failed": 422,
    "document_unsupported": 422,
    "document_empty": 422,
    "persona_unavailable": 422,
    "audio_unreadable": 422,
    "audio_digital_silence": 422,
    "audio_stopped": 422,
    "command_not_offered": 422,
    "adapter_in_use": 423,  # not 409: the official OpenAI client would repeat it at once
    "client_closed": 499,  # for the log: nobody is left to read it
    "internal_error": 500,
    "runtime_error": 500,
    "model_error": 500,
    "model_corrupt": 500,
    "model_unsupported": 500,
    "model_does_not_fit": 500,
    "engine_unavailable": 500,
    "engine_failed": 500,
    "indexer_error": 500,
    "index_fault": 500,
    "index_damaged": 500,
    "embedding_failed": 500,
    "audio_capture_failed": 500,
    "usage_error": 500,
    "usage_fault": 500,
    "capability_missing": 501,
    "speech_unavailable": 501,
    "not_ready": 503,
    "queue_full": 503,
    "draining": 503,
    "index_queue_full": 503,
    "embedding_queue_full": 503,
    "index_locked": 503,
    "index_closed": 503,
    "dictation_busy": 503,
    "dictation_closed": 503,
    "dictation_stalled": 503,
    "usage_closed": 503,
}

CODES: dict[type[Exception], str] = {
    runtime.RuntimeFault: "runtime_error",
    runtime.ModelError: "model_error",
    runtime.ModelNotFound: "model_not_found",
    runtime.ModelCorrupt: "model_corrupt",
    runtime.ModelUnsupported: "model_unsupported",
    runtime.ModelDoesNotFit: "model_does_not_fit",
    runtime.EngineUnavailable: "engine_unavailable",
    runtime.EngineFailed: "engine_failed",
    runtime.InvalidRequest: "invalid_request",
    runtime.ContextExceeded: "context_length_exceeded",
    runtime.CapabilityMissing: "capability_missing",
    runtime.NotReady: "not_ready",
    runtime.QueueFull: "queue_full",
    runtime.Draining: "draining",
    adapters.AdapterError: "adapter_error",
    adapters.AdapterNotFound: "adapter_not_found",
    adapters.AdapterExists: "adapter_exists",
    adapters.AdapterCorrupt: "adapter_corrupt",
    adapters.AdapterIncompatible: "adapter_incompatible",
    adapters.AdapterUnsupported: "adapter_unsupported",
    adapters.AdapterIneffective: "adapter_ineffective",
    adapters.AdapterInUse: "adapter_in_use",
    indexer.IndexerError: "indexer_error",
    indexer.DocumentError: "document_error",
    indexer.DocumentEncrypted: "document_encrypted",
    indexer.DocumentScanned: "document_scanned",
    indexer.DocumentParseFailed: "document_parse_failed",
    indexer.DocumentTooLarge: "document_too_large",
    indexer.DocumentUnsupported: "document_unsupported",
    indexer.DocumentEmpty: "document_empty",
    indexer.DocumentNotFound: "document_not_found",
    indexer.ConsentRequired: "consent_required",
    indexer.PersonaUnavailable: "persona_unavailable",
    indexer.IndexFault: "index_fault",
    indexer.IndexDamaged: "index_damaged",
    indexer.IndexLocked: "index_locked",
    indexer.EmbeddingFailed: "embedding_failed",
    indexer.IndexQueueFull: "index_queue_full",
    indexer.EmbeddingQueueFull: "embedding_queue_full",
    indexer.IndexClosed: "index_closed",
    audio.AudioError: "audio_error",
    audio.FormatUnsupported: "audio_format_unsupported",
    audio.DeviceNotFound: "audio_device_not_found",
    audio.CaptureFailed: "audio_capture_failed",
    audio.DigitalSilence: "audio_digital_silence",
    audio.AudioUnreadable: "audio_unreadable",
    audio.AudioTooLong: "audio_too_long",
    audio.AudioStopped: "audio_stopped",
    audio.SpeechUnavailable: "speech_unavailable",
    audio.DictationBusy: "dictation_busy",
    audio.DictationClosed: "dictation_closed",
    usage.UsageError: "usage_error",
    usage.TextConsentEarly: "text_consent_early",
    usage.ChoiceUnknown: "choice_unknown",
    usage.UsageClosed: "usage_closed",
    usage.UsageFault: "usage_fault",
    ClientDisconnect: "client_closed",
}

LLAMA_PATHS = frozenset(
    (
        *("/completion", "/completions", "/infill"),
        *("/tokenize", "/detokenize", "/apply-template"),
        *("/embedding", "/embeddings"),
        *("/lora-adapters", "/props", "/slots"),
    )
)

# launchd starts the next daemon within about this long.
DRAINING_RETRY_AFTER_S = 2

# The official OpenAI client repeats every 5xx unless it is told not to.
NO_RETRY = {"x-should-retry": "false"}


class ErrorDetail(TypedDict):
    """What went wrong; `message` never contains the user's text."""

    code: str
    message: str
    type: str
    param: str | None
    request_id: str


class ErrorBody(TypedDict):
    """The body of every answer that is not a success, and of the SSE event `error`."""

    error: ErrorDetail


class LlamaErrorDetail(TypedDict):
    """As llama-server writes it, `code` being the status; `reason` is our code, see `ErrorDetail`."""

    code: int
    message: str
    type: str
    n_prompt_tokens: NotRequired[int]
    n_ctx: NotRequired[int]
    reason: str
    param: str | None
    request_id: str


class LlamaErrorBody(TypedDict):
    """The same on the paths of llama-server's dialect."""

    error: LlamaErrorDetail


AnyErrorBody = ErrorBody | LlamaErrorBody


class ApiError(HTTPException):
    """A refusal with a code of `STATUSES`; an HTTPException so that FastAPI lets it through unchanged."""

    def __init__(
        self,
        code: str,
        message: str,
        *,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
        exceeded: runtime.ContextExceeded | None = None,
    ) -> None:
        """exceeded: the numbers behind `context_length_exceeded`."""
        super().__init__(STATUSES[code], detail=message, headers=headers)
        self.code = code
        self.param = param
        self._exceeded = exceeded

    def body(self, request_id: str) -> ErrorBody:
        """The error as the client reads it, in an answer or in an SSE event."""
        return {
            "error": {
                "code": self.code,
                "message": self.detail,
                "type": _type_of(self.status_code),
                "param": self.param,
                "request_id": request_id,
            }
        }

    def llama_body(self, request_id: str) -> LlamaErrorBody:
        """The same for clients of llama-server."""
        detail: LlamaErrorDetail = {
            "code": self.status_code,
            "message": self.detail,
            "type": _llama_type_of(self.status_code),
            "reason": self.code,
            "param": self.param,
            "request_id": request_id,
        }
        if self._exceeded is not None:
            detail["type"] = "exceed_context_size_error"
            detail["n_prompt_tokens"] = self._exceeded.n_prompt_tokens
            detail["n_ctx"] = self._exceeded.n_context
        return {"error": detail}

    def response(self, request_id: str, path: str) -> Response:
        """The whole answer, as the clients of `path` read it."""
        body: AnyErrorBody = (
            self.llama_body(request_id) if speaks_llama(path) else self.body(request_id)
        )
        return Response(
            json_bytes(body),
            status_code=self.status_code,
            headers=self.headers,
            media_type="application/json",
        )


def speaks_llama(path: str) -> bool:
    """Whether a path belongs to llama-server's dialect, whose errors have a shape of their own."""
    return path in LLAMA_PATHS or path.startswith("/slots/")


def as_api_error(error: Exception) -> ApiError:
    """Translate anything that reached the edge; what nobody foresaw becomes `internal_error`."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, HTTPException):
        return _from_framework(error)
    code = next((CODES[base] for base in type(error).__mro__ if base in CODES), None)
    if code is None:
        return _internal_error()
    message = str(error) or code.replace("_", " ")
    return ApiError(
        code,
        message,
        param=getattr(error, "param", None),
        headers=_retry_headers(error, code),
        exceeded=error if isinstance(error, runtime.ContextExceeded) else None,
    )


async def answer_error(request: Request, error: Exception) -> Response:
    """The exception handler for every class the application knows."""
    log_failure(error, request.state.request_id)
    return as_api_error(error).response(request.state.request_id, request.url.path)


def log_failure(error: Exception, request_id: str) -> None:
    """Log the class and place of what should not happen; what the client is told about passes.

    The message is left out: it may quote what the user wrote.
    """
    code = as_api_error(error).code
    if STATUSES[code] != 500:
        return
    log.error(
        "request failed",
        extra={
            "request_id": request_id,
            "code": code,
            "error_type": type(error).__qualname__,
            "where": list(_frames(error)),
        },
    )


def _frames(error: Exception) -> Iterable[str]:
    for frame in traceback.extract_tb(error.__traceback__)[-6:]:
        yield f"{frame.name}:{frame.lineno}"


def _type_of(status: int) -> str:
    if status >= 500:
        return "server_error"
    return {401: "authentication_error", 403: "permission_error"}.get(
        status, "invalid_request_error"
    )


def _llama_type_of(status: int) -> str:
    types = {404: "not_found_error", 501: "not_supported_error", 503: "unavailable_error"}
    return types.get(status) or _type_of(status)


def _from_framework(error: HTTPException) -> ApiError:
    """Starlette raises plain HTTPExceptions for routing; their texts never quote the request."""
    if error.status_code == 404:
        return ApiError("unknown_path", "there is nothing at this path; see openapi.json")
    if error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "")
        return ApiError(
            "method_not_allowed",
            f"this path takes {allowed or 'another method'}",
            headers=error.headers,
        )
    if error.status_code < 500:
        return ApiError("invalid_request", "the request could not be read")
    return _internal_error()


def _internal_error() -> ApiError:
    message = "the daemon failed in an unexpected way; its log has the place under this request_id"
    return ApiError("internal_error", message, headers=NO_RETRY)


def _retry_headers(error: Exception, code: str) -> dict[str, str]:
    """Say when to try again, or that it will not help."""
    if STATUSES[code] < 500:
        return {}
    default = DRAINING_RETRY_AFTER_S if code == "draining" else None
    retry_after_s = getattr(error, "retry_after_s", default)
    if retry_after_s is not None:
        return {"Retry-After": str(retry_after_s)}
    return NO_RETRY
