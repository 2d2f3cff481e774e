"""What `GET /v1/persona` says: how much is known of the user's writing, and what it looks like."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from typing_extensions import TypedDict

from indexer.consent import GlobalConsent
from indexer.portrait import Portrait, portrait
from indexer.predictability import min_p_for, predictability
from indexer.records import DocumentRecord
from indexer.store import Totals
from indexer.word_choice import general_frequencies

DEFAULT_STRENGTH = 1.0  # what a request's persona.strength is when it is not given


@dataclass(frozen=True, slots=True, kw_only=True)
class Learned:
    """What the index tells. profiled: as `DocumentIndex.profiles` gives it."""

    consent: GlobalConsent
    totals: Totals
    profiled: tuple[list[DocumentRecord], dict[str, str]]


class PersonaOverview(TypedDict):
    """What was learned. While consent is off nothing of it is used, and there is no portrait.

    version: changes with every vector that a persona could be made of. languages: paragraphs by language.
    strength: of requests that name none. predictability: 0 to 1, and the min-p that follows from it.
    portrait: null also when no document was counted.
    """

    version: int
    consent: GlobalConsent
    n_documents: int
    n_paragraphs: int
    n_words: int
    n_bytes: int
    languages: dict[str, int]
    strength: float
    predictability: float | None
    min_p: float | None
    portrait: Portrait | None


def persona_answer(learned: Learned) -> PersonaOverview:
    """Draw the portrait; up to some seconds of work for thousands of documents."""
    totals = learned.totals
    documents, profiles = learned.profiled
    weights = {document.id: document.weight for document in documents}
    drawn = None
    if learned.consent != "off" and profiles:
        found = portrait(profiles, weights, general_frequencies)
        drawn = found if found.documents else None
    certain = predictability(drawn) if drawn and drawn.languages else None
    return {
        "version": totals.generation,
        "consent": learned.consent,
        "n_documents": totals.n_documents,
        "n_paragraphs": totals.n_paragraphs,
        "n_words": totals.n_words,
        "n_bytes": totals.n_bytes,
        "languages": totals.languages,
        "strength": DEFAULT_STRENGTH,
        "predictability": None if certain is None else round(certain, 3),
        "min_p": None if certain is None else round(min_p_for(certain), 4),
        "portrait": drawn,
    }


def as_json(answer: PersonaOverview) -> dict[str, Any]:
    """The same as plain data."""
    drawn = answer["portrait"]
    return {**answer, "portrait": asdict(drawn) if drawn else None}
