"""What the API says about suggestions and statistics."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Literal, cast

from typing_extensions import TypedDict

from api.document_answers import ReceiptAnswer
from usage.desk import UsageReport
from usage.records import Erased, Recorded, UsageConsent


class FeedbackAnswer(TypedDict):
    """reason: why nothing was recorded. Neither is an error: the client need not know what the user decided."""

    recorded: bool
    reason: Literal["off", "unknown_request"] | None


class UsageConsentAnswer(TypedDict):
    """Times are Unix seconds, null: never decided."""

    counts: bool
    texts: bool
    counts_decided_at: float | None
    texts_decided_at: float | None


class RateAnswer(TypedDict):
    """accepted includes edited; ignored: shown, and nothing more was heard.

    rate: accepted of shown; low and high: its 95 % Wilson interval. kept_share: of the characters shown.
    """

    value: str
    shown: int
    accepted: int
    edited: int
    rejected: int
    ignored: int
    rate: float | None
    low: float | None
    high: float | None
    kept_share: float | None


class RatesAnswer(TypedDict):
    """The suggestions, all of them and by kind; ranges such as "0.08-0.11" are without their upper end."""

    all: list[RateAnswer]
    task: list[RateAnswer]
    adapters: list[RateAnswer]
    min_p: list[RateAnswer]
    persona_strength: list[RateAnswer]


class StatsAnswer(TypedDict):
    """features: uses by route. active_days: days (UTC) with any. n_pairs: preference pairs in the texts."""

    consent: UsageConsentAnswer
    first_day: str | None
    active_days: int
    features: dict[str, int]
    suggestions: RatesAnswer
    n_texts: int
    n_pairs: int


class ErasedAnswer(TypedDict):
    """What was forgotten; n_bytes of files were overwritten."""

    n_suggestions: int
    n_texts: int
    n_bytes: int


class EverythingForgotten(ReceiptAnswer):
    """statistics: null where the daemon keeps none."""

    statistics: ErasedAnswer | None


def feedback_answer(recorded: Recorded) -> FeedbackAnswer:
    """As clients read it."""
    if recorded == "recorded":
        return {"recorded": True, "reason": None}
    return {"recorded": False, "reason": recorded}


def usage_consent_answer(consent: UsageConsent) -> UsageConsentAnswer:
    """As clients read it."""
    return cast("UsageConsentAnswer", asdict(consent))


def stats_answer(report: UsageReport) -> StatsAnswer:
    """As clients read it."""
    rates: Any = {kind: [asdict(rate) for rate in found] for kind, found in report.rates.items()}
    return {
        "consent": usage_consent_answer(report.consent),
        "first_day": report.first_day,
        "active_days": report.active_days,
        "features": report.features,
        "suggestions": cast("RatesAnswer", rates),
        "n_texts": report.n_texts,
        "n_pairs": report.n_pairs,
    }


def erased_answer(erased: Erased) -> ErasedAnswer:
    """As clients read it."""
    return cast("ErasedAnswer", asdict(erased))
