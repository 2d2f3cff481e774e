"""The statistics as the daemon sees them. Off until the user says so; then counts, and only by a second
decision texts.

What is told here from the inference thread and the event loop costs a dictionary entry; the file is written
on a thread of its own.
"""

from __future__ import annotations

import contextlib
import json
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from pushkin_runtime.prompt import detect_language
from pushkin_runtime.types import AdapterRef, GenerationRequest, GenerationResult
from usage.errors import ChoiceUnknown, TextConsentEarly, UsageClosed, UsageFault
from usage.pairs import pair_lines
from usage.recent import RecentAnswers, Remembered
from usage.records import Answer, Asked, Erased, Feedback, Recorded, UsageConsent
from usage.report import Rate, rates
from usage.store import UsageStore, erase_file

MAX_TEXT_CHARS = 8_000  # of each text that is remembered or kept, the part next to the caret

_FLUSH_AT = 64  # uses that may be lost with the process

log = logging.getLogger("pushkin.usage")

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageReport:
    """features: uses by feature. active_days: those with any use. n_texts: kept for pairs; n_pairs: they make."""

    consent: UsageConsent
    first_day: str | None
    active_days: int
    features: dict[str, int]
    rates: dict[str, list[Rate]]
    n_texts: int
    n_pairs: int


class UsageDesk:
    """Owned by the daemon. Every method may be called on any thread; futures raise UsageError subclasses.

    clock: Unix seconds.
    """

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.time) -> None:
        self._path, self._clock = path, clock
        self._calls = ThreadPoolExecutor(max_workers=1, thread_name_prefix="usage")
        self._store: UsageStore | None = None
        self._consent = UsageConsent()
        self._recent = RecentAnswers(clock)
        self._lock = threading.Lock()
        self._features: Counter[tuple[str, str]] = Counter()

    def start(self) -> Future[UsageConsent]:
        """Read what was decided; until then everything is off."""
        return self._call(lambda store: store.consent())

    def close(self) -> None:
        """Write what is counted and close the file; idempotent."""
        with contextlib.suppress(UsageClosed):
            self._submit(self._close_store).result()
        self._calls.shutdown()

    # -- told on the way, cheap -----------------------------------------------------------------

    def count(self, feature: str) -> None:
        """A feature was used; `feature` is a fixed word."""
        if not self._consent.counts:
            return
        day = datetime.fromtimestamp(self._clock(), UTC).date().isoformat()
        with self._lock:
            self._features[day, feature] += 1
            is_due = self._features.total() >= _FLUSH_AT
        if is_due:
            with contextlib.suppress(UsageClosed):
                self._call(lambda _: None)

    def remember(self, request: GenerationRequest, result: GenerationResult) -> None:
        """An answer was given; what is needed for its feedback is kept in memory for a while."""
        if self._consent.counts:
            self._recent.add(_answer(request, result, with_text=self._consent.texts))

    # -- asked and decided ----------------------------------------------------------------------

    def feedback(self, feedback: Feedback) -> Future[Recorded]:
        """Keep what became of a choice, if the user agreed to that. Raises ChoiceUnknown."""
        return self._call(lambda store: self._record(store, feedback))

    def decide(
        self, *, counts: bool | None = None, texts: bool | None = None
    ) -> Future[UsageConsent]:
        """Change decisions, None leaves one as it is. Without counts there are no texts; withdrawing the
        consent to texts erases them. Raises TextConsentEarly."""

        def change(store: UsageStore) -> UsageConsent:
            if texts and not self._consent.counts:
                raise TextConsentEarly(
                    "Keeping texts is a decision of its own: allow `counts` first, then `texts`.",
                    param="texts",
                )
            if counts is not None:
                store.decide("counts", counts)
            if counts is False or texts is not None:
                store.decide("texts", bool(texts) and counts is not False)
            return self._settle(store)

        return self._call(change)

    def report(self) -> Future[UsageReport]:
        """Return everything that is known, in numbers."""
        return self._call(self._report)

    def export(self) -> Future[list[str]]:
        """Lines of JSON with every row without text: features by day, and suggestions."""

        def lines(store: UsageStore) -> list[str]:
            features = [
                {"kind": "feature", "day": day, "feature": feature, "n": n}
                for day, feature, n in store.features()
            ]
            suggestions = [{"kind": "suggestion"} | asdict(s) for s in store.suggestions()]
            return [json.dumps(row) + "\n" for row in (*features, *suggestions)]

        return self._call(lines)

    def pairs(self) -> Future[list[str]]:
        """Lines of JSON with preference pairs, see `usage.pairs`; none without the user's consent."""
        return self._call(lambda store: list(pair_lines(store.judged())))

    def forget(self) -> Future[Erased]:
        """Erase everything, the decisions too: all is off afterwards. A broken file goes as well."""

        def erase() -> Erased:
            with self._lock:
                self._features.clear()
            self._recent.clear()
            self._consent = UsageConsent()
            try:
                return self._opened().erase()
            except UsageFault:
                n_bytes = erase_file(self._path)
                return Erased(n_suggestions=0, n_texts=0, n_bytes=n_bytes)

        return self._submit(erase)

    # -- on the desk's thread -------------------------------------------------------------------

    def _call(self, work: Callable[[UsageStore], T]) -> Future[T]:
        def run() -> T:
            store = self._opened()
            self._flush(store)
            return work(store)

        return self._submit(run)

    def _submit(self, work: Callable[[], T]) -> Future[T]:
        try:
            return self._calls.submit(work)
        except RuntimeError as error:
            raise UsageClosed("The daemon is shutting down.") from error

    def _opened(self) -> UsageStore:
        if self._store is None:
            try:
                self._store = UsageStore(self._path, clock=self._clock)
            except (UsageFault, OSError) as error:
                log.error("statistics cannot be opened", extra={"error_type": type(error).__name__})
                raise
            self._settle(self._store)
        return self._store

    def _close_store(self) -> None:
        if self._store is not None:
            with contextlib.suppress(UsageFault):
                self._flush(self._store)
            self._store.close()

    def _settle(self, store: UsageStore) -> UsageConsent:
        """Take over what the file says; what may not be remembered any more is forgotten."""
        self._consent = store.consent()
        if not self._consent.texts:
            store.erase_texts()
            self._recent.clear()  # the answers with their text; feedback on them is lost
        return self._consent

    def _flush(self, store: UsageStore) -> None:
        with self._lock:
            counts, self._features = self._features, Counter()
        if counts and self._consent.counts:
            store.add_features(counts)

    def _record(self, store: UsageStore, feedback: Feedback) -> Recorded:
        if not self._consent.counts:
            return "off"
        found = self._recent.find(feedback.request_id)
        if found is None:
            return "unknown_request"
        n_choices = len(found.answer.lengths)
        if feedback.choice >= n_choices:
            raise ChoiceUnknown(f"the answer has {n_choices} choices", param="choice")
        is_new = feedback.choice not in found.keys
        if is_new:
            found.keys[feedback.choice] = store.add_suggestion(found.answer, feedback.choice)
        if feedback.outcome != "shown":
            key = found.keys[feedback.choice]
            store.set_outcome(key, feedback.outcome, _accepted_chars(feedback, found.answer))
            store.judge(found.answer, _verdicts(feedback, found))
        return "recorded"

    def _report(self, store: UsageStore) -> UsageReport:
        features = store.features()
        totals: Counter[str] = Counter()
        for _, feature, n in features:
            totals[feature] += n
        days = sorted({day for day, _, _ in features})
        return UsageReport(
            consent=self._consent,
            first_day=days[0] if days else None,
            active_days=len(days),
            features=dict(totals.most_common()),
            rates=rates(store.suggestions()),
            n_texts=store.n_texts(),
            n_pairs=sum(1 for _ in pair_lines(store.judged())),
        )


def _answer(request: GenerationRequest, result: GenerationResult, *, with_text: bool) -> Answer:
    """What is remembered of an answer; a prompt that came as tokens has no text."""
    texts = tuple(choice.text for choice in result.choices)
    asked = None
    if with_text and request.text:
        asked = Asked(
            prompt=request.text[-MAX_TEXT_CHARS:],
            suffix=request.suffix[:MAX_TEXT_CHARS],
            before=request.before[-MAX_TEXT_CHARS:],
            after=request.after[:MAX_TEXT_CHARS],
            instruction=request.instruction,
            language=request.control.language or detect_language(request.text),
        )
    return Answer(
        request_id=request.request_id,
        task=request.task,
        adapters=" + ".join(_shown(ref) for ref in result.adapters),
        min_p=result.sampling.min_p,
        persona_strength=result.persona.strength if result.persona.version else 0.0,
        lengths=tuple(len(text) for text in texts),
        asked=asked,
        choices=texts if asked is not None else None,
    )


def _shown(ref: AdapterRef) -> str:
    return ref.name if ref.scale == 1 else f"{ref.name}:{ref.scale:g}"


def _accepted_chars(feedback: Feedback, answer: Answer) -> int:
    if feedback.outcome == "rejected":
        return 0
    length = answer.lengths[feedback.choice]
    return length if feedback.accepted_chars is None else min(length, feedback.accepted_chars)


def _verdicts(feedback: Feedback, found: Remembered) -> dict[str, bool]:
    """Which texts were good and which bad, as far as `feedback` says.

    Accepting a choice rejects those shown beside it; accepting a part of one says nothing about the whole.
    """
    choices = found.answer.choices
    if choices is None:
        return {}
    text = choices[feedback.choice]
    beside = {choices[i] for i in found.keys if i != feedback.choice} - {text}
    others = dict.fromkeys(beside, False)
    match feedback.outcome:
        case "rejected":
            verdicts = {text: False}
        case "edited" if feedback.text and feedback.text != text:
            verdicts = {**others, text: False, feedback.text[:MAX_TEXT_CHARS]: True}
        case "accepted" if _accepted_chars(feedback, found.answer) == len(text):
            verdicts = {**others, text: True}
        case _:
            verdicts = {}
    return {text: is_good for text, is_good in verdicts.items() if text}
