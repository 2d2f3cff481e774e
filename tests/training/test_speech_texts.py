"""What is read aloud for dictation: plain words, two sides that never meet, near misses that are no commands."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from pushkin_runtime.tokenizer import TextTokenizer
from training.speech_examples import Pieces
from training.speech_phrases import COMMANDS, EVERYDAY, NEAR_MISSES, SPELLED, expand
from training.speech_synthesis import Room
from training.speech_texts import is_test, phrases, words

BASE = Path(__file__).parents[2] / "models" / "pushkin-mini"
COUNTS = {"command": 60, "near_miss": 60, "everyday": 40, "spelled": 40}


@pytest.fixture(scope="module")
def pieces() -> Pieces:
    return Pieces(TextTokenizer(BASE / "tokenizer.json", 16_384), BASE / "tokenizer.json")


@pytest.mark.parametrize("language", ["en", "ru"])
def test_phrases_are_the_seeds_own_and_each_on_one_side(language: str) -> None:
    train = phrases(language, "train", COUNTS, seed=1)
    assert train == phrases(language, "train", COUNTS, seed=1)
    assert train != phrases(language, "train", COUNTS, seed=2)
    test = phrases(language, "test", COUNTS, seed=1)
    assert len(train) == 200
    assert not {u.text for u in train} & {u.text for u in test}
    assert all(is_test(u.text) for u in test)
    assert {u.kind for u in test if u.source == "command"} == {"cmd"}
    assert {u.kind for u in test if u.source != "command"} == {"dict"}


@pytest.mark.parametrize("language", ["en", "ru"])
def test_no_near_miss_is_a_command(language: str) -> None:
    rng = random.Random(0)
    commands = {words(expand(p, language, rng)) for p in COMMANDS[language] for _ in range(300)}
    misses = {words(expand(p, language, rng)) for p in NEAR_MISSES[language] for _ in range(100)}
    assert not commands & misses


@pytest.mark.parametrize("language", ["en", "ru"])
def test_every_phrase_survives_its_pieces(language: str, pieces: Pieces) -> None:
    rng = random.Random(0)
    known = set(pieces.ids.tolist())
    for table in (COMMANDS, NEAR_MISSES, EVERYDAY, SPELLED):
        for pattern in table[language]:
            text = words(expand(pattern, language, rng))
            ids = pieces.encode(text)
            assert set(ids) <= known
            assert pieces.decode(ids) == text
    assert pieces.encode("") == []
    assert len(pieces.ids) < 400


def test_words_are_what_is_scored() -> None:
    assert words("He said, “Don’t!”  Ёлка — U.N.") == "he said don't елка u n"


def test_a_room_keeps_the_words_and_their_level_finite() -> None:
    room = Room([np.ones(800, np.float32)], [np.eye(1, 4000, dtype=np.float32)[0]])
    speech = np.sin(np.arange(16_000) / 20).astype(np.float32)
    for seed in range(20):
        heard = room.hear(speech, random.Random(seed))
        assert np.isfinite(heard).all()
        assert len(heard) > 13_000
        assert 0.01 < np.abs(heard).max() <= 1
        assert np.array_equal(heard, room.hear(speech, random.Random(seed)))
        assert np.isfinite(room.noise(4_000, random.Random(seed))).all()
