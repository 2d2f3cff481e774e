"""`GET /v1/models`: OpenAI's list of models."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter
from typing_extensions import TypedDict

from api.errors import ApiError
from api.openapi import error_responses
from api.services import Services, ServicesDep

router = APIRouter(tags=["models"])


class ModelAnswer(TypedDict):
    """`created` is when this daemon started, in Unix seconds."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class ModelList(TypedDict):
    """Empty while the model loads."""

    object: Literal["list"]
    data: list[ModelAnswer]


@router.get("/v1/models", summary="List models", responses=error_responses(401, 403, 421))
async def list_models(services: ServicesDep) -> ModelList:
    return {"object": "list", "data": _models(services)}


@router.get(
    "/v1/models/{model_id}", summary="Show one model", responses=error_responses(401, 403, 404, 421)
)
async def show_model(model_id: str, services: ServicesDep) -> ModelAnswer:
    for model in _models(services):
        if model["id"] == model_id:
            return model
    raise ApiError(
        "model_not_found", "no such model is loaded; see GET /v1/models", param="model_id"
    )


def _models(services: Services) -> list[ModelAnswer]:
    model = services.runtime.status().model
    if model is None:
        return []
    created = int(services.started_at)
    return [{"id": model.id, "object": "model", "created": created, "owned_by": "local"}]
