"""`GET /v1/adapters`, `POST /v1/adapters/{name}/load` and `/unload`."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter
from typing_extensions import TypedDict

from api.json_route import StrictJsonRoute
from api.responses import error_responses
from api.schemas import AdapterName, LoadAdapterBody
from api.services import ServicesDep
from pushkin_runtime.types import AdapterState, AdapterStatus

router = APIRouter(tags=["adapters"], route_class=StrictJsonRoute)


class AdapterInfo(TypedDict):
    """One installed adapter. `scale` is its own factor, alpha / rank (or alpha / √rank with `rslora`), by which
    the scale of a request is multiplied; `n_bytes` and `sha256` are of its file. `applied_modules`: matrices
    of the base that it changes; `probe_delta`: the largest change of a logit on a fixed prompt; both null
    until it has been loaded. `problem`: why a broken one cannot be used."""

    name: str
    state: AdapterState
    problem: str | None
    task: str
    rank: int
    alpha: float
    scale: float
    rslora: bool
    n_bytes: int
    sha256: str
    base: str
    base_digest: str
    languages: list[str]
    pinned: bool
    applied_modules: int | None
    probe_delta: float | None


class AdapterList(TypedDict):
    adapters: list[AdapterInfo]


@router.get(
    "/v1/adapters",
    summary="List installed adapters",
    responses=error_responses(401, 403, 421, 503),
)
async def list_adapters(services: ServicesDep) -> AdapterList:
    statuses = await asyncio.wrap_future(services.runtime.adapters())
    return {"adapters": [_info(status) for status in statuses]}


@router.post(
    "/v1/adapters/{name}/load",
    summary="Bring an adapter into memory and measure its effect",
    responses=error_responses(400, 401, 403, 404, 415, 421, 422, 423, 503),
)
async def load_adapter(
    name: AdapterName, services: ServicesDep, body: LoadAdapterBody | None = None
) -> AdapterInfo:
    pinned = body is not None and body.pinned
    return _info(await asyncio.wrap_future(services.runtime.load_adapter(name, pinned=pinned)))


@router.post(
    "/v1/adapters/{name}/unload",
    summary="Give back an adapter's memory, and what was computed under it",
    responses=error_responses(400, 401, 403, 404, 415, 421, 422, 423, 503),
)
async def unload_adapter(name: AdapterName, services: ServicesDep) -> AdapterInfo:
    return _info(await asyncio.wrap_future(services.runtime.unload_adapter(name)))


def _info(status: AdapterStatus) -> AdapterInfo:
    return {
        "name": status.name,
        "state": status.state,
        "problem": status.problem,
        "task": status.task,
        "rank": status.rank,
        "alpha": status.alpha,
        "scale": status.scale,
        "rslora": status.rslora,
        "n_bytes": status.n_bytes,
        "sha256": status.sha256,
        "base": status.base_id,
        "base_digest": status.base_digest,
        "languages": list(status.languages),
        "pinned": status.pinned,
        "applied_modules": status.applied_modules,
        "probe_delta": status.probe_delta,
    }
