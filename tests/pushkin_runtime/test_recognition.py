"""Dictation's recogniser on the real runtime, with a speech model of the right shape and no training."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from audio.recognizer import Recognition
from audio.runtime_recognizer import RuntimeRecognizer
from pushkin_runtime.errors import CapabilityMissing, ModelCorrupt
from pushkin_runtime.runtime import Runtime
from pushkin_runtime.speech_folder import read_projector
from pushkin_runtime.speech_types import CommandLimits, PhraseLimits
from tests.pushkin_runtime.speech_files import speechlike
from tests.pushkin_runtime.test_dictation import installed, runtime

__all__ = ["installed", "runtime"]  # fixtures


OWN = CommandLimits(
    do_at=0.4,
    offer_at=0.2,
    do_within=PhraseLimits(per_piece=2.0, edge=5.0, peak=20.0, ahead=1.0),
    may_become_at=3.0,
)


def state_limits(installed: Path, stored: Any) -> Path:
    """Write them into the speech model's manifest; its folder."""
    manifest = installed / "adapters" / "dictate" / "speech-projector.json"
    content = json.loads(manifest.read_text())
    content["settings"]["commands"] = stored
    manifest.write_text(json.dumps(content))
    return manifest.parent


def wanted(audio: np.ndarray, **changes) -> Recognition:
    fields = {"before": "It was ", "after": "", "languages": ("en", "ru"), "max_tokens": 6}
    return Recognition(audio=audio, start=0, is_final=True, **(fields | changes))


def test_sound_becomes_words_and_the_odds_of_a_command(runtime: Runtime) -> None:
    recognizer = RuntimeRecognizer(runtime)
    assert recognizer.prepare().max_samples > 0
    found = recognizer.recognize(wanted(speechlike(1.5)), lambda: False)
    again = recognizer.recognize(wanted(speechlike(1.5)), lambda: False)

    assert found == again
    assert found.kind in ("dict", "cmd", "none")
    assert 0 <= found.p_command <= 1
    assert found.n_tokens <= 6


def test_what_makes_a_command_is_as_the_speech_models_manifest_says(
    installed: Path, runtime: Runtime
) -> None:
    state_limits(installed, asdict(OWN))  # the speech model is read when somebody speaks
    found = RuntimeRecognizer(runtime).recognize(wanted(speechlike(1.5)), lambda: False)
    assert found.limits == OWN


def test_a_speech_model_that_says_nothing_of_commands_has_the_defaults(runtime: Runtime) -> None:
    found = RuntimeRecognizer(runtime).recognize(wanted(speechlike(1.5)), lambda: False)
    assert found.limits == CommandLimits()


@pytest.mark.parametrize(
    "change",
    [
        {"do_at": "0.4"},
        {"do_at": float("nan")},
        {"may_become_at": True},
        {"offer_within": {"per_piece": 2.0}},
        {"do_within": [1, 2, 3, 4]},
        {"another": 1.0},
    ],
)
def test_limits_that_are_none_are_a_damaged_model(installed: Path, change: dict[str, Any]) -> None:
    folder = state_limits(installed, asdict(OWN) | change)
    with pytest.raises(
        ModelCorrupt, match=r"commands must have just the numbers do_at|not valid JSON"
    ):
        read_projector(folder)
    for incomplete in ({}, {"do_at": 0.4}, "0.4", 1):
        with pytest.raises(ModelCorrupt, match="commands must have"):
            read_projector(state_limits(installed, incomplete))


def test_a_pass_that_nobody_wants_ends_and_leaves_nothing_running(runtime: Runtime) -> None:
    found = RuntimeRecognizer(runtime).recognize(wanted(speechlike(1.5)), lambda: True)

    assert (found.kind, found.text) == ("none", "")
    assert runtime.status().n_active + runtime.status().n_queued <= 1


def test_without_a_speech_model_it_says_so_before_anybody_speaks(tiny_model, start_runtime) -> None:
    deaf = start_runtime(tiny_model, engine="torch")
    with pytest.raises(CapabilityMissing, match="speech model"):
        RuntimeRecognizer(deaf).prepare()
