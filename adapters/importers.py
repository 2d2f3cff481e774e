"""Which kind of adapter a file or folder is, and how it is read."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from adapters import mlx_lm_format, peft_format
from adapters.draft import Draft, Provenance
from adapters.errors import AdapterNotFound, AdapterUnsupported
from adapters.format import BaseModel

Format = Literal["peft", "mlx-lm", "gguf"]

_MARKS: dict[str, Format] = {
    peft_format.WEIGHTS_NAME: "peft",
    peft_format.PICKLE_NAME: "peft",  # which says why not
    mlx_lm_format.WEIGHTS_NAME: "mlx-lm",
}


def format_of(source: Path) -> Format:
    """Return the kind of adapter at `source`, by the names of its files.

    Raises AdapterNotFound (nothing there) or AdapterUnsupported (nothing known, or two kinds).
    """
    if not source.exists():
        raise AdapterNotFound(f"There is nothing at {source}.")
    if source.is_file():
        if source.suffix == ".gguf":
            return "gguf"
        raise AdapterUnsupported(
            f"{source.name} is not a .gguf file; name the folder of a PEFT or mlx-lm checkpoint."
        )
    found = {kind for name, kind in _MARKS.items() if (source / name).exists()}
    if len(found) != 1:
        raise AdapterUnsupported(
            f"{source}: expected a folder with one of {', '.join(_MARKS)}, or a .gguf file."
        )
    return found.pop()


def import_adapter(
    source: Path,
    kind: Format,
    *,
    name: str,
    base: BaseModel,
    provenance: Provenance | None = None,
    drop_vision: bool = False,
) -> Draft:
    """Read the adapter at `source`; nothing is installed yet. Raises AdapterError subclasses.

    drop_vision: see `peft_format.import_peft`.
    """
    if kind == "peft":
        return peft_format.import_peft(
            source, name=name, base=base, provenance=provenance, drop_vision=drop_vision
        )
    if kind == "mlx-lm":
        return mlx_lm_format.import_mlx_lm(source, name=name, base=base, provenance=provenance)
    from adapters.gguf_format import import_gguf  # the gguf package takes its time

    return import_gguf(source, name=name, base=base, provenance=provenance)
