"""What the user decides about their documents: consent, folders, export, forgetting everything."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from itertools import islice

from fastapi import APIRouter
from fastapi.responses import StreamingResponse

from api.document_answers import (
    ConsentAnswer,
    ConsentChanged,
    FolderRemoved,
    JobAccepted,
    consent_answer,
    job_answer,
    receipt_answer,
)
from api.document_schemas import ConsentBody, FolderBody, FolderName
from api.json_route import StrictJsonRoute
from api.responses import error_responses
from api.services import IndexDep, ServicesDep
from api.usage_answers import EverythingForgotten, erased_answer
from indexer.service import ConsentChange

router = APIRouter(tags=["consent"], route_class=StrictJsonRoute)

_LINES_AT_ONCE = 500


@router.get(
    "/v1/consent",
    summary="Show what the user has allowed",
    responses=error_responses(401, 403, 421, 503),
)
async def show_consent(index: IndexDep) -> ConsentAnswer:
    return consent_answer(await asyncio.wrap_future(index.consent()))


@router.put(
    "/v1/consent",
    summary="Allow or refuse: everything, or single documents",
    responses=error_responses(400, 401, 403, 415, 421, 503),
)
async def change_consent(body: ConsentBody, index: IndexDep) -> ConsentChanged:
    change = ConsentChange(global_consent=body.global_, documents=body.documents)
    state, receipts = await asyncio.wrap_future(index.set_consent(change))
    return {
        "consent": consent_answer(state),
        "receipts": [receipt_answer(receipt) for receipt in receipts],
    }


@router.post(
    "/v1/folders",
    status_code=202,
    summary="Watch a folder that the configuration names",
    responses=error_responses(400, 401, 403, 404, 415, 421, 503),
)
async def watch_folder(body: FolderBody, index: IndexDep) -> JobAccepted:
    watching = index.watch_folder(body.name, consent_given=body.consent)
    return {"job": job_answer(await asyncio.wrap_future(watching))}


@router.delete(
    "/v1/folders/{name}",
    summary="Stop watching a folder; its documents leave the index",
    responses=error_responses(400, 401, 403, 404, 421, 503),
)
async def unwatch_folder(name: FolderName, index: IndexDep) -> FolderRemoved:
    n_documents = await asyncio.wrap_future(index.unwatch_folder(name))
    return {"name": name, "documents_removed": n_documents}


@router.delete(
    "/v1/persona",
    summary="Forget everything: documents, vectors, personas, statistics, decisions. "
    "Consent is off afterwards",
    responses=error_responses(401, 403, 421, 503),
)
async def forget_everything(index: IndexDep, services: ServicesDep) -> EverythingForgotten:
    erased = None
    if services.usage is not None:
        erased = erased_answer(await asyncio.wrap_future(services.usage.forget()))
    receipt = receipt_answer(await asyncio.wrap_future(index.forget_everything()))
    return {**receipt, "statistics": erased}


@router.get(
    "/v1/persona/export",
    summary="Everything that is known, as JSON lines",
    response_class=StreamingResponse,
    responses={
        **error_responses(400, 401, 403, 421, 503),
        200: {"content": {"application/x-ndjson": {"schema": {"type": "string"}}}},
    },
)
async def export(index: IndexDep, vectors: bool = False) -> StreamingResponse:
    lines = await asyncio.wrap_future(index.export(with_vectors=vectors))
    return StreamingResponse(_pieces(lines), media_type="application/x-ndjson")


async def _pieces(lines: Iterator[str]) -> AsyncIterator[bytes]:
    """The lines, some hundred at once, read on another thread: each page is a query."""
    loop = asyncio.get_running_loop()
    while True:
        piece = await loop.run_in_executor(None, lambda: "".join(islice(lines, _LINES_AT_ONCE)))
        if not piece:
            return
        yield piece.encode()
