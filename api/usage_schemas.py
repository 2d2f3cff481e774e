"""What clients may send about suggestions and statistics."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from api.schemas import MAX_TEXT_CHARS, Body, Text
from usage.records import Feedback, Outcome


class FeedbackBody(Body):
    """`POST /v1/feedback`: what became of one choice of an answer."""

    request_id: Annotated[str, Field(min_length=1, max_length=128)] = Field(
        description="The `id` of the answer; answers are remembered for 15 minutes, the newest 256."
    )
    choice: int = Field(0, ge=0, le=15, description="Its `index`.")
    outcome: Outcome = Field(
        description="The newest one holds; `shown` never takes another back. `edited` is accepted too."
    )
    accepted_chars: Annotated[int, Field(ge=0, le=MAX_TEXT_CHARS)] | None = Field(
        None, description="Code points that were taken, of a choice taken in part."
    )
    text: Text | None = Field(
        None,
        description="What the user made of it. Dropped unless they agreed that texts are kept.",
    )

    @field_validator("accepted_chars")
    @classmethod
    def _of_a_taken_choice(cls, accepted_chars: int | None, info: ValidationInfo) -> int | None:
        if accepted_chars is not None and info.data.get("outcome") in ("shown", "rejected"):
            raise PydanticCustomError("invalid_value", "goes with `accepted` and `edited`")
        return accepted_chars

    @field_validator("text")
    @classmethod
    def _of_an_edited_choice(cls, text: str | None, info: ValidationInfo) -> str | None:
        if text is not None and info.data.get("outcome", "edited") != "edited":
            raise PydanticCustomError("invalid_value", "goes with `edited`")
        return text

    def to_feedback(self) -> Feedback:
        """The order for the desk."""
        return Feedback(
            request_id=self.request_id,
            choice=self.choice,
            outcome=self.outcome,
            accepted_chars=self.accepted_chars,
            text=self.text,
        )


class UsageConsentBody(Body):
    """`PUT /v1/stats/consent`; what is left out stays as it is."""

    counts: bool | None = Field(None, description="Numbers without text. Off takes `texts` along.")
    texts: bool | None = Field(
        None,
        description="Suggestions with what became of them; only while `counts` is on already. "
        "Off erases them.",
    )
