"""What the shipped editor sends. Unknown fields are ignored, upstream's own fields are taken as well."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Discriminator, Field, Tag, model_validator

from api.llama_dialect.bodies import LlamaBody, LlamaCompletionBody, LoraEntry
from api.schemas import MAX_TEXT_CHARS, Finite
from pushkin_runtime.types import MAX_ADAPTER_SCALE

# Every character at which Swift's `CharacterSet.newlines` cuts: the editor takes each line for a token.
LINE_ENDS = ["\n", "\r", "\x0b", "\x0c", "\x85", "\u2028", "\u2029"]


class AdapterFile(LlamaBody):
    """An adapter by the path of a file that need not exist: its name is the file's, without the ending."""

    path: Annotated[str, Field(min_length=1, max_length=1024)]
    scale: Annotated[Finite, Field(ge=-MAX_ADAPTER_SCALE, le=MAX_ADAPTER_SCALE)] = 1.0


AdapterFiles = Annotated[list[AdapterFile], Field(max_length=8)]


class AdaptersBody(LlamaBody):
    """`POST /lora-adapters` as the editor sends it; upstream's is an array of ids and scales."""

    adapters: AdapterFiles


def _kind(value: object) -> str | None:
    if isinstance(value, list):
        return "<array>"
    return "<object>" if isinstance(value, dict | AdaptersBody) else None


SetAdapters = Annotated[
    Annotated[AdaptersBody, Tag("<object>")]
    | Annotated[list[LoraEntry], Field(max_length=64), Tag("<array>")],
    Discriminator(
        _kind,
        custom_error_type="invalid_type",
        custom_error_message="must be an object with `adapters`, or an array",
    ),
]


class EditorCompletionBody(LlamaCompletionBody):
    """`POST /completion`: upstream's fields with `lora_adapters`, a text that stops at the end of its line."""

    lora_adapters: AdapterFiles | None = None

    @model_validator(mode="before")
    @classmethod
    def _as_the_editor_means_it(cls, data: object) -> object:
        if not isinstance(data, dict):
            return data
        changed: dict[str, Any] = {**data}
        if changed.get("stop") is None:
            changed["stop"] = LINE_ENDS
        if isinstance(changed.get("prompt"), str):
            changed["prompt"] = end_of(changed["prompt"])
        return changed


def end_of(text: str) -> str:
    """The last MAX_TEXT_CHARS of a text at most; the start moves in steps, so that the KV cache stays good."""
    over = len(text) - MAX_TEXT_CHARS
    if over <= 0:
        return text
    step = MAX_TEXT_CHARS // 4
    return text[-(-over // step) * step :]
