"""Adapters by number, as llama-server has them: a number is the place in the registry's order by name."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from api.errors import ApiError
from api.llama_dialect.bodies import LoraEntry
from api.services import Services
from pushkin_runtime.types import AdapterRef, AdapterStatus


async def installed(services: Services) -> list[AdapterStatus]:
    """Every installed adapter, in the order of the numbers. Raises NotReady or Draining."""
    return await asyncio.wrap_future(services.runtime.adapters())


async def chosen_adapters(
    services: Services, lora: Sequence[LoraEntry] | None
) -> tuple[AdapterRef, ...] | None:
    """What a request's `lora` asks for: without one, the list of the last `POST /lora-adapters`.

    None leaves the choice to the daemon, () is the bare base model. Raises ApiError for an unknown number.
    """
    if lora is None:
        return services.lora.chosen
    return named(lora, await installed(services) if lora else [])


def named(lora: Sequence[LoraEntry], known: Sequence[AdapterStatus]) -> tuple[AdapterRef, ...]:
    """Numbers → names; of a number given twice the last scale holds, as upstream has it.

    Raises ApiError for a number that no adapter has: dropped silently, it would be the base model's answer.
    """
    scales: dict[str, float] = {}
    for place, entry in enumerate(lora):
        if entry.id >= len(known):
            raise ApiError(
                "adapter_not_found",
                f"no adapter has the id {entry.id}; there are {len(known)}, see GET /lora-adapters",
                param=f"lora[{place}].id",
            )
        scales[known[entry.id].name] = entry.scale
    return tuple(AdapterRef(name, scale) for name, scale in scales.items() if scale != 0)
