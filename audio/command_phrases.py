"""The closed part of the spoken grammar, phrase by phrase: what an utterance can be compared with as a whole.

Words as they are spoken, lower case, е for ё. What takes words of the user's own (replace X with Y) is not here: those have to be
read, not compared.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

from audio.commands import parse

_EN_UNITS = "word", "sentence", "paragraph", "line"
_EN_COUNTS = "two", "three", "four", "five", "six"
_EN_PARTS = (
    *("first half", "second half", "last half"),
    *("first sentence", "last sentence", "first word", "last word"),
    *("first two sentences", "first three sentences", "last two sentences", "last three sentences"),
    *("first two words", "first three words", "last two words", "last three words"),
)
_RU_COUNTED = (
    *("два слова", "три слова", "четыре слова", "пять слов"),
    *("два предложения", "три предложения", "четыре предложения", "пять предложений"),
    *("два абзаца", "три абзаца", "две строки", "три строки", "две фразы", "три фразы"),
)
_RU_PARTS = (
    *("первую половину", "вторую половину", "последнюю половину"),
    *("первое предложение", "последнее предложение", "первое слово", "последнее слово"),
    *("первые два предложения", "последние два предложения", "последние три предложения"),
    *("первые два слова", "первые три слова", "последние два слова", "последние три слова"),
)
_RU_THINGS = {
    "слово": "ее",
    "предложение": "ее",
    "абзац": "ий",
    "строку": "юю",
    "фразу": "юю",
}  # how последн- ends
_RU_THIS = {"слово": "это", "предложение": "это", "абзац": "этот", "строку": "эту", "фразу": "эту"}


def closed_phrases() -> dict[str, dict[str, str]]:
    """By language: phrases in a fixed order, and what each asks for, equal for those that ask for the same."""
    return {
        language: {phrase: repr(parse(phrase)) for phrase in phrases}
        for language, phrases in (("en", _en()), ("ru", _ru()))
    }


def _en() -> Iterator[str]:
    cut = "delete", "remove", "erase"
    plain = (
        *("scratch that", "strike that", *(f"{v} {w}" for v, w in product(cut, ("that", "it")))),
        *("undo", "undo that", "undo it", "undo the last edit", "undo the last change"),
        *("undo the last command", "new paragraph", "new line", "next line"),
        *("stop listening", "stop dictation", "stop dictating", "stop recording"),
    )
    for phrase in plain:
        yield from (phrase, f"{phrase} please", f"please {phrase}")
    yield from (f"{v} a new {w}" for v, w in product(("start", "begin"), ("paragraph", "line")))
    for what in ("listening", "dictation", "the microphone", "the mic"):
        yield from (f"turn off {what}", f"turn {what} off")
    yield from (
        "comma",
        "period",
        "full stop",
        "question mark",
        "exclamation mark",
        "exclamation point",
    )
    yield from ("colon", "semicolon", "ellipsis", "dash")
    which = "the last", "last", "the previous", "previous", "that", "this", "the"
    yield from (f"{v} {w} {u}" for v, w, u in product(cut, which, _EN_UNITS))
    yield from (f"{v} the last {n} {u}s" for v, n, u in product(cut, _EN_COUNTS, _EN_UNITS))
    verbs = (
        "transcribe",
        "transcribe only",
        "only transcribe",
        "write only",
        "write down only",
        "type only",
    )
    for verb, part in product(verbs, _EN_PARTS):
        yield from (f"{verb} the {part}", f"{verb} the {part} and then stop listening")
    yield from (f"write everything but the {part}" for part in _EN_PARTS)


def _ru() -> Iterator[str]:
    cut = "удали", "сотри", "убери"
    plain = (
        *("вычеркни это", "зачеркни это", "отставить", *(f"{verb} это" for verb in cut)),
        *("отмени", "отмени это", "отмени последнее", "отмени последнюю правку"),
        *("отмени последнюю команду", "верни как было", "новый абзац", "с нового абзаца"),
        *("новая строка", "следующая строка", "с новой строки", "стоп диктовка"),
        *(f"{verb} слушать" for verb in ("перестань", "хватит", "прекрати", "кончай")),
    )
    for phrase in plain:
        yield from (phrase, f"{phrase} пожалуйста", f"пожалуйста {phrase}")
    off = product(("выключи", "отключи"), ("микрофон", "диктовку", "запись"))
    end = product(("останови", "заверши", "закончи"), ("диктовку", "запись"))
    yield from (f"{verb} {what}" for verb, what in (*off, *end))
    yield from ("запятая", "точка", "вопросительный знак", "восклицательный знак", "двоеточие")
    yield from ("точка с запятой", "многоточие", "тире")
    for verb, thing in product(cut, _RU_THINGS):
        yield f"{verb} {_RU_THIS[thing]} {thing}"
        stems = ("последн", "предыдущ")
        yield from (f"{verb} {_adjective(stem, _RU_THINGS[thing])} {thing}" for stem in stems)
    yield from (f"{verb} последние {counted}" for verb, counted in product(cut, _RU_COUNTED))
    verbs = "запиши", "запиши только", "напиши только", "расшифруй", "печатай только"
    for verb, part in product(verbs, _RU_PARTS):
        yield from (f"{verb} {part}", f"{verb} {part} и перестань слушать")
    rest = "последнего предложения", "первого предложения", "последнего слова", "первого слова"
    yield from (f"запиши все кроме {part}" for part in rest)


def _adjective(stem: str, ending: str) -> str:
    """предыдущ + юю is предыдущую."""
    return stem + {"юю": "ую"}.get(ending, ending) if stem == "предыдущ" else stem + ending
