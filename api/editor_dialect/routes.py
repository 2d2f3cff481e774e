"""All that the editor's port answers: health, adapters, completions, embeddings."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Request, Response
from typing_extensions import TypedDict

from api.editor_dialect.adapters import named
from api.editor_dialect.bodies import AdaptersBody, EditorCompletionBody, SetAdapters
from api.editor_dialect.glue import WhitespaceGlue
from api.errors import ApiError
from api.generation_group import owned_generations
from api.json_route import StrictJsonRoute
from api.llama_dialect.answers import Order
from api.llama_dialect.completion import Reply, prompt_text, respond
from api.llama_dialect.lora import installed
from api.llama_dialect.lora import named as numbered
from api.llama_dialect.requests import check_supported, generation_requests
from api.services import RequestIdDep, Services, ServicesDep
from pushkin_runtime.errors import NotReady
from pushkin_runtime.types import AdapterRef, GenerationRequest

MAX_TOKENS = 256  # the editor waits for the end of a suggestion before it hears the next keystroke

router = APIRouter(route_class=StrictJsonRoute)


class EditorHealth(TypedDict):
    status: Literal["ok"]


class AdaptersSet(TypedDict):
    success: Literal[True]


@router.get("/health")
async def health(services: ServicesDep) -> EditorHealth:
    """Upstream's answer; it never waits for anything."""
    found = services.runtime.health()
    if not found.ok:
        raise NotReady("Loading model", retry_after_s=found.retry_after_s)
    return {"status": "ok"}


@router.post("/lora-adapters")
async def set_adapters(body: SetAdapters, services: ServicesDep) -> AdaptersSet:
    """For completions that name none."""
    if isinstance(body, AdaptersBody):
        chosen = await named(services, body.adapters, param="adapters")
    else:
        chosen = numbered(body, await installed(services))
    services.lora.chosen = chosen
    return {"success": True}


async def _completion(
    body: EditorCompletionBody, client: Request, services: ServicesDep, request_id: RequestIdDep
) -> AsyncIterator[Reply]:
    check_supported(body)
    tokenizer = services.runtime.tokenizer()
    model = services.runtime.status().model
    assert model is not None  # there is one where there is a tokenizer
    adapters = await _adapters(services, body)
    wanted = generation_requests(
        body,
        adapters=adapters,
        tokenizer=tokenizer,
        n_context=model.context_length,
        request_id=request_id,
    )
    if len(wanted) > 1 or body.n_cmpl > 1:
        raise ApiError("invalid_value", "the editor's port takes one prompt and one choice")
    request = _as_typed(wanted[0], client, adapters)
    order = Order(body=body, tokenizer=tokenizer, prompts=(prompt_text(request, tokenizer),))
    async with owned_generations(
        services.runtime, [request], client, through=WhitespaceGlue()
    ) as group:
        yield Reply(group, order)


async def _adapters(
    services: Services, body: EditorCompletionBody
) -> tuple[AdapterRef, ...] | None:
    if body.lora_adapters is not None:
        return await named(services, body.lora_adapters, param="lora_adapters")
    if body.lora is not None:
        return numbered(body.lora, await installed(services))
    return services.lora.chosen


def _as_typed(
    request: GenerationRequest, client: Request, adapters: tuple[AdapterRef, ...] | None
) -> GenerationRequest:
    """A text that somebody is typing: its last word may be unfinished, its start may be cut off.

    The editor never hangs up, so a newer prompt of the same program for the same adapters ends the older one.
    """
    basis = repr((client.headers.get("user-agent"), adapters)).encode()
    return replace(
        request,
        raw=False,
        cut_prompt=True,
        cache_reuse=request.cache_reuse or None,  # a draft, if nothing in it says otherwise
        document_id=request.document_id or f"editor-{hashlib.sha256(basis).hexdigest()[:16]}",
        max_tokens=min(request.max_tokens or 0, MAX_TOKENS),
    )


@router.post("/completion")
async def complete(
    reply: Annotated[Reply, Depends(_completion)], services: ServicesDep
) -> Response:
    answer = await respond(reply, services)
    answer.headers["Connection"] = "close"  # by it alone the editor knows that a stream has ended
    return answer
