"""From the editor's adapter paths to names in the registry. No path is ever opened."""

from __future__ import annotations

import re
from collections.abc import Sequence

from api.editor_dialect.bodies import AdapterFile
from api.errors import ApiError
from api.llama_dialect.lora import installed
from api.services import Services
from pushkin_runtime.types import AdapterRef

# The shipped editor has this file's name compiled in, for the job that the defaults of `continue` do here.
AUTOCOMPLETE = "autocomplete_lora"

_STEM = re.compile(r"(?:.*[/\\])?([^/\\]*?)(?:\.[A-Za-z0-9]{1,16})?", re.DOTALL)
_NAME = re.compile(r"[a-z0-9._-]{1,64}")


async def named(
    services: Services, files: Sequence[AdapterFile], *, param: str
) -> tuple[AdapterRef, ...] | None:
    """The adapters that the paths stand for; None where the daemon's own choice is meant.

    Raises ApiError 404 for one that is not installed: left out, it would be the base model's answer.
    """
    known = {status.name for status in await installed(services)}
    is_built_in = [_name(file) for file in files] == [AUTOCOMPLETE] and AUTOCOMPLETE not in known
    if is_built_in and services.runtime.default_adapters("continue"):
        return None
    scales: dict[str, float] = {}
    for place, file in enumerate(files):
        name = _name(file)
        if name not in known:
            raise ApiError(
                "adapter_not_found",
                "no adapter of this file's name is installed; `pushkin adapters list` has all, "
                "`pushkin adapters import` brings one in",
                param=f"{param}[{place}].path",
            )
        scales[name] = file.scale
    return tuple(AdapterRef(name, scale) for name, scale in scales.items() if scale != 0)


def _name(file: AdapterFile) -> str:
    """`lora/autocomplete_lora.gguf` is `autocomplete_lora`; "" for what is no name."""
    found = _STEM.fullmatch(file.path)
    name = found.group(1) if found else ""
    return name if _NAME.fullmatch(name) else ""
