"""The statistics: off by default, counts by one decision, texts by a second, everything forgotten on request."""

from __future__ import annotations

import json
import sqlite3
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pushkin_runtime.sampling_types import SamplingParams
from pushkin_runtime.types import (
    AdapterRef,
    Choice,
    GenerationRequest,
    GenerationResult,
    PersonaUsed,
    Timings,
    Usage,
)
from usage.desk import UsageDesk
from usage.errors import ChoiceUnknown, TextConsentEarly, UsageClosed, UsageFault
from usage.recent import KEPT_S, MAX_ANSWERS
from usage.records import Feedback, Outcome
from usage.store import KEPT_DAYS

CANARY = "канарейка-canary-5f1c"
NOON = 1_800_000_000.0


class Clock:
    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "stats.sqlite3"


@pytest.fixture
def open_desk(path: Path, clock: Clock) -> Iterator[Callable[[], UsageDesk]]:
    desks: list[UsageDesk] = []

    def opened() -> UsageDesk:
        desk = UsageDesk(path, clock=clock)
        desks.append(desk)
        desk.start().result()
        return desk

    yield opened
    for desk in desks:
        desk.close()


@pytest.fixture
def desk(open_desk) -> UsageDesk:
    return open_desk()


def answer(
    desk: UsageDesk,
    request_id: str = "r1",
    *,
    text: str = "Before",
    choices: tuple[str, ...] = (" one", " two", " three"),
    adapters: tuple[AdapterRef, ...] = (AdapterRef("continue"),),
    min_p: float = 0.1,
    persona: PersonaUsed | None = None,
) -> None:
    request = GenerationRequest(request_id=request_id, task="continue", text=text)
    result = GenerationResult(
        request_id=request_id,
        model="m",
        adapters=adapters,
        persona=persona or PersonaUsed(),
        sampling=SamplingParams(min_p=min_p),
        choices=tuple(
            Choice(index=i, text=t, finish_reason="stop", score=0.0) for i, t in enumerate(choices)
        ),
        usage=Usage(prompt_tokens=1, cached_tokens=0, completion_tokens=1),
        timings=Timings(
            queue_ms=0, adapter_ms=0, persona_ms=0, prefill_ms=0, ttft_ms=0, decode_ms=0,
            total_ms=0, tokens_per_second=0,
        ),
    )  # fmt: skip
    desk.remember(request, result)


def say(desk: UsageDesk, outcome: Outcome, choice: int = 0, request_id: str = "r1", **more) -> str:
    feedback = Feedback(request_id=request_id, choice=choice, outcome=outcome, **more)
    return desk.feedback(feedback).result()


def pairs(desk: UsageDesk) -> list[dict[str, str]]:
    return [json.loads(line) for line in desk.pairs().result()]


# -- consent -------------------------------------------------------------------------------------


def test_off_by_default_and_asking_makes_no_file(desk, path):
    answer(desk)
    desk.count("POST /v1/continue")

    assert say(desk, "accepted") == "off"
    report = desk.report().result()
    assert not report.consent.counts
    assert (report.features, report.rates["all"], report.n_texts) == ({}, [], 0)
    assert not path.exists()


def test_the_file_is_private(desk, path):
    desk.decide(counts=True).result()

    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_decisions_outlive_the_process(open_desk):
    first = open_desk()
    first.decide(counts=True).result()
    first.decide(texts=True).result()
    first.close()

    consent = open_desk().start().result()
    assert (consent.counts, consent.texts) == (True, True)
    assert consent.texts_decided_at == NOON


def test_texts_take_a_second_decision(desk):
    for decision in ({"texts": True}, {"counts": True, "texts": True}):
        with pytest.raises(TextConsentEarly, match="first"):
            desk.decide(**decision).result()
    assert not desk.start().result().counts

    desk.decide(counts=True).result()
    assert desk.decide(texts=True).result().texts


def test_without_counts_there_are_no_texts(desk, path):
    desk.decide(counts=True).result()
    desk.decide(texts=True).result()
    answer(desk, text=CANARY)
    say(desk, "rejected")
    assert desk.report().result().n_texts == 2

    consent = desk.decide(counts=False).result()

    assert (consent.counts, consent.texts) == (False, False)
    assert desk.report().result().n_texts == 0
    assert say(desk, "accepted") == "off"


def test_withdrawing_the_texts_overwrites_them_on_disk(desk, path):
    desk.decide(counts=True).result()
    desk.decide(texts=True).result()
    answer(desk, text=CANARY, choices=(f"a {CANARY}", "b"))
    say(desk, "accepted")
    answer(desk, "r2", text=CANARY)

    desk.decide(texts=False).result()

    written = b"".join(file.read_bytes() for file in path.parent.iterdir())
    assert CANARY.encode() not in written
    assert say(desk, "accepted", request_id="r2") == "unknown_request"  # forgotten with its text
    assert desk.report().result().rates["all"][0].accepted == 1


def test_no_text_reaches_the_disk_without_the_second_consent(desk, path):
    desk.decide(counts=True).result()
    answer(desk, CANARY, text=CANARY, choices=(CANARY, CANARY + "2"))
    say(desk, "edited", request_id=CANARY, text=f"{CANARY}!")
    desk.close()

    written = b"".join(file.read_bytes() for file in path.parent.iterdir())
    assert CANARY.encode() not in written
    assert b"continue" in written


def test_forgetting_erases_the_file_and_the_decisions(desk, path):
    desk.decide(counts=True).result()
    desk.decide(texts=True).result()
    answer(desk)
    say(desk, "rejected")
    desk.count("x")

    erased = desk.forget().result()

    assert (erased.n_suggestions, erased.n_texts) == (1, 2)
    assert erased.n_bytes > 0
    assert list(path.parent.iterdir()) == []
    assert not desk.start().result().counts
    assert desk.report().result().features == {}


# -- counts --------------------------------------------------------------------------------------


def test_features_are_counted_by_day(open_desk, clock):
    desk = open_desk()
    desk.decide(counts=True).result()
    for _ in range(3):
        desk.count("POST /v1/continue")
    clock.now += 86_400
    desk.count("POST /v1/rephrase")
    desk.close()

    report = open_desk().report().result()
    assert report.features == {"POST /v1/continue": 3, "POST /v1/rephrase": 1}
    assert (report.active_days, report.first_day) == (2, "2027-01-15")


def test_the_newest_outcome_holds_and_shown_takes_nothing_back(desk):
    desk.decide(counts=True).result()
    answer(desk)
    say(desk, "shown")
    say(desk, "accepted", accepted_chars=2)
    say(desk, "shown")
    (rate,) = desk.report().result().rates["all"]
    assert (rate.shown, rate.accepted, rate.ignored, rate.kept_share) == (1, 1, 0, 0.5)

    say(desk, "rejected")
    (rate,) = desk.report().result().rates["all"]
    assert (rate.shown, rate.accepted, rate.rejected, rate.kept_share) == (1, 0, 1, 0.0)


def test_rates_are_told_by_adapter_min_p_and_persona_strength(desk):
    desk.decide(counts=True).result()
    formal = (AdapterRef("continue"), AdapterRef("formal", 0.5))
    answer(desk, "a", min_p=0.05, persona=PersonaUsed(version=3, strength=1.0))
    answer(desk, "b", min_p=0.1, adapters=formal)
    answer(desk, "c", min_p=0.1, adapters=())
    say(desk, "accepted", request_id="a")
    say(desk, "rejected", request_id="b")
    say(desk, "shown", request_id="c")

    rates = desk.report().result().rates

    by = {kind: {rate.value: rate for rate in found} for kind, found in rates.items()}
    assert set(by["adapters"]) == {"continue", "continue + formal:0.5", "none"}
    assert by["adapters"]["continue"].rate == 1.0
    assert by["min_p"]["0.08-0.11"].shown == 2
    assert by["min_p"]["0.05-0.08"].accepted == 1
    assert by["persona_strength"]["1-1.5"].shown == 1
    assert by["persona_strength"]["none"].rejected == 1


def test_feedback_on_what_nobody_remembers_is_told_apart(desk, clock):
    desk.decide(counts=True).result()
    assert say(desk, "accepted") == "unknown_request"
    answer(desk)
    with pytest.raises(ChoiceUnknown, match="3 choices"):
        say(desk, "accepted", choice=3)
    clock.now += KEPT_S + 1
    assert say(desk, "accepted") == "unknown_request"


def test_only_the_newest_answers_are_remembered(desk):
    desk.decide(counts=True).result()
    for number in range(MAX_ANSWERS + 1):
        answer(desk, f"r{number}")

    assert say(desk, "shown", request_id="r0") == "unknown_request"
    assert say(desk, "shown", request_id="r1") == "recorded"


def test_what_is_old_goes(open_desk, clock):
    desk = open_desk()
    desk.decide(counts=True).result()
    desk.decide(texts=True).result()
    answer(desk)
    say(desk, "rejected")
    desk.count("x")
    desk.close()
    clock.now += (KEPT_DAYS + 1) * 86_400

    report = open_desk().report().result()
    assert (report.features, report.rates["all"], report.n_texts) == ({}, [], 0)
    assert report.consent.texts


def test_the_export_has_every_row_and_no_text(desk):
    desk.decide(counts=True).result()
    desk.decide(texts=True).result()
    answer(desk, text=CANARY, choices=(CANARY,))
    say(desk, "accepted")
    desk.count("POST /v1/continue")

    lines = [json.loads(line) for line in desk.export().result()]

    assert [line["kind"] for line in lines] == ["feature", "suggestion"]
    assert lines[1]["n_chars"] == len(CANARY)
    assert CANARY not in json.dumps(lines, ensure_ascii=False)


def test_a_closed_desk_takes_nothing(desk):
    desk.close()
    desk.close()

    with pytest.raises(UsageClosed):
        desk.report()
    desk.count("x")


def test_a_broken_file_is_told_by_its_error_and_can_be_forgotten(path, clock):
    path.write_bytes(b"not a database" * 100)
    desk = UsageDesk(path, clock=clock)

    with pytest.raises(UsageFault, match="SQLITE_NOTADB"):
        desk.start().result()
    desk.count("x")
    answer(desk)  # neither is a failure: nothing is on
    assert desk.forget().result().n_bytes == 1400
    assert not path.exists()
    assert desk.decide(counts=True).result().counts
    desk.close()


def test_a_file_of_a_newer_version_is_left_alone(path, clock):
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    desk = UsageDesk(path, clock=clock)

    with pytest.raises(UsageFault, match="newer version"):
        desk.start().result()
    desk.close()


# -- preference pairs ----------------------------------------------------------------------------


@pytest.fixture
def keeping(desk) -> UsageDesk:
    """A desk whose user agreed to both."""
    desk.decide(counts=True).result()
    desk.decide(texts=True).result()
    return desk


def test_an_accepted_choice_is_preferred_to_those_shown_beside_it(keeping):
    answer(keeping, text="Он вышел")
    for choice in (0, 1):
        say(keeping, "shown", choice)
    say(keeping, "accepted", 1)

    (pair,) = pairs(keeping)
    assert (pair["prompt"], pair["chosen"], pair["rejected"]) == ("Он вышел", " two", " one")
    assert (pair["task"], pair["adapters"], pair["language"]) == ("continue", "continue", "ru")


def test_what_the_user_made_of_a_choice_is_preferred_to_it(keeping):
    answer(keeping)
    say(keeping, "edited", 2, text=" three, or four")

    (pair,) = pairs(keeping)
    assert (pair["chosen"], pair["rejected"]) == (" three, or four", " three")


def test_a_rejected_and_a_later_accepted_answer_to_the_same_prompt_make_a_pair(keeping):
    answer(keeping, "a", choices=(" bad",))
    answer(keeping, "b", choices=(" good",))
    answer(keeping, "c", text="Another", choices=(" alone",))
    say(keeping, "rejected", request_id="a")
    say(keeping, "accepted", request_id="b")
    say(keeping, "accepted", request_id="c")

    (pair,) = pairs(keeping)
    assert (pair["chosen"], pair["rejected"]) == (" good", " bad")


def test_a_partial_acceptance_says_nothing_about_the_whole(keeping):
    answer(keeping)
    say(keeping, "shown", 1)
    say(keeping, "accepted", 0, accepted_chars=2)

    assert pairs(keeping) == []


def test_the_same_pair_is_kept_once(keeping):
    for request_id in ("a", "b"):
        answer(keeping, request_id)
        say(keeping, "edited", 0, request_id, text=" 1")

    assert len(pairs(keeping)) == 1
    assert keeping.report().result().n_pairs == 1
