"""What clients of OpenAI's API may send. Known fields are checked strictly, unknown ones are ignored."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import PydanticCustomError

from api.embedding import TextOrTokens
from api.schemas import (
    MAX_INT64,
    MAX_TEXT_CHARS,
    AdapterBody,
    DocumentId,
    Finite,
    Persona,
    StopString,
)

MAX_INPUTS = 2048  # OpenAI's own bound
MAX_PROMPTS = 16  # each is a generation in the runtime's bounded queue
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


def nothing_empty(items: tuple[TextOrTokens, ...]) -> tuple[TextOrTokens, ...]:
    if not all(items):
        raise PydanticCustomError("text_empty", "has an empty text: there is nothing to embed")
    return items


def _few_prompts(items: tuple[TextOrTokens, ...]) -> tuple[TextOrTokens, ...]:
    if len(items) > MAX_PROMPTS:
        raise PydanticCustomError("invalid_value", f"has more than {MAX_PROMPTS} prompts")
    if () in items:
        raise PydanticCustomError("text_empty", "has a prompt of no tokens")
    return items


Inputs = Annotated[
    tuple[TextOrTokens, ...], BeforeValidator(texts_or_tokens), WithJsonSchema(_SCHEMA)
]


class LenientBody(BaseModel):
    """The base of every object a client of OpenAI's API sends."""

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True, hide_input_in_errors=True)


class EmbeddingsBody(LenientBody):
    """`POST /v1/embeddings`."""

    input: Annotated[Inputs, AfterValidator(nothing_empty)]
    model: str | None = Field(None, description="The encoder of GET /v1/models, or left out.")
    encoding_format: Literal["float", "base64"] = Field(
        "float", description="base64: of little-endian float32."
    )
    dimensions: Annotated[int, Field(ge=1, le=4096)] | None = Field(
        None, description="Keep the first so many and make the length one again."
    )


class StreamOptions(LenientBody):
    """`include_usage`: one more chunk at the end, without choices, with `usage`."""

    include_usage: bool | None = None


def _stop_list(value: object) -> object:
    return [value] if isinstance(value, str) else value


def _bias_by_token(value: object) -> object:
    """{"17": -100} → {17: -100}. Raises PydanticCustomError for a name that is no token."""
    if not isinstance(value, dict):
        return value
    if not all(name.isascii() and name.isdigit() and len(name) < 12 for name in value):
        raise PydanticCustomError("invalid_value", "must have token ids as names")
    return {int(name): bias for name, bias in value.items()}


def _adapter_objects(value: object) -> object:
    if not isinstance(value, list):
        return value
    return [{"name": item} if isinstance(item, str) else item for item in value]


Count = Annotated[int, Field(ge=1, le=5)]
Penalty = Annotated[Finite, Field(ge=-2, le=2)]
Bias = Annotated[Finite, Field(ge=-100, le=100)]


class CompletionBody(LenientBody):
    """`POST /v1/completions`. null is the same as left out."""

    model: str | None = Field(
        None,
        description="`base` is the bare base model, `base:adapter` that adapter on it; "
        "`default`, or left out: the adapters and the persona that the daemon would choose.",
    )
    prompt: Annotated[Inputs, AfterValidator(_few_prompts)]
    suffix: Annotated[str, Field(max_length=MAX_TEXT_CHARS)] | None = Field(
        None, description="After the caret; drafts are chosen so that they lead into it."
    )
    max_tokens: Annotated[int, Field(ge=0, le=4096)] | None = None
    n: Count | None = None
    best_of: Count | None = Field(None, description="Drafts of which the likeliest are answered.")
    echo: bool | None = None
    logprobs: Annotated[int, Field(ge=0, le=5)] | None = None
    stop: Annotated[
        Annotated[list[StopString], Field(max_length=8)] | None,
        BeforeValidator(_stop_list, json_schema_input_type=str | list[str] | None),
    ] = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: Annotated[Finite, Field(ge=0, le=5)] | None = None
    top_p: Annotated[Finite, Field(gt=0, le=1)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    logit_bias: Annotated[
        Annotated[dict[int, Bias], Field(max_length=1024)] | None,
        BeforeValidator(_bias_by_token, json_schema_input_type=dict[str, Bias] | None),
    ] = None
    seed: Annotated[int, Field(ge=-MAX_INT64 - 1, le=MAX_INT64)] | None = None
    min_p: Annotated[Finite, Field(ge=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1, le=1000)] | None = Field(None, description="0 or -1: off.")
    repetition_penalty: Annotated[Finite, Field(ge=0.5, le=2)] | None = None
    adapters: Annotated[
        Annotated[list[AdapterBody], Field(max_length=8)] | None,
        BeforeValidator(_adapter_objects),
    ] = Field(None, description="Names, or objects with a scale; instead of what `model` says.")
    persona: Persona = "auto"
    document_id: DocumentId | None = Field(
        None, description="A newer request for the same document supersedes this one."
    )

    @model_validator(mode="after")
    def _together(self) -> Self:
        """What fits only together."""
        if self.document_id is not None and len(self.prompt) > 1:
            raise PydanticCustomError("invalid_value", "has `document_id` and several prompts")
        if self.stream_options is not None and not self.stream:
            raise PydanticCustomError("invalid_value", "has `stream_options` without `stream`")
        if self.best_of is not None and self.best_of < (self.n or 1):
            raise PydanticCustomError("invalid_value", "has a `best_of` smaller than `n`")
        if self.best_of is not None and self.best_of > (self.n or 1) and self.stream:
            raise PydanticCustomError(
                "invalid_value", "has `stream` and `best_of`: the best is known at the end only"
            )
        return self
