"""What clients of llama-server may send: upstream's fields and defaults, in bounds.

Unknown fields are ignored and null is the same as left out, as upstream has it; a known field of the wrong type is an
error here, where upstream would silently take the default.
"""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import (
    AliasChoices,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import CoreSchema, PydanticCustomError

from api.llama_dialect.prompts import MAX_PARTS, MAX_TOKEN_ID, Prompts
from api.schemas import MAX_INT64, MAX_TEXT_CHARS, DocumentId, Finite
from pushkin_runtime.sampling_types import DRY_BASE, DRY_BREAKERS
from pushkin_runtime.types import MAX_ADAPTER_SCALE

MAX_INT32 = 2**31 - 1
MAX_BIASES = 1024
MAX_BIAS = 10_000.0
MAX_BREAKER = 40  # characters; upstream cuts longer ones off
N_SLOTS = 4  # alternatives of one request; upstream's bound is its number of slots

BAN = float("-inf")

Share = Annotated[Finite, Field(ge=0, le=1)]
Penalty = Annotated[Finite, Field(ge=-100, le=100)]
Count = Annotated[int, Field(ge=0, le=MAX_INT32)]
CountOrAll = Annotated[int, Field(ge=-1, le=MAX_INT32)]
TokenId = Annotated[int, Field(ge=0, le=MAX_TOKEN_ID)]
DryBreakers = Annotated[
    list[Annotated[str, Field(max_length=MAX_BREAKER)]], Field(min_length=1, max_length=64)
]
StopWord = Annotated[str, Field(max_length=256)]
StopWords = Annotated[list[StopWord], Field(max_length=32)]


class LlamaBody(BaseModel):
    """The base of every object a client of llama-server sends."""

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True, hide_input_in_errors=True)

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        """The schema says of every field that may be left out that it may be null."""
        schema = handler.resolve_ref_schema(handler(core_schema))
        for name, field in schema.get("properties", {}).items():
            kinds = field.get("anyOf", [field])
            if name not in schema.get("required", ()) and {"type": "null"} not in kinds:
                schema["properties"][name] = {"anyOf": [*kinds, {"type": "null"}]}
        return schema

    @model_validator(mode="before")
    @classmethod
    def _null_is_nothing(cls, data: object) -> object:
        if not isinstance(data, dict):
            return data
        return {name: value for name, value in data.items() if value is not None}


class LoraEntry(LlamaBody):
    """An adapter by its number in GET /lora-adapters."""

    id: Count
    scale: Annotated[Finite, Field(ge=-MAX_ADAPTER_SCALE, le=MAX_ADAPTER_SCALE)]


def _stop_words(value: object) -> object:
    words = [value] if isinstance(value, str) else value
    return [word for word in words if word != ""] if isinstance(words, list) else words


def _biases(value: object) -> tuple[tuple[int | str, float], ...]:
    """`[[token or text, bias or false], ...]` or `{token or text: bias or false}` → pairs.

    Raises PydanticCustomError.
    """
    pairs = list(value.items()) if isinstance(value, dict) else value
    if not isinstance(pairs, list):
        raise PydanticCustomError("invalid_type", "must be an array of pairs, or an object")
    if len(pairs) > MAX_BIASES:
        raise PydanticCustomError("invalid_value", f"has more than {MAX_BIASES} entries")
    return tuple(_bias(pair) for pair in pairs)


def _bias(pair: object) -> tuple[int | str, float]:
    if not isinstance(pair, list | tuple) or len(pair) != 2:
        raise PydanticCustomError("invalid_type", "must hold pairs of a token, or text, and a bias")
    name, bias = pair
    if isinstance(name, str) and name.isascii() and name.isdigit() and len(name) < 12:
        name = int(name)
    if not (type(name) is int or isinstance(name, str)):
        raise PydanticCustomError("invalid_type", "must name tokens by number or by their text")
    if bias is False:
        return name, BAN
    # NaN and infinities fail the comparison.
    if isinstance(bias, bool) or not isinstance(bias, int | float) or not abs(bias) <= MAX_BIAS:
        raise PydanticCustomError(
            "invalid_value", f"must have biases within ±{MAX_BIAS:g}, or false for a ban"
        )
    return name, float(bias)


_BIAS_VALUE: dict[str, Any] = {
    "anyOf": [{"type": "number", "minimum": -MAX_BIAS, "maximum": MAX_BIAS}, {"const": False}]
}
_BIAS_SCHEMA: dict[str, Any] = {
    "anyOf": [
        {
            "type": "array",
            "maxItems": MAX_BIASES,
            "items": {
                "type": "array",
                "prefixItems": [{"type": ["integer", "string"]}, _BIAS_VALUE],
                "minItems": 2,
                "maxItems": 2,
            },
        },
        {"type": "object", "maxProperties": MAX_BIASES, "additionalProperties": _BIAS_VALUE},
    ]
}
Biases = Annotated[
    tuple[tuple[int | str, float], ...], BeforeValidator(_biases), WithJsonSchema(_BIAS_SCHEMA)
]


class LlamaCompletionBody(LlamaBody):
    """`POST /completion`. Fields without effect here are taken and echoed where that does no harm."""

    prompt: Prompts
    n_predict: Annotated[
        int,
        Field(
            ge=-1,
            le=MAX_INT32,
            validation_alias=AliasChoices("n_predict", "max_completion_tokens", "max_tokens"),
            description="-1: up to the end of the context. 0: only fill the cache.",
        ),
    ] = -1
    n_cmpl: Annotated[
        int, Field(ge=1, le=N_SLOTS, validation_alias=AliasChoices("n_cmpl", "n"))
    ] = 1
    temperature: Annotated[Finite, Field(ge=-1, le=100)] = 0.8
    dynatemp_range: Annotated[Finite, Field(ge=0, le=100)] = 0.0
    dynatemp_exponent: Annotated[Finite, Field(ge=0, le=100)] = 1.0
    top_k: CountOrAll = 40
    top_p: Share = 0.95
    min_p: Share = 0.05
    typical_p: Share = 1.0
    top_n_sigma: Annotated[Finite, Field(ge=-1, le=100)] = -1.0
    xtc_probability: Share = 0.0
    xtc_threshold: Share = 0.1
    repeat_penalty: Annotated[Finite, Field(ge=0.01, le=100)] = 1.0
    repeat_last_n: CountOrAll = 64
    presence_penalty: Penalty = 0.0
    frequency_penalty: Penalty = 0.0
    dry_multiplier: Annotated[Finite, Field(ge=0, le=100)] = 0.0
    dry_base: Annotated[Finite, Field(ge=0, le=100)] = Field(
        DRY_BASE, description="Below 1 it is the default."
    )
    dry_allowed_length: Count = 2
    dry_penalty_last_n: CountOrAll = 64
    dry_sequence_breakers: DryBreakers = list(DRY_BREAKERS)
    mirostat: Annotated[int, Field(ge=0, le=2)] = 0
    mirostat_tau: Annotated[Finite, Field(ge=0, le=100)] = 5.0
    mirostat_eta: Annotated[Finite, Field(ge=0, le=100)] = 0.1
    samplers: (
        Annotated[str, Field(max_length=32)]
        | Annotated[list[Annotated[str, Field(max_length=32)]], Field(max_length=32)]
        | None
    ) = Field(None, description="Names, or letters such as `edskypmxt`.")
    seed: Annotated[int, Field(ge=-1, le=MAX_INT64)] = -1
    stop: Annotated[
        StopWords, BeforeValidator(_stop_words, json_schema_input_type=StopWord | StopWords)
    ] = []
    stream: bool = False
    n_probs: Annotated[
        int, Field(ge=0, le=100, validation_alias=AliasChoices("n_probs", "logprobs"))
    ] = 0
    min_keep: Count = 0
    post_sampling_probs: bool = False
    return_tokens: bool = False
    timings_per_token: bool = False
    return_progress: bool = False
    sse_ping_interval: Annotated[int, Field(ge=-1, le=3600)] | None = Field(
        None, description="Seconds; -1: never."
    )
    logit_bias: Biases = ()
    ignore_eos: bool = False
    grammar: Annotated[str, Field(max_length=MAX_TEXT_CHARS)] = ""
    json_schema: Any = None
    cache_prompt: bool = True
    id_slot: Annotated[int, Field(ge=-1, le=N_SLOTS - 1)] = -1
    n_keep: CountOrAll = 0
    n_discard: Count = 0
    n_indent: Count = 0
    n_cache_reuse: Count = 0
    t_max_predict_ms: Annotated[int, Field(ge=-1, le=MAX_INT32)] = 0
    lora: Annotated[list[LoraEntry], Field(max_length=64)] | None = Field(
        None, description="Adapters that are not listed are off, so [] is the bare base model."
    )
    response_fields: Annotated[
        list[Annotated[str, Field(max_length=256)]], Field(max_length=64)
    ] = []
    document_id: DocumentId | None = Field(
        None, description="Ours: a newer request for the same document supersedes this one."
    )

    @model_validator(mode="after")
    def _one_document(self) -> Self:
        if self.document_id is not None and len(self.prompt) > 1:
            raise PydanticCustomError("invalid_value", "has `document_id` and several prompts")
        return self


class TokenizeBody(LlamaBody):
    """`POST /tokenize`."""

    content: Annotated[str, Field(max_length=MAX_TEXT_CHARS)] = ""
    add_special: bool = Field(False, description="Put `<bos>` before it.")
    parse_special: bool = Field(True, description="Names of special tokens become those tokens.")
    with_pieces: bool = False


class DetokenizeBody(LlamaBody):
    """`POST /detokenize`."""

    tokens: Annotated[list[TokenId], Field(max_length=MAX_PARTS)] = []
