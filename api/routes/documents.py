"""`/v1/documents`: the user's own writing, as far as they allow; `/v1/index/rebuild`."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter, Request
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError

from api.document_answers import (
    DocumentList,
    DocumentStateAnswer,
    JobAccepted,
    ReceiptAnswer,
    document_answer,
    job_answer,
    receipt_answer,
    state_answer,
)
from api.document_schemas import DocumentBody, RebuildBody
from api.json_route import StrictJsonRoute
from api.responses import error_responses
from api.schemas import DocumentId
from api.services import IndexDep
from api.uploads import read_upload
from indexer.records import Push

router = APIRouter(tags=["documents"], route_class=StrictJsonRoute)

_UPLOAD_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["file"],
    "properties": {
        "file": {"type": "string", "format": "binary"},
        "revision": {"type": "integer", "minimum": 0},
        "consent": {"type": "boolean", "default": False},
    },
}
_PUT_BODY: dict[str, Any] = {
    "required": True,
    "content": {
        "application/json": {"schema": {"$ref": "#/components/schemas/DocumentBody"}},
        "multipart/form-data": {"schema": _UPLOAD_SCHEMA},
    },
}


@router.put(
    "/v1/documents/{document_id}",
    status_code=202,
    summary="Index a document as it is now: text, or a .txt, .md, .rtf, .docx, .odt or .pdf file",
    responses=error_responses(400, 401, 403, 413, 415, 421, 503),
    openapi_extra={"requestBody": _PUT_BODY},
)
async def put_document(document_id: DocumentId, request: Request, index: IndexDep) -> JobAccepted:
    push = await _read_push(request, document_id)
    return {"job": job_answer(await asyncio.wrap_future(index.push(push)))}


@router.get(
    "/v1/documents",
    summary="List indexed documents",
    responses=error_responses(401, 403, 421, 503),
)
async def list_documents(index: IndexDep) -> DocumentList:
    records = await asyncio.wrap_future(index.documents())
    return {"documents": [document_answer(record) for record in records]}


@router.get(
    "/v1/documents/{document_id}",
    summary="Show one document, and how its indexing goes",
    responses=error_responses(400, 401, 403, 404, 421, 503),
)
async def show_document(document_id: DocumentId, index: IndexDep) -> DocumentStateAnswer:
    return state_answer(await asyncio.wrap_future(index.document(document_id)))


@router.delete(
    "/v1/documents/{document_id}",
    summary="Forget a document: its paragraphs, vectors, and every persona made from them",
    responses=error_responses(400, 401, 403, 404, 421, 503),
)
async def delete_document(document_id: DocumentId, index: IndexDep) -> ReceiptAnswer:
    return receipt_answer(await asyncio.wrap_future(index.delete(document_id)))


@router.post(
    "/v1/index/rebuild",
    status_code=202,
    summary="Check the index, load it again, and look through the folders",
    responses=error_responses(400, 401, 403, 415, 421, 503),
)
async def rebuild_index(index: IndexDep, body: RebuildBody | None = None) -> JobAccepted:
    force = body is not None and body.force
    return {"job": job_answer(await asyncio.wrap_future(index.rebuild(force=force)))}


async def _read_push(request: Request, document_id: str) -> Push:
    if request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        return await read_upload(request, document_id)
    try:
        return DocumentBody.model_validate(await request.json()).to_push(document_id)
    except ValidationError as error:
        findings = [{**found, "loc": ("body", *found["loc"])} for found in error.errors()]
        raise RequestValidationError(findings) from None
