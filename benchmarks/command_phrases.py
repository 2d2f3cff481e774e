"""What is said to measure command decisions: commands of the grammar, sentences that nearly are some, and plain dictation.

Two sets share neither a phrase nor a voice: thresholds come from `calibration`, figures from `report`. Voices are those that
training kept for scoring; a phrase's set is decided by the digest of its words. All is lower case and in words, as it is spoken.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, cycle, islice, product
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from audio.command_phrases import closed_phrases
from audio.commands import Command, parse
from training.speech_phrases import EVERYDAY, NEAR_MISSES, expand
from training.speech_synthesis import Room, speak
from training.speech_texts import Utterance, is_test, words

Set = Literal["calibration", "report"]
Role = Literal["command", "near_miss", "dictation"]

_CALIBRATION_VOICES = ("m7", "f5", "klatt2", "belinda", "robert")
_TRIES = 60


@dataclass(frozen=True, slots=True, eq=False)
class Said:
    """An utterance and how it sounds: samples (n,) float32 at 16 kHz."""

    text: str
    language: str
    role: Role
    voice: str
    samples: NDArray[np.float32]


def commands(language: str) -> list[str]:
    """Every way to ask that is measured, in a fixed order; each is in the grammar."""
    old, new, patterns = _REPLACED[language]
    replaced = [p.format(a, b) for p, a, b in product(patterns, old, new)]
    return [*closed_phrases()[language], *replaced]


def is_closed(text: str) -> bool:
    """Whether a command has no words of the user's own."""
    return any(text in phrases for phrases in closed_phrases().values())


_REPLACED = {
    "en": (
        ("river", "letter", "captain", "morning"),
        ("garden", "doctor", "evening", "window"),
        ("replace {} with {}", "change the word {} to {}"),
    ),
    "ru": (
        ("река", "письмо", "капитан", "утро"),
        ("сад", "доктор", "вечер", "окно"),
        ("замени {} на {}", "замени слово {} на {}"),
    ),
}
_FRAMES = {
    "en": (
        "he told me to {}", "{} is what she said", "never say {} in here", "i would {} if i could", "{} and go home",
        "the button called {} is red", "do not {} yet", "they wanted to {} but could not", "{} was the first thing he wrote", "{} of his life",
        "please do not {} my friend", "why did you {} again", "we {} every day", "{} about the war", "{} from the old house",
    ),
    "ru": (
        "он сказал мне {}", "{} сказала она", "никогда не говори {}", "если хочешь то {} сам", "{} и иди домой", "кнопка {} красная",
        "я услышал {} и обернулся", "зачем мне говорить {}", "{} было первым что он написал", "он просил {} но я забыл", "слова {} ничего не значат",
        "{} в его жизни", "{} про войну", "мы решили что {} это шутка", "{} из старого дома",
    ),
}  # fmt: skip


def texts(language: str, role: Role, which: Set, n: int) -> list[str]:
    """`n` texts of a set. Of commands as many of each kind (delete, undo, …), so short lists come round again."""
    rng = random.Random(f"{language}:{role}:{which}")
    if role == "command":
        kinds: dict[str, list[str]] = {}
        for text in commands(language):
            meaning = parse(text)
            if _set_of(text) == which and isinstance(meaning, Command):
                kinds.setdefault(meaning.name, []).append(text)
        for own in kinds.values():
            rng.shuffle(own)
        turns = zip(*(cycle(own) for own in kinds.values()), strict=True)
        return [*islice(chain.from_iterable(turns), n)]
    found: dict[str, None] = {}
    while len(found) < n:
        text = words(_not_asked(language, role, rng))
        if _set_of(text) == which and not isinstance(parse(text), Command):
            found[text] = None
    return list(found)


def _not_asked(language: str, role: Role, rng: random.Random) -> str:
    """A sentence that is no command, and that training has not seen."""
    if role == "near_miss" and rng.random() < 0.5:
        return rng.choice(_FRAMES[language]).format(rng.choice(commands(language)))
    table = (EVERYDAY if role == "dictation" else NEAR_MISSES)[language]
    while True:
        text = expand(rng.choice(table), language, rng)
        if is_test(text):
            return text


def say_all(language: str, role: Role, which: Set, sentences: Sequence[str]) -> Iterator[Said]:
    """The sentences, each in a voice of that set and a room of its own."""
    room = Room([], [])
    for i, text in enumerate(sentences):
        rng = random.Random(f"{which}:{language}:{role}:{i}:{text}")
        utterance = Utterance(text, language, "cmd" if role == "command" else "dict", role)
        for _ in range(_TRIES):
            samples, voice = speak(utterance, "test", rng)
            if _voice_set(voice) == which:
                break
        yield Said(text, language, role, voice, room.hear(samples, rng))


def _set_of(text: str) -> Set:
    return "calibration" if hashlib.sha256(text.encode()).digest()[1] % 2 else "report"


def _voice_set(voice: str) -> Set:
    return "calibration" if voice.rpartition("+")[2] in _CALIBRATION_VOICES else "report"
