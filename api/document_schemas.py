"""What clients may send about documents and consent."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from api.schemas import MAX_INT64, Body, DocumentId
from indexer.consent import Decision, GlobalConsent
from indexer.records import Push, PushedText

MAX_DOCUMENT_CHARS = 16_000_000
MAX_RANGES = 1000

Revision = Annotated[int, Field(ge=0, le=MAX_INT64)]
Offset = Annotated[int, Field(ge=0, le=2 * MAX_DOCUMENT_CHARS)]
FolderName = Annotated[str, Field(min_length=1, max_length=64)]


class OriginRange(Body):
    """A part of the text that somebody else than the user wrote; it never enters the persona."""

    offset_utf16: Offset
    length_utf16: Annotated[int, Field(ge=1, le=2 * MAX_DOCUMENT_CHARS)]
    origin: Literal["ai"]


class DocumentBody(Body):
    """`PUT /v1/documents/{id}`: the whole document as it is now."""

    text: str = Field(max_length=MAX_DOCUMENT_CHARS, description='"" takes its paragraphs out.')
    format: Literal["plain", "markdown"] = "plain"
    revision: Revision | None = Field(
        None, description="An older one than what is indexed changes nothing."
    )
    consent: bool = Field(
        False, description='Whether the user has agreed; needed while the global consent is "ask".'
    )
    ranges: list[OriginRange] = Field([], max_length=MAX_RANGES)

    def to_push(self, document_id: str) -> Push:
        """The order for the index."""
        return Push(
            document_id=document_id,
            content=PushedText(
                text=self.text,
                markdown=self.format == "markdown",
                ai_ranges=tuple((r.offset_utf16, r.length_utf16) for r in self.ranges),
            ),
            revision=self.revision,
            consent_given=self.consent,
        )


class RebuildBody(Body):
    """`POST /v1/index/rebuild`."""

    force: bool = Field(
        False, description="Serve a new embedding space even if documents are missing from it."
    )


class ConsentBody(Body):
    """`PUT /v1/consent`; what is left out stays as it is."""

    global_: GlobalConsent | None = Field(None, alias="global")
    documents: dict[DocumentId, Decision] = Field(
        {}, max_length=1000, description='"exclude" deletes the document as well.'
    )


class FolderBody(Body):
    """`POST /v1/folders`: a folder of the configuration, by its name there."""

    name: FolderName
    consent: bool = False
