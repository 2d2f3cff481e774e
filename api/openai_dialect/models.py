"""`GET /v1/models`: the base, each adapter on it as `base:adapter`, and the encoder of `/v1/embeddings`."""

from __future__ import annotations

import asyncio
from typing import Literal

from fastapi import APIRouter
from typing_extensions import TypedDict

from api.errors import ApiError
from api.responses import error_responses
from api.services import Services, ServicesDep

router = APIRouter(tags=["openai"])


class ModelAnswer(TypedDict):
    """`created` is when this daemon started, in Unix seconds; `parent` is the base of an adapter."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    parent: str | None


class ModelList(TypedDict):
    """Empty while the model loads."""

    object: Literal["list"]
    data: list[ModelAnswer]


@router.get("/v1/models", summary="List models", responses=error_responses(401, 403, 421))
async def list_models(services: ServicesDep) -> ModelList:
    return {"object": "list", "data": await _models(services)}


@router.get(
    "/v1/models/{model_id}", summary="Show one model", responses=error_responses(401, 403, 404, 421)
)
async def show_model(model_id: str, services: ServicesDep) -> ModelAnswer:
    for model in await _models(services):
        if model["id"] == model_id:
            return model
    raise ApiError(
        "model_not_found", "no such model is loaded; see GET /v1/models", param="model_id"
    )


async def _models(services: Services) -> list[ModelAnswer]:
    status = services.runtime.status()
    if status.model is None or status.state != "ready":
        return []
    base, created = status.model.id, int(services.started_at)
    adapters = await asyncio.wrap_future(services.runtime.adapters())
    usable = [f"{base}:{adapter.name}" for adapter in adapters if adapter.state != "broken"]
    others = [services.embedder.name] if services.embedder is not None else []
    return [
        _answer(base, created, None),
        *(_answer(name, created, base) for name in usable),
        *(_answer(name, created, None) for name in others),
    ]


def _answer(name: str, created: int, parent: str | None) -> ModelAnswer:
    return {
        "id": name,
        "object": "model",
        "created": created,
        "owned_by": "local",
        "parent": parent,
    }
