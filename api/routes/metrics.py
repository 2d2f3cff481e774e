"""`GET /metrics`: everything that is counted, in Prometheus' text format."""

from __future__ import annotations

import time

from fastapi import APIRouter, Response

from api.metrics.index_meter import index_totals
from api.metrics.page import Moment, metrics_page
from api.responses import error_responses
from api.services import Services, ServicesDep

router = APIRouter(tags=["life"])

_CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


@router.get(
    "/metrics",
    summary="Counters and timings for Prometheus; llama-server's names are on the same page",
    response_class=Response,
    responses={
        **error_responses(401, 403, 421),
        200: {"content": {"text/plain": {"schema": {"type": "string"}}}},
    },
)
async def show_metrics(services: ServicesDep) -> Response:
    page = metrics_page(services.metrics, await _moment(services))
    return Response(page, headers={"Content-Type": _CONTENT_TYPE})


async def _moment(services: Services) -> Moment:
    return Moment(
        version=services.version,
        started_at=services.started_at,
        uptime_s=max(0.0, time.time() - services.started_at),
        status=services.runtime.status(),
        n_listeners=services.events.n_listeners,
        index=await index_totals(services.index),
        dictation=services.dictation.load() if services.dictation else None,
    )
