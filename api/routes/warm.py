"""`POST /v1/warm`: read a text ahead of the request that will need it, while there is nothing else to do."""

from __future__ import annotations

from dataclasses import replace

from fastapi import APIRouter, Request
from typing_extensions import TypedDict

from api.json_route import StrictJsonRoute
from api.request_record import record_of
from api.responses import error_responses
from api.schemas import WarmBody
from api.services import RequestIdDep, ServicesDep
from pushkin_runtime.types import Event

router = APIRouter(tags=["writing"], route_class=StrictJsonRoute)


class WarmAnswer(TypedDict):
    """Nobody waits for what is read ahead; `DELETE /v1/requests/{id}` ends it."""

    id: str


@router.post(
    "/v1/warm",
    status_code=202,
    summary="Read ahead what a request is expected to send; any other request ends it and has what was read",
    responses=error_responses(400, 401, 403, 404, 413, 415, 421, 503),
)
async def warm(
    body: WarmBody, client: Request, services: ServicesDep, request_id: RequestIdDep
) -> WarmAnswer:
    wanted = replace(body.to_request(request_id), client=record_of(client.scope).client)
    services.runtime.submit(wanted, _unheard)  # it belongs to no connection
    return {"id": request_id}


def _unheard(event: Event) -> None:
    """Nobody waits for it."""
