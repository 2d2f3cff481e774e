"""Multipart forms, a document's first of all: one file, read into memory, never into a temporary file on the disk."""

from __future__ import annotations

from pathlib import PurePath

from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from api.errors import ApiError
from api.schemas import MAX_INT64
from indexer.records import Push, PushedFile

MAX_FIELD_BYTES = 64
_TRUTH = {"true": True, "false": False}


class _InMemoryParser(MultiPartParser):
    """Starlette's, without the disk: the body is bounded already."""

    spool_max_size = 2**40


async def read_upload(request: Request, document_id: str) -> Push:
    """Read the fields `file`, `revision` and `consent`. Raises ApiError.

    Of the file's name only the suffix is kept.
    """
    form = await read_form(
        request,
        max_fields=2,
        max_field_bytes=MAX_FIELD_BYTES,
        hint="send one `file`, and `revision` and `consent` if wanted",
    )
    try:
        return await _push_of(form, document_id)
    finally:
        await form.close()


async def read_form(
    request: Request, *, max_fields: int, max_field_bytes: int, hint: str
) -> FormData:
    """Read a form with at most one file, in memory; the caller closes it. Raises ApiError."""
    if not request.headers.get("content-type"):  # there is no body either
        raise ApiError("missing_field", f"the body is empty: {hint}, as a form", param="file")
    parser = _InMemoryParser(
        request.headers,
        request.stream(),
        max_files=1,
        max_fields=max_fields,
        max_part_size=max_field_bytes,
    )
    try:
        return await parser.parse()
    except MultiPartException:
        raise ApiError("invalid_request", f"the form could not be read: {hint}") from None


async def _push_of(form: FormData, document_id: str) -> Push:
    unknown = set(form) - {"file", "revision", "consent"}
    file = form.get("file")
    if not isinstance(file, UploadFile) or unknown:
        raise ApiError(
            "missing_field" if not unknown else "unknown_field",
            "send the document as the file `file`; other fields are `revision` and `consent`",
            param="file",
        )
    return Push(
        document_id=document_id,
        content=PushedFile(content=await file.read(), suffix=_suffix(file.filename)),
        revision=_revision(form.get("revision")),
        consent_given=_consent(form.get("consent")),
    )


def _suffix(file_name: str | None) -> str:
    suffix = PurePath((file_name or "")[-64:]).suffix
    return suffix.lower() if suffix.isascii() and suffix[1:].isalnum() else ""


def _revision(value: object) -> int | None:
    if value is None:
        return None
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 20:
        revision = int(value)
        if revision <= MAX_INT64:
            return revision
    raise ApiError("invalid_value", "`revision` must be a whole number", param="revision")


def _consent(value: object) -> bool:
    if value is None:
        return False
    if not isinstance(value, str) or value not in _TRUTH:
        raise ApiError("invalid_value", "`consent` must be true or false", param="consent")
    return _TRUTH[value]
