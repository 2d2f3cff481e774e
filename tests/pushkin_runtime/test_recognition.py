"""Dictation's recogniser on the real runtime, with a speech model of the right shape and no training."""

from __future__ import annotations

import numpy as np
import pytest

from audio.recognizer import Recognition
from audio.runtime_recognizer import RuntimeRecognizer
from pushkin_runtime.errors import CapabilityMissing
from pushkin_runtime.runtime import Runtime
from tests.pushkin_runtime.speech_files import speechlike
from tests.pushkin_runtime.test_dictation import installed, runtime

__all__ = ["installed", "runtime"]  # fixtures


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


def test_a_pass_that_nobody_wants_ends_and_leaves_nothing_running(runtime: Runtime) -> None:
    found = RuntimeRecognizer(runtime).recognize(wanted(speechlike(1.5)), lambda: True)

    assert (found.kind, found.text) == ("none", "")
    assert runtime.status().n_active + runtime.status().n_queued <= 1


def test_without_a_speech_model_it_says_so_before_anybody_speaks(tiny_model, start_runtime) -> None:
    deaf = start_runtime(tiny_model, engine="torch")
    with pytest.raises(CapabilityMissing, match="speech model"):
        RuntimeRecognizer(deaf).prepare()
