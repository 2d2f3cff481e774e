"""Limits do the commands of a planted set and nothing else, and serving reads what was written."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest

from audio.phrase_match import PhraseMatch
from audio.recognizer import Hypothesis
from benchmarks.command_calibration import Trial, limits_for, shares, write_limits
from benchmarks.command_phrases import Role, Said, texts
from pushkin_runtime.errors import ModelCorrupt
from pushkin_runtime.speech_folder import read_projector
from pushkin_runtime.speech_types import CommandLimits
from tests.pushkin_runtime.speech_files import write_encoder, write_projector

RNG = np.random.default_rng(0)


@cache
def text_of(language: str, role: Role) -> str:
    [text] = texts(language, role, "calibration", 1)
    return text


def trial(role: Role, language: str, *, loss: float, p_command: float = 0.5) -> Trial:
    phrase = PhraseMatch(
        text="undo", per_piece=loss, edge=2 * loss, peak=5 * loss, loss=9 * loss, ahead=3.0, so_far=loss
    )  # fmt: skip
    found = Hypothesis(kind="dict", text="of", p_command=p_command, n_tokens=1, phrase=phrase)
    return Trial(
        Said(text_of(language, role), language, role, "a voice", np.zeros(1, np.float32)),
        found,
        loss + 0.5,
    )


def trials(*, gap: float, p_near: float = 0.5) -> list[Trial]:
    """Commands of losses 1 to 2; near misses from 2 + gap on."""
    return [
        trial(role, language, loss=float(loss) + (1 + gap) * (role == "near_miss"), p_command=p)
        for language in ("en", "ru")
        for role, p in (("command", 0.5), ("near_miss", p_near))
        for loss in RNG.uniform(1, 2, 60)
    ]


def test_what_lies_apart_is_told_apart_by_the_tightest_limits() -> None:
    heard = trials(gap=0.3)
    limits = limits_for(heard)
    assert 1.9 < limits.do_within.per_piece < 2.1
    assert limits.do_within.edge < 4.2
    assert limits.offer_within.per_piece > limits.do_within.per_piece
    assert 2.3 < limits.may_become_at < 2.6
    for found in shares(heard, limits).values():
        assert found["closed_commands_done"] >= 58
        assert found["others_done"] == 0


def test_the_first_token_objects_where_sound_alone_does_not_tell() -> None:
    told = trials(gap=-1.0, p_near=0.1)
    limits = limits_for(told)
    assert 0.1 < limits.do_at <= 0.5
    assert limits.offer_at < limits.do_at
    assert all(own["others_done"] == 0 for own in shares(told, limits).values())


def test_a_model_that_hears_the_opposite_has_no_limits() -> None:
    with pytest.raises(ValueError, match="is this speech model trained"):
        limits_for(trials(gap=-2.0))


def test_a_wrong_command_is_worse_than_some_that_are_not_done() -> None:
    heard = [t for t in trials(gap=0.3) if t.said.role == "command" or t.said.language == "en"]
    heard += [trial("near_miss", "ru", loss=float(loss)) for loss in RNG.uniform(1.7, 2.5, 60)]
    limits = limits_for(heard)
    found = shares(heard, limits)
    assert found["ru"]["others_done"] <= 2
    assert 30 < found["en"]["closed_commands_done"] < found["en"]["closed_commands"]


def test_what_is_written_is_what_serving_reads(tmp_path: Path) -> None:
    write_encoder(tmp_path / "tiny-whisper")
    folder = tmp_path / "dictate"
    write_projector(folder, tmp_path / "tiny-whisper", "0" * 64, 64)
    assert read_projector(folder).limits == CommandLimits()
    limits = limits_for(trials(gap=0.3))
    write_limits(folder, limits)
    assert read_projector(folder).limits == limits
    with pytest.raises(ModelCorrupt):
        write_limits(tmp_path, limits)
