"""`POST /v1/feedback` and `/v1/stats`: how suggestions fare, on this machine alone and only if the user agrees."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter, Response

from api.json_route import StrictJsonRoute
from api.responses import error_responses
from api.services import UsageDep
from api.usage_answers import (
    ErasedAnswer,
    FeedbackAnswer,
    StatsAnswer,
    UsageConsentAnswer,
    erased_answer,
    feedback_answer,
    stats_answer,
    usage_consent_answer,
)
from api.usage_schemas import FeedbackBody, UsageConsentBody

router = APIRouter(tags=["usage"], route_class=StrictJsonRoute)

_NDJSON = "application/x-ndjson"
_LINES: dict[int | str, dict[str, Any]] = {
    200: {"content": {_NDJSON: {"schema": {"type": "string"}}}}
}


@router.post(
    "/v1/feedback",
    summary="Tell what became of a choice: shown, accepted, edited or rejected",
    responses=error_responses(400, 401, 403, 415, 421, 503),
)
async def give_feedback(body: FeedbackBody, usage: UsageDep) -> FeedbackAnswer:
    return feedback_answer(await asyncio.wrap_future(usage.feedback(body.to_feedback())))


@router.get(
    "/v1/stats",
    summary="What was used, and how suggestions fared; nothing unless the user agreed",
    responses=error_responses(401, 403, 421, 503),
)
async def show_stats(usage: UsageDep) -> StatsAnswer:
    return stats_answer(await asyncio.wrap_future(usage.report()))


@router.put(
    "/v1/stats/consent",
    summary="Allow or refuse counts, and by a decision of its own texts",
    responses=error_responses(400, 401, 403, 415, 421, 503),
)
async def change_usage_consent(body: UsageConsentBody, usage: UsageDep) -> UsageConsentAnswer:
    deciding = usage.decide(counts=body.counts, texts=body.texts)
    return usage_consent_answer(await asyncio.wrap_future(deciding))


@router.delete(
    "/v1/stats",
    summary="Forget the statistics, texts and decisions included",
    responses=error_responses(401, 403, 421, 503),
)
async def forget_stats(usage: UsageDep) -> ErasedAnswer:
    return erased_answer(await asyncio.wrap_future(usage.forget()))


@router.get(
    "/v1/stats/export",
    summary="Every row without text, as JSON lines",
    response_class=Response,
    responses={**error_responses(401, 403, 421, 503), **_LINES},
)
async def export_stats(usage: UsageDep) -> Response:
    return _lines(await asyncio.wrap_future(usage.export()))


@router.get(
    "/v1/stats/pairs",
    summary="Preference pairs (prompt, chosen, rejected) as JSON lines, for training",
    response_class=Response,
    responses={**error_responses(401, 403, 421, 503), **_LINES},
)
async def export_pairs(usage: UsageDep) -> Response:
    return _lines(await asyncio.wrap_future(usage.pairs()))


def _lines(lines: list[str]) -> Response:
    return Response("".join(lines).encode(), media_type=_NDJSON)
