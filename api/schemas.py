"""What clients may send, field by field. Strict: no coercion, no unknown field, no non-finite number.

Text stays exactly as sent. Lengths count Unicode code points.
"""

from __future__ import annotations

import difflib
from dataclasses import replace
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from api.json_text import printable
from pushkin_runtime.sampling_types import SamplingOrder, SamplingOverrides
from pushkin_runtime.types import (
    MAX_ADAPTER_SCALE,
    AdapterRef,
    Control,
    GenerationRequest,
    PersonaRequest,
    Quality,
    Task,
)

MAX_TEXT_CHARS = 200_000
MAX_INT64 = 2**63 - 1


def _not_blank(text: str) -> str:
    if not text or text.isspace():
        raise PydanticCustomError("text_empty", "is blank: there is nothing to work on")
    return text


def _not_empty(text: str) -> str:
    if not text:
        raise PydanticCustomError(
            "text_empty", "is empty: send what stands before the caret, a newline is enough"
        )
    return text


Text = Annotated[str, Field(max_length=MAX_TEXT_CHARS)]
TextToContinue = Annotated[
    Text, Field(json_schema_extra={"minLength": 1}), AfterValidator(_not_empty)
]
TextToChange = Annotated[
    Text, Field(json_schema_extra={"minLength": 1}), AfterValidator(_not_blank)
]
Finite = Annotated[float, Field(allow_inf_nan=False)]
DocumentId = Annotated[str, Field(min_length=1, max_length=256)]
ControlCode = Annotated[str, Field(min_length=1, max_length=64)]
StopString = Annotated[str, Field(min_length=1, max_length=64)]


class Body(BaseModel):
    """The base of every object a client sends."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, hide_input_in_errors=True)

    @model_validator(mode="before")
    @classmethod
    def _name_the_nearest_field(cls, data: object) -> object:
        if not isinstance(data, dict):
            return data
        known = [field.alias or name for name, field in cls.model_fields.items()]
        for name in data:
            if name not in known:
                near = difflib.get_close_matches(name[:64], known, n=1)
                hint = f"did you mean `{near[0]}`?" if near else f"known are {', '.join(known)}"
                raise PydanticCustomError(
                    "unknown_field",
                    "`{field}` is not a field here; {hint}",
                    {"field": printable(name), "hint": hint},
                )
        return data


class SamplingBody(Body):
    """How the next token is chosen; a field left out comes from the task and the persona."""

    temperature: Annotated[Finite, Field(ge=0, le=5)] | None = Field(
        None, description="0 is greedy. Applied after min-p unless `order` says otherwise."
    )
    min_p: Annotated[Finite, Field(ge=0, le=1)] | None = Field(
        None, description="Keep tokens at least this share as likely as the likeliest; 0 is off."
    )
    top_p: Annotated[Finite, Field(gt=0, le=1)] | None = Field(None, description="1 is off.")
    top_k: Annotated[int, Field(ge=0, le=1000)] | None = Field(None, description="0 is off.")
    repetition_penalty: Annotated[Finite, Field(ge=0.5, le=2)] | None = Field(
        None, description="1 is off."
    )
    seed: Annotated[int, Field(ge=0, le=MAX_INT64)] | None = Field(
        None, description="Left out, one is drawn; the one used is in the answer."
    )
    order: SamplingOrder | None = None


AdapterName = Annotated[str, Field(pattern=r"^[a-z0-9._-]{1,64}$")]


class AdapterBody(Body):
    """One LoRA adapter, by name."""

    name: AdapterName
    scale: Annotated[Finite, Field(ge=-MAX_ADAPTER_SCALE, le=MAX_ADAPTER_SCALE)] = 1.0


class LoadAdapterBody(Body):
    """How to load an adapter; pinned ones stay in memory until they are unloaded."""

    pinned: bool = False


class PersonaBody(Body):
    """How much of the user's persona to use, and which documents it may be made from."""

    strength: Annotated[Finite, Field(ge=0, le=2)] = 1.0
    documents: list[DocumentId] = Field([], max_length=256, description="Only these; [] is all.")
    exclude: list[DocumentId] = Field([], max_length=256)


class ControlBody(Body):
    """Control codes; one left out is chosen by the daemon."""

    genre: ControlCode | None = None
    register_: ControlCode | None = Field(None, alias="register")
    tone: ControlCode | None = None
    language: ControlCode | None = None


def _persona_kind(value: object) -> str | None:
    if isinstance(value, str):
        return "<name>"
    return "<object>" if isinstance(value, dict | PersonaBody) else None


Persona = Annotated[
    Annotated[Literal["auto", "off"], Tag("<name>")] | Annotated[PersonaBody, Tag("<object>")],
    Discriminator(
        _persona_kind,
        custom_error_type="invalid_type",
        custom_error_message="must be 'auto', 'off' or an object",
    ),
]


class PromptBody(Body):
    """The fields that decide, beside the texts, what the model reads."""

    document_id: DocumentId | None = Field(
        None, description="A newer request for the same document and task supersedes this one."
    )
    revision: Annotated[int, Field(ge=0, le=MAX_INT64)] | None = None
    adapters: list[AdapterBody] | None = Field(
        None, max_length=8, description="null: the task's own set. []: the bare base model."
    )
    persona: Persona = "auto"
    control: ControlBody = ControlBody()

    @field_validator("revision")
    @classmethod
    def _revision_of_a_document(cls, revision: int | None, info: ValidationInfo) -> int | None:
        if revision is not None and info.data.get("document_id", "") is None:
            raise PydanticCustomError("invalid_value", "needs `document_id`: a revision of what?")
        return revision

    @field_validator("adapters")
    @classmethod
    def _each_adapter_once(cls, adapters: list[AdapterBody] | None) -> list[AdapterBody] | None:
        names = [adapter.name for adapter in adapters or []]
        if len(set(names)) < len(names):
            raise PydanticCustomError("invalid_value", "names one adapter twice; add the scales")
        return adapters

    def _read(
        self, task: Task, request_id: str, text: str, max_tokens: int | None
    ) -> GenerationRequest:
        control = self.control
        return GenerationRequest(
            request_id=request_id,
            task=task,
            text=text,
            document_id=self.document_id,
            revision=self.revision,
            max_tokens=max_tokens,
            adapters=adapter_refs(self.adapters),
            persona=persona_request(self.persona),
            control=Control(
                genre=control.genre,
                register=control.register_,
                tone=control.tone,
                language=control.language,
            ),
        )


class WritingBody(PromptBody):
    """The fields that continue, rephrase and story share."""

    n: int = Field(1, ge=1, le=5, description="Alternatives from one prefill.")
    stop: list[StopString] = Field([], max_length=8, description="Never part of the text.")
    sampling: SamplingBody = SamplingBody()
    quality: Quality = "fast"
    deadline_ms: Annotated[int, Field(ge=1, le=600_000)] | None = Field(
        None, description="Bounds queue, prefill and decode; what exists by then is returned."
    )
    stream: bool = Field(False, description="SSE; `Accept: text/event-stream` does the same.")

    def _shared(
        self, task: Task, request_id: str, text: str, max_tokens: int | None
    ) -> GenerationRequest:
        sampling = self.sampling
        return replace(
            self._read(task, request_id, text, max_tokens),
            n=self.n,
            stop=tuple(self.stop),
            sampling=SamplingOverrides(
                temperature=sampling.temperature,
                min_p=sampling.min_p,
                top_p=sampling.top_p,
                top_k=sampling.top_k,
                repetition_penalty=sampling.repetition_penalty,
                seed=sampling.seed,
                order=sampling.order,
            ),
            quality=self.quality,
            deadline_ms=self.deadline_ms,
        )


def adapter_refs(adapters: list[AdapterBody] | None) -> tuple[AdapterRef, ...] | None:
    if adapters is None:
        return None
    return tuple(AdapterRef(adapter.name, adapter.scale) for adapter in adapters)


def persona_request(persona: Literal["auto", "off"] | PersonaBody) -> PersonaRequest:
    if not isinstance(persona, PersonaBody):
        return PersonaRequest(mode=persona)
    return PersonaRequest(
        strength=persona.strength,
        documents=tuple(persona.documents),
        exclude=tuple(persona.exclude),
    )


class ContinueBody(WritingBody):
    """`POST /v1/continue`."""

    text: TextToContinue = Field(description="Everything before the caret, or the last part of it.")
    suffix: Text = Field("", description="After the caret; candidates lead into it.")
    max_tokens: int = Field(24, ge=1, le=1024)

    def to_request(self, request_id: str) -> GenerationRequest:
        request = self._shared("continue", request_id, self.text, self.max_tokens)
        return replace(request, suffix=self.suffix)


class RephraseBody(WritingBody):
    """`POST /v1/rephrase`."""

    text: TextToChange = Field(description="The selection.")
    before: Text = ""
    after: Text = ""
    instruction: str = Field("", max_length=2_000)
    explain: bool = Field(False, description="Adds `changes` to each choice.")
    max_tokens: int | None = Field(
        None, ge=1, le=1024, description="Unset: half as much again as the selection takes."
    )

    def to_request(self, request_id: str) -> GenerationRequest:
        request = self._shared("rephrase", request_id, self.text, self.max_tokens)
        return replace(request, before=self.before, after=self.after, instruction=self.instruction)


class StoryBody(WritingBody):
    """`POST /v1/story`."""

    prompt: TextToChange = Field(description="The premise.")
    max_tokens: int = Field(512, ge=1, le=1024)

    def to_request(self, request_id: str) -> GenerationRequest:
        return self._shared("story", request_id, self.prompt, self.max_tokens)


class WarmBody(PromptBody):
    """`POST /v1/warm`: what the request that is expected will send, as far as the model reads it."""

    task: Literal["continue", "rephrase", "story"] = "continue"
    text: TextToContinue = Field(
        description="Before the caret, or the selection, or the premise: what that task takes."
    )
    before: Text = Field("", description="Of a rephrasing.")
    after: Text = Field("", description="Of a rephrasing.")
    instruction: str = Field("", max_length=2_000, description="Of a rephrasing.")
    max_tokens: int | None = Field(
        None,
        ge=1,
        le=1024,
        description="As the request will have it; unset: the task's own default.",
    )

    def to_request(self, request_id: str) -> GenerationRequest:
        request = self._read(self.task, request_id, self.text, self.max_tokens)
        return replace(
            request,
            before=self.before,
            after=self.after,
            instruction=self.instruction,
            ahead=True,
        )
