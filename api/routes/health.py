"""`GET /health`, open to everyone on this machine, and `GET /v1/status`, with the token."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Annotated, Literal, NotRequired, cast

from fastapi import APIRouter, Query, Request, Response
from typing_extensions import TypedDict

from api.errors import ApiError
from api.identity import prove
from api.json_text import json_bytes
from api.metrics.index_meter import index_totals
from api.metrics.process import resident_bytes
from api.responses import Responses, answers, error_responses
from api.services import Services, ServicesDep
from audio.dictation import MAX_SESSIONS, MAX_TRANSCRIPTIONS, State
from pushkin_runtime.types import Health, ModelInfo, RuntimeState

router = APIRouter(tags=["life"])

Nonce = Annotated[str, Query(pattern=r"^[A-Za-z0-9_-]{16,128}$", description="Fresh and random.")]
KeyId = Annotated[
    str, Query(pattern=r"^[0-9a-f]{16}$", description="The name of the key of the client's token.")
]


class HealthError(TypedDict):
    """What clients of llama-server look for in a 503."""

    code: Literal[503]
    message: str
    type: Literal["unavailable_error"]


class HealthAnswer(TypedDict):
    """`status` is `ok` exactly when the answer is 200; `error` is there when it is not. `proof`: only where a
    nonce came, see `api/identity.py`; null when the daemon knows no token with that key."""

    status: Literal["ok", "loading", "draining", "failed"]
    state: RuntimeState
    reason: str
    error: NotRequired[HealthError]
    proof: NotRequired[str | None]


class EngineAnswer(TypedDict):
    """The engine in use and why it was chosen."""

    name: str
    reason: str


class ModelStatus(TypedDict):
    """The loaded model; `digest` is the SHA-256 of its manifest, `window` and lengths are in tokens."""

    id: str
    digest: str
    n_parameters: int
    n_bytes: int
    n_layers: int
    hidden_size: int
    vocab_size: int
    context_length: int
    window: int
    quantization: str


class QueueStatus(TypedDict):
    n_queued: int
    n_active: int
    limit: int


class KvCacheStatus(TypedDict):
    n_entries: int
    n_bytes: int
    budget_bytes: int


class AdaptersStatus(TypedDict):
    """Sets of adapters whose matrices are in memory; see GET /v1/adapters for which."""

    n_resident: int
    n_bytes: int
    budget_bytes: int


class CountsStatus(TypedDict):
    """Since the daemon started."""

    requests: int
    tokens: int


class RecentStatus(TypedDict):
    """Of the generations that ended within `window_s`; null where there were none.

    tokens_per_second: decode speed, median. cache_hit_share: of prompt tokens, 0 to 1.
    """

    window_s: float
    n_generations: int
    ttft_p50_ms: float | None
    ttft_p95_ms: float | None
    tokens_per_second: float | None
    cache_hit_share: float | None


class IndexStatus(TypedDict):
    """n_waiting: jobs that have not ended."""

    n_documents: int
    n_paragraphs: int
    n_bytes: int
    n_waiting: int


class DictationStatus(TypedDict):
    """state: of the daemon's own microphone. installed: whether there is a speech model and its encoder; loaded:
    whether they are in memory. Sessions and recordings beyond their limits are refused."""

    state: State
    installed: bool
    loaded: bool
    n_sessions: int
    session_limit: int
    n_transcriptions: int
    transcription_limit: int


class StatusAnswer(TypedDict):
    """Numbers and names only, never text.

    heartbeat_age_s: since the inference thread last moved, 0 while it has nothing to do. index: null without
    one, and while it does not answer. resident_bytes: memory of the process.
    """

    version: str
    uptime_s: float
    state: RuntimeState
    error: str | None
    engine: EngineAnswer
    model: ModelStatus | None
    load_ms: float | None
    queue: QueueStatus
    kv_cache: KvCacheStatus
    adapters: AdaptersStatus
    counts: CountsStatus
    last_token_age_s: float | None
    heartbeat_age_s: float
    recent: RecentStatus
    index: IndexStatus | None
    dictation: DictationStatus | None
    n_listeners: int
    resident_bytes: int | None


_UNWELL: dict[RuntimeState, Literal["loading", "draining", "failed"]] = {
    "loading": "loading",
    "draining": "draining",
}

_HEALTH_RESPONSES: Responses = {
    200: answers(HealthAnswer),
    503: {"description": "No text can be generated now", **answers(HealthAnswer)},
    **error_responses(400, 403, 421),
}


@router.get(
    "/health",
    summary="Whether text can be generated now",
    responses=_HEALTH_RESPONSES,
    response_class=Response,
)
@router.get(
    "/v1/health",
    summary="The same as /health",
    responses=_HEALTH_RESPONSES,
    response_class=Response,
)
async def health(
    request: Request, services: ServicesDep, nonce: Nonce | None = None, key: KeyId | None = None
) -> Response:
    found = services.runtime.health()
    answer = _health_answer(found)
    if nonce is not None and key is not None:
        answer["proof"] = prove(key, nonce, _own_address(request), services.tokens.current())
    elif nonce is not None or key is not None:
        raise ApiError("invalid_request", "`nonce` and `key` go together")
    headers = {}
    if not found.ok and found.retry_after_s is not None:
        headers["Retry-After"] = str(found.retry_after_s)
    return Response(
        json_bytes(answer),
        status_code=200 if found.ok else 503,
        headers=headers,
        media_type="application/json",
    )


def _own_address(request: Request) -> str:
    """The daemon's end of this connection, which no header can change; IPv6 in brackets."""
    host, port = request.scope["server"]
    host = f"[{host}]" if ":" in host else host
    return host if port is None else f"{host}:{port}"


def _health_answer(found: Health) -> HealthAnswer:
    if found.ok:
        return {"status": "ok", "state": found.state, "reason": found.reason}
    reason = found.reason
    if found.state == "failed":
        # Why it failed may name the user's folders, and this route has no token.
        reason = "the model could not be loaded: see `pushkin status` or GET /v1/status"
    status = _UNWELL.get(found.state, "failed")
    message = "Loading model" if status == "loading" else reason
    return {
        "status": status,
        "state": found.state,
        "reason": reason,
        "error": {"code": 503, "message": message, "type": "unavailable_error"},
    }


@router.get(
    "/v1/status", summary="What runs, and how much", responses=error_responses(401, 403, 421)
)
async def status(services: ServicesDep) -> StatusAnswer:
    now = services.runtime.status()
    return {
        "version": services.version,
        "uptime_s": round(max(0.0, time.time() - services.started_at), 3),
        "state": now.state,
        "error": now.error,
        "engine": {"name": now.engine, "reason": now.engine_reason},
        "model": _model_status(now.model),
        "load_ms": now.load_ms,
        "queue": {
            "n_queued": now.n_queued,
            "n_active": now.n_active,
            "limit": now.queue_limit,
        },
        "kv_cache": {
            "n_entries": now.kv_entries,
            "n_bytes": now.kv_bytes,
            "budget_bytes": now.kv_budget_bytes,
        },
        "adapters": {
            "n_resident": now.adapters_resident,
            "n_bytes": now.adapters_bytes,
            "budget_bytes": now.adapters_budget_bytes,
        },
        "counts": {"requests": now.n_requests, "tokens": now.n_tokens},
        "last_token_age_s": now.last_token_age_s,
        "heartbeat_age_s": round(now.heartbeat_age_s, 3),
        "recent": cast("RecentStatus", asdict(services.metrics.recent.summary())),
        "index": await _index_status(services),
        "dictation": _dictation_status(services),
        "n_listeners": services.events.n_listeners,
        "resident_bytes": resident_bytes(),
    }


async def _index_status(services: Services) -> IndexStatus | None:
    totals = await index_totals(services.index)
    if totals is None:
        return None
    return {
        "n_documents": totals.n_documents,
        "n_paragraphs": totals.n_paragraphs,
        "n_bytes": totals.n_bytes,
        "n_waiting": services.metrics.index.n_waiting,
    }


def _dictation_status(services: Services) -> DictationStatus | None:
    if services.dictation is None:
        return None
    load = services.dictation.load()
    return {
        "state": load.state,
        "installed": load.is_installed,
        "loaded": load.is_loaded,
        "n_sessions": load.n_sessions,
        "session_limit": MAX_SESSIONS,
        "n_transcriptions": load.n_transcriptions,
        "transcription_limit": MAX_TRANSCRIPTIONS,
    }


def _model_status(model: ModelInfo | None) -> ModelStatus | None:
    if model is None:
        return None
    return {
        "id": model.id,
        "digest": model.digest,
        "n_parameters": model.n_parameters,
        "n_bytes": model.n_bytes,
        "n_layers": model.n_layers,
        "hidden_size": model.hidden_size,
        "vocab_size": model.vocab_size,
        "context_length": model.context_length,
        "window": model.window,
        "quantization": model.quantization,
    }
