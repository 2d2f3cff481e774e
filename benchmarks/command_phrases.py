"""What is said to measure command decisions: commands of the grammar, sentences that nearly are some, and plain dictation.

Two sets share neither a phrase nor a voice: thresholds come from `calibration`, figures from `report`. Voices are those that
training kept for scoring; a phrase's set is decided by the digest of its words. All is lower case and in words, as it is spoken.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal

import numpy as np
from numpy.typing import NDArray

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
    return [*dict.fromkeys(words(text) for text in (_en() if language == "en" else _ru()))]


def _en() -> Iterator[str]:
    thing = "that", "it"
    yield from (
        "scratch that",
        "strike that",
        "scratch that please",
        "undo",
        "undo that",
        "undo it",
        "please undo that",
    )
    yield from (f"{verb} {what}" for verb, what in product(("delete", "remove", "erase"), thing))
    yield from (f"undo the last {what}" for what in ("edit", "change", "command"))
    yield from (
        f"stop {what}"
        for what in ("listening", "dictation", "dictating", "recording", "listening please")
    )
    for what in ("listening", "dictation", "the microphone", "the mic"):
        yield from (f"turn off {what}", f"turn {what} off")
    yield from (
        "new paragraph",
        "start a new paragraph",
        "begin a new paragraph",
        "new line",
        "next line",
        "start a new line",
    )
    yield from (
        "new paragraph please",
        "comma",
        "period",
        "full stop",
        "question mark",
        "exclamation mark",
        "exclamation point",
    )
    yield from ("colon", "semicolon", "ellipsis", "dash")
    which = "the last", "last", "the previous", "that", "this"
    units = "word", "sentence", "paragraph", "line"
    yield from (f"{v} {w} {u}" for v, w, u in product(("delete", "remove", "erase"), which, units))
    counted = product(
        ("delete", "remove"), ("two", "three", "four", "five"), ("words", "sentences", "lines")
    )
    yield from (f"{v} the last {n} {u}" for v, n, u in counted)
    part = (
        "first half",
        "second half",
        "last sentence",
        "first sentence",
        "last two words",
        "first three sentences",
    )
    verbs = "transcribe only", "write only", "write down only", "type only", "transcribe"
    for verb, target in product(verbs, part):
        yield from (f"{verb} the {target}", f"{verb} the {target} and then stop listening")
    yield from (f"write everything but the {target}" for target in part[2:])
    old, new = ("river", "letter", "captain", "morning"), ("garden", "doctor", "evening", "window")
    yield from (f"replace {a} with {b}" for a, b in product(old, new))
    yield from (f"change the word {a} to {b}" for a, b in product(old, new))


def _ru() -> Iterator[str]:
    yield from (
        "вычеркни это",
        "зачеркни это",
        "отставить",
        "удали это",
        "сотри это",
        "убери это",
        "пожалуйста удали это",
    )
    yield from (
        "отмени",
        "отмени это",
        "отмени последнее",
        "отмени последнюю правку",
        "отмени последнюю команду",
        "верни как было",
    )
    yield from (f"{v} слушать" for v in ("перестань", "хватит", "прекрати", "кончай"))
    yield from (
        f"{v} {w}" for v, w in product(("выключи", "отключи"), ("микрофон", "диктовку", "запись"))
    )
    yield from (
        f"{v} {w}" for v, w in product(("останови", "заверши", "закончи"), ("диктовку", "запись"))
    )
    yield from (
        "стоп диктовка",
        "новый абзац",
        "с нового абзаца",
        "новая строка",
        "следующая строка",
        "с новой строки",
    )
    yield from (
        "новый абзац пожалуйста",
        "запятая",
        "точка",
        "вопросительный знак",
        "восклицательный знак",
        "двоеточие",
    )
    yield from ("точка с запятой", "многоточие", "тире")
    things = (
        "последнее слово", "это слово", "предыдущее слово", "последнее предложение", "это предложение", "предыдущее предложение",
        "последний абзац", "этот абзац", "предыдущий абзац", "последнюю строку", "эту строку", "предыдущую строку",
        "последнюю фразу", "эту фразу", "последние два слова", "последние три слова", "последние четыре слова", "последние два предложения",
        "последние три предложения", "последние пять слов", "последние две строки",
    )  # fmt: skip
    yield from (f"{v} {w}" for v, w in product(("удали", "сотри", "убери"), things))
    part = (
        "первую половину",
        "вторую половину",
        "последнее предложение",
        "первое предложение",
        "последние два слова",
    )
    for verb, target in product(
        ("запиши только", "напиши только", "расшифруй", "печатай только", "запиши"), part
    ):
        yield from (f"{verb} {target}", f"{verb} {target} и перестань слушать")
    yield from (
        f"запиши все кроме {w}"
        for w in ("последнего предложения", "первого предложения", "последнего слова")
    )
    old, new = ("река", "письмо", "капитан", "утро"), ("сад", "доктор", "вечер", "окно")
    yield from (f"замени {a} на {b}" for a, b in product(old, new))
    yield from (f"замени слово {a} на {b}" for a, b in product(old, new))


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
    """`n` texts of a set; commands are repeated when there are fewer, everything else is not."""
    rng = random.Random(f"{language}:{role}:{which}")
    if role == "command":
        own = [text for text in commands(language) if _set_of(text) == which]
        rng.shuffle(own)
        return (own * (n // len(own) + 1))[:n]
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
