"""The shapes a prompt may have, brought into one: a text, or parts that become tokens."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

from api.schemas import MAX_TEXT_CHARS
from pushkin_runtime.tokenizer import TextTokenizer

MAX_PROMPTS = 16  # each is a generation in the runtime's bounded queue
MAX_PARTS = 8192
MAX_TOKEN_ID = 2**31 - 1

Prompt = str | tuple[int | str, ...]
"""A text, which gets the control prefix, or tokens and pieces of text that are read as they are."""

_TEXT: dict[str, Any] = {"type": "string", "maxLength": MAX_TEXT_CHARS}
_TOKEN: dict[str, Any] = {"type": "integer", "minimum": 0, "maximum": MAX_TOKEN_ID}
_PARTS: dict[str, Any] = {
    "type": "array",
    "items": {"anyOf": [_TOKEN, _TEXT]},
    "minItems": 1,
    "maxItems": MAX_PARTS,
}
_OBJECT: dict[str, Any] = {
    "type": "object",
    "properties": {"prompt_string": _TEXT},
    "required": ["prompt_string"],
}
_SCHEMA: dict[str, Any] = {
    "anyOf": [
        _TEXT,
        _PARTS,
        _OBJECT,
        {
            "type": "array",
            "items": {"anyOf": [_TEXT, _PARTS, _OBJECT]},
            "minItems": 1,
            "maxItems": MAX_PROMPTS,
        },
    ]
}


def prompts_of(value: object) -> tuple[Prompt, ...]:
    """Read `prompt`: one prompt, or an array of them. Raises PydanticCustomError."""
    if not isinstance(value, list) or _is_sequence(value):
        return (_prompt(value),)
    if not value:
        raise PydanticCustomError("text_empty", "is empty: send a text or tokens")
    if len(value) > MAX_PROMPTS:
        raise PydanticCustomError("invalid_value", f"has more than {MAX_PROMPTS} prompts")
    return tuple(_prompt(item) for item in value)


def token_prompt(parts: tuple[int | str, ...], tokenizer: TextTokenizer) -> tuple[int, ...]:
    """Return the tokens of a mixed prompt; `<bos>` stands first where a text does, as upstream has it."""
    tokens = [tokenizer.bos_id] if parts and isinstance(parts[0], str) else []
    for part in parts:
        tokens += [part] if isinstance(part, int) else tokenizer.encode(part)
    return tuple(tokens)


def _is_sequence(value: list[object]) -> bool:
    """Whether an array is one prompt: tokens, or tokens and texts. Texts alone are as many prompts."""
    has_token = any(type(item) is int for item in value)
    return has_token and all(type(item) is int or isinstance(item, str) for item in value)


def _prompt(value: object) -> Prompt:
    if isinstance(value, dict):
        if value.get("multimodal_data"):
            raise PydanticCustomError(
                "capability_missing", "has images or audio: only text is read"
            )
        value = value.get("prompt_string")
    if isinstance(value, str):
        if len(value) > MAX_TEXT_CHARS:
            raise PydanticCustomError(
                "invalid_value", f"has a text longer than {MAX_TEXT_CHARS} characters"
            )
        return value
    if isinstance(value, list) and _is_sequence(value):
        if len(value) > MAX_PARTS:
            raise PydanticCustomError("invalid_value", f"has more than {MAX_PARTS} tokens")
        return tuple(value)
    raise PydanticCustomError(
        "invalid_type",
        "must be a string, an array of tokens and strings, an object with `prompt_string`, or an array of these",
    )


Prompts = Annotated[tuple[Prompt, ...], BeforeValidator(prompts_of), WithJsonSchema(_SCHEMA)]
