"""`GET /v1/persona`: what was learned from the user's documents."""

from __future__ import annotations

import asyncio
from functools import partial

from fastapi import APIRouter

from api.json_route import StrictJsonRoute
from api.persona_answers import Learned, PersonaOverview, persona_answer
from api.responses import error_responses
from api.services import IndexDep

router = APIRouter(tags=["persona"], route_class=StrictJsonRoute)


@router.get(
    "/v1/persona",
    summary="Show what was learned: size, languages, style, favourite words. No text, no names of files",
    responses=error_responses(401, 403, 421, 503),
)
async def show_persona(index: IndexDep) -> PersonaOverview:
    consent, totals, profiled = await asyncio.gather(
        asyncio.wrap_future(index.consent()),
        asyncio.wrap_future(index.totals()),
        asyncio.wrap_future(index.profiles()),
    )
    learned = Learned(consent=consent.global_consent, totals=totals, profiled=profiled)
    # Counting takes time, and the frequencies of words are read from files.
    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(None, partial(persona_answer, learned))
