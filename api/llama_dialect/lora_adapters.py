"""`GET` and `POST /lora-adapters`: numbers and scales; nothing is loaded or unloaded, and no path is taken."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Body
from typing_extensions import TypedDict

from api.json_route import StrictJsonRoute
from api.llama_dialect.bodies import LoraEntry
from api.llama_dialect.lora import installed, named
from api.responses import llama_error_responses
from api.services import Services, ServicesDep
from pushkin_runtime.types import AdapterState, AdapterStatus

router = APIRouter(
    tags=["llama-server"],
    route_class=StrictJsonRoute,
    responses=llama_error_responses(401, 403, 404, 421, 503),
)


class LoraAdapterAnswer(TypedDict):
    """`path` is the name, for clients that match by it; `scale` is what a request without `lora` gets.

    Ours: what GET /v1/adapters says more of.
    """

    id: int
    path: str
    scale: float
    task_name: str
    prompt_prefix: str
    name: str
    state: AdapterState
    rank: int
    bytes: int
    sha256: str
    base_sha256: str


class LoraChangedAnswer(TypedDict):
    success: Literal[True]


@router.get("/lora-adapters", summary="List adapters by number")
async def list_lora_adapters(services: ServicesDep) -> list[LoraAdapterAnswer]:
    known = await installed(services)
    scales = _scales(services)
    return [_answer(number, status, scales) for number, status in enumerate(known)]


@router.post("/lora-adapters", summary="Set the scales that requests without `lora` get")
async def set_lora_adapters(
    body: Annotated[list[LoraEntry], Body(max_length=64)], services: ServicesDep
) -> LoraChangedAnswer:
    services.lora.chosen = named(body, await installed(services))
    return {"success": True}


def _scales(services: Services) -> dict[str, float]:
    chosen = services.lora.chosen
    if chosen is None:
        chosen = services.runtime.default_adapters("continue")
    return {ref.name: ref.scale for ref in chosen}


def _answer(number: int, status: AdapterStatus, scales: dict[str, float]) -> LoraAdapterAnswer:
    return {
        "id": number,
        "path": status.name,
        "scale": scales.get(status.name, 0.0),
        "task_name": status.task,
        "prompt_prefix": "",
        "name": status.name,
        "state": status.state,
        "rank": status.rank,
        "bytes": status.n_bytes,
        "sha256": status.sha256,
        "base_sha256": status.base_digest,
    }
