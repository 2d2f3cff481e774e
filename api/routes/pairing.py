"""`/v1/pair` and `/v1/pairings`: six digits from a person for a token of scope `editor`."""

from __future__ import annotations

import asyncio
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Response
from pydantic import Field
from typing_extensions import TypedDict

from api.errors import ApiError
from api.json_route import StrictJsonRoute
from api.pairing import CODE_LIFETIME_S, Pairing, PairingRefused
from api.responses import error_responses
from api.schemas import Body
from api.services import ServicesDep

router = APIRouter(tags=["pairing"], route_class=StrictJsonRoute)


class PairBody(Body):
    """The code that the person reads off `pushkin pair`, and a name to know the client by."""

    code: Annotated[str, Field(pattern=r"^[0-9]{6}$")]
    client: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,31}$")]


class PairAnswer(TypedDict):
    """Shown once: the daemon keeps only the token's SHA-256."""

    token: str
    scope: Literal["editor"]
    client: str


class OfferAnswer(TypedDict):
    """An open code; `/v1/events` tells under `id` how it ended."""

    id: str
    code: str
    expires_in_s: float


async def _pairing(services: ServicesDep) -> Pairing:
    if services.pairing is None:
        raise ApiError("capability_missing", "this daemon remembers no clients")
    return services.pairing


PairingDep = Annotated[Pairing, Depends(_pairing)]


@router.post(
    "/v1/pair",
    summary="Exchange a code for a token; for everyone on this machine who has one",
    responses=error_responses(400, 403, 415, 421, 501),
)
async def pair(body: PairBody, pairing: PairingDep) -> PairAnswer:
    try:
        token = pairing.redeem(body.code, body.client)
    except PairingRefused:
        raise ApiError(
            "pairing_refused",
            "no token for this code: it is wrong, used, or older than two minutes; "
            "`pushkin pair` shows a new one",
            param="code",
        ) from None
    return {"token": token, "scope": "editor", "client": body.client}


@router.post(
    "/v1/pairings",
    status_code=201,
    summary="Make a code: it works once, for two minutes, and ends an earlier one",
    responses=error_responses(401, 403, 415, 421, 501),
)
async def open_pairing(pairing: PairingDep) -> OfferAnswer:
    offer = pairing.open()
    asyncio.get_running_loop().call_later(CODE_LIFETIME_S, pairing.close, offer.id)
    return {"id": offer.id, "code": offer.code, "expires_in_s": CODE_LIFETIME_S}


@router.delete(
    "/v1/pairings/{pairing_id}",
    status_code=204,
    summary="End a code; nothing happens if it has ended already",
    response_class=Response,
    responses=error_responses(401, 403, 421, 501),
)
async def close_pairing(pairing_id: str, pairing: PairingDep) -> None:
    pairing.close(pairing_id)
