"""What clients of OpenAI's API may send. Known fields are checked strictly, unknown ones are ignored."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema
from pydantic_core import PydanticCustomError

from api.schemas import MAX_TEXT_CHARS

TextOrTokens = str | tuple[int, ...]

MAX_INPUTS = 2048  # OpenAI's own bound
DEFAULT_MODEL = "default"  # the client insists on naming one: what the daemon would choose itself

_SCHEMA = {
    "anyOf": [
        {"type": "string"},
        {"type": "array", "items": {"type": "string"}},
        {"type": "array", "items": {"type": "integer"}},
        {"type": "array", "items": {"type": "array", "items": {"type": "integer"}}},
    ]
}


def texts_or_tokens(value: object) -> tuple[TextOrTokens, ...]:
    """A string, an array of strings, of tokens, or of arrays of tokens → the texts it stands for.

    Raises PydanticCustomError for anything else, an empty one or a text that is too long.
    """
    many = value if isinstance(value, list) and not _is_tokens(value) else [value]
    if not many:
        raise PydanticCustomError("text_empty", "is empty: send a text or tokens")
    if len(many) > MAX_INPUTS:
        raise PydanticCustomError("invalid_value", f"has more than {MAX_INPUTS} items")
    return tuple(_one(item) for item in many)


def _is_tokens(value: list[object]) -> bool:
    return bool(value) and all(type(item) is int for item in value)


def _one(item: object) -> TextOrTokens:
    if isinstance(item, str):
        if len(item) > MAX_TEXT_CHARS:
            raise PydanticCustomError(
                "invalid_value", f"has a text longer than {MAX_TEXT_CHARS} characters"
            )
        return item
    if isinstance(item, list) and (_is_tokens(item) or not item):
        return tuple(item)
    raise PydanticCustomError(
        "invalid_type",
        "must be a string, an array of strings, an array of tokens or an array of such arrays",
    )


def _nothing_empty(items: tuple[TextOrTokens, ...]) -> tuple[TextOrTokens, ...]:
    if not all(items):
        raise PydanticCustomError("text_empty", "has an empty text: there is nothing to embed")
    return items


Inputs = Annotated[
    tuple[TextOrTokens, ...], BeforeValidator(texts_or_tokens), WithJsonSchema(_SCHEMA)
]


class LenientBody(BaseModel):
    """The base of every object a client of OpenAI's API sends."""

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True, hide_input_in_errors=True)


class EmbeddingsBody(LenientBody):
    """`POST /v1/embeddings`."""

    input: Annotated[Inputs, AfterValidator(_nothing_empty)]
    model: str | None = Field(None, description="The encoder of GET /v1/models, or left out.")
    encoding_format: Literal["float", "base64"] = Field(
        "float", description="base64: of little-endian float32."
    )
    dimensions: Annotated[int, Field(ge=1, le=4096)] | None = Field(
        None, description="Keep the first so many and make the length one again."
    )
