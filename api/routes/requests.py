"""`DELETE /v1/requests/{request_id}`: cancel a generation that another connection waits for."""

from __future__ import annotations

from fastapi import APIRouter
from typing_extensions import TypedDict

from api.errors import ApiError
from api.responses import error_responses
from api.services import ServicesDep

router = APIRouter(tags=["requests"], responses=error_responses(401, 403, 404, 421))


class CancelAnswer(TypedDict):
    """The generation ends with `finish_reason: "cancelled"` within one decode step."""

    id: str
    cancelled: bool


@router.delete("/v1/requests/{request_id}", summary="Cancel a queued or running generation")
async def cancel_request(request_id: str, services: ServicesDep) -> CancelAnswer:
    if not services.runtime.cancel(request_id):
        raise ApiError(
            "request_not_found",
            "no queued or running request has this id; it may have just ended",
            param="request_id",
        )
    return {"id": request_id, "cancelled": True}
