"""What llama-server tells of itself, and its routes that make no sense here."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NoReturn

from fastapi import APIRouter, Path, Query
from typing_extensions import TypedDict

from api.errors import ApiError
from api.json_route import StrictJsonRoute
from api.llama_dialect.answers import generation_settings
from api.llama_dialect.bodies import LlamaCompletionBody
from api.llama_dialect.requests import NO_SEED, sampling
from api.responses import llama_error_responses
from api.services import Services, ServicesDep
from pushkin_runtime.errors import NotReady
from pushkin_runtime.sampling import resolve
from pushkin_runtime.types import ModelInfo, RuntimeStatus

router = APIRouter(
    tags=["llama-server"],
    route_class=StrictJsonRoute,
    responses=llama_error_responses(400, 401, 403, 415, 421, 501, 503),
)

_NOTHING: dict[str, Any] = {"status_code": 501, "response_model": None}


class SlotAnswer(TypedDict):
    """A place for a running generation. Neither its text nor its settings are told."""

    id: int
    n_ctx: int
    speculative: Literal[False]
    is_processing: bool


class DefaultSettings(TypedDict):
    n_ctx: int
    params: dict[str, Any]


class ModalitiesAnswer(TypedDict):
    vision: bool
    audio: bool


class PropsAnswer(TypedDict):
    """`model_path` is the model's id: where it lies is nobody's business."""

    default_generation_settings: DefaultSettings
    total_slots: int
    model_alias: str
    model_path: str
    modalities: ModalitiesAnswer
    chat_template: str
    chat_template_caps: dict[str, Any]
    bos_token: str
    eos_token: str
    build_info: str
    is_sleeping: bool


@router.get("/props", summary="What this server is")
async def props(services: ServicesDep) -> PropsAnswer:
    status, model = _ready(services)
    tokenizer = services.runtime.tokenizer()
    body = LlamaCompletionBody.model_validate({"prompt": ""})
    params = resolve(
        "continue", sampling(body, model.context_length), persona_min_p=None, fresh_seed=NO_SEED
    )
    return {
        "default_generation_settings": {
            "n_ctx": model.context_length,
            "params": generation_settings(body, params, tokenizer),
        },
        "total_slots": status.max_active,
        "model_alias": model.id,
        "model_path": model.id,
        "modalities": {"vision": False, "audio": False},
        "chat_template": "",
        "chat_template_caps": {},
        "bos_token": tokenizer.piece(tokenizer.bos_id).decode(),
        "eos_token": tokenizer.piece(tokenizer.eos_id).decode(),
        "build_info": f"pushkin-{services.version}",
        "is_sleeping": False,
    }


@router.get("/slots", summary="How many generations run")
async def slots(
    services: ServicesDep,
    fail_on_no_slot: Annotated[
        str | None,
        Query(max_length=16, description="Given, whatever it says: 503 when all are busy."),
    ] = None,
) -> list[SlotAnswer]:
    status, model = _ready(services)
    if fail_on_no_slot is not None and status.n_active >= status.max_active:
        raise NotReady("no slot available", retry_after_s=1)
    return [
        {
            "id": number,
            "n_ctx": model.context_length,
            "speculative": False,
            "is_processing": number < status.n_active,
        }
        for number in range(status.max_active)
    ]


@router.post("/slots/{id_slot}", summary="Not supported: save, restore or erase a slot", **_NOTHING)
async def act_on_slot(id_slot: Annotated[str, Path(max_length=16)]) -> NoReturn:
    raise _unsupported(
        "the KV cache is the user's text and is never written to disk, and it has no slots that could be "
        "erased; send `cache_prompt: false` to leave it out"
    )


@router.post("/props", summary="Not supported: change the server's properties", **_NOTHING)
async def change_props() -> NoReturn:
    raise _unsupported("the daemon is configured by its own file; see `pushkin config show`")


@router.post("/infill", summary="Not supported: fill in the middle of code", **_NOTHING)
async def infill() -> NoReturn:
    raise _unsupported(
        "the model has no tokens for filling in the middle; POST /v1/continue takes the text after the caret "
        "as `suffix`"
    )


@router.post("/apply-template", summary="Not supported: chat messages to a prompt", **_NOTHING)
async def apply_template() -> NoReturn:
    raise _unsupported(
        "the model is a base model without a chat template; send text to /completion"
    )


def _unsupported(reason: str) -> ApiError:
    return ApiError("capability_missing", f"This server does not support it: {reason}.")


def _ready(services: Services) -> tuple[RuntimeStatus, ModelInfo]:
    services.runtime.tokenizer()  # raises NotReady or Draining
    status = services.runtime.status()
    assert status.model is not None  # there is one where there is a tokenizer
    return status, status.model
