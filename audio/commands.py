"""Spoken commands: a small typed grammar, English and Russian, for utterances that are nothing else.

Parsing decides only what a text would mean as a command. Whether it is one is decided by the model's first
token and by the pauses around it; see `streaming.py`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from audio.words import normal, pieces

Name = Literal["delete", "replace", "insert", "scratch", "undo", "stop", "select"]
Value = str | int | bool

MAX_WORDS = 16  # of a command; what is longer is text

_NUMBERS = {str(n): n for n in range(1, 11)} | {
    word: n
    for n, words in enumerate(
        (
            "one a один одно одна одну",
            "two два две двух",
            "three три трех",
            "four четыре четырех",
            "five пять пяти",
            "six шесть шести",
            "seven семь семи",
            "eight восемь восьми",
            "nine девять девяти",
            "ten десять десяти",
        ),
        1,
    )
    for word in words.split()
}
_N = "|".join(sorted(_NUMBERS, key=len, reverse=True))
_UNITS = (
    ("word", "words? слов[оа]? слова"),
    ("sentence", "sentences? предложени[еяй] предложений фраз[ауы]?"),
    ("paragraph", "paragraphs? абзац(?:а|ев)?"),
    ("line", "lines? строк[аиу]?"),
)
_UNIT = "|".join(part for _, parts in _UNITS for part in parts.split())
_MARKS = {
    "comma": ",", "period": ".", "full stop": ".", "question mark": "?", "exclamation mark": "!",
    "exclamation point": "!", "colon": ":", "semicolon": ";", "ellipsis": "…", "dash": " —",
    "запятая": ",", "точка": ".", "вопросительный знак": "?", "восклицательный знак": "!",
    "двоеточие": ":", "точка с запятой": ";", "многоточие": "…", "тире": " —",
}  # fmt: skip
_STOP = (
    r"(?:stop (?:listening|dictation|dictating|recording)"
    r"|turn off (?:listening|dictation|the microphone|the mic)"
    r"|turn (?:listening|dictation|the microphone|the mic) off"
    r"|(?:перестань|хватит|прекрати|кончай) слушать"
    r"|(?:выключи|отключи) (?:микрофон|диктовку|запись)"
    r"|(?:останови|заверши|закончи) (?:диктовку|запись)|стоп диктовка)"
)
_EN_TARGET = (
    rf"(?:the )?(?P<end>first|second|last) (?:half|(?P<n>{_N})? ?(?P<unit>words?|sentences?))"
)
_RU_TARGET = (
    r"(?P<end>перв\w+|втор\w+|последн\w+) "
    rf"(?:половин[уы]|(?P<n>{_N})? ?(?P<unit>слов\w*|предложени\w+))"
)
_OF = r"(?: of (?:this|what (?:i say|comes next|i am about to say)))?"
_OF_RU = r"(?: (?:того|из того) что я (?:скажу|продиктую))?"


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """arguments by name: delete {scope, count}; replace {old, new, scope}; insert {text, label};
    select {keep, end, unit, count}; the others have none. then_stop: and stop listening afterwards."""

    name: Name
    arguments: Mapping[str, Value] = field(default_factory=dict)
    then_stop: bool = False


@dataclass(frozen=True, slots=True)
class Literally:
    """The speaker said that the rest is text, though it sounds like a command."""

    text: str


@dataclass(frozen=True, slots=True)
class _Heard:
    """An utterance: its normal words in one line, and their surface forms."""

    line: str
    surfaces: tuple[str, ...]

    def surface(self, match: re.Match[str], group: str) -> str:
        """What stands in a group, as it was written."""
        first = self.line[: match.start(group)].count(" ")
        n = match[group].count(" ") + 1
        return " ".join(self.surfaces[first : first + n])


Build = Callable[[_Heard, re.Match[str]], Command]


def parse(text: str) -> Command | Literally | None:
    """What the utterance asks for; None when it is not a command."""
    words = pieces(text)
    if not 0 < len(words) <= MAX_WORDS:
        return None
    heard = _hear(words)
    if heard.line.partition(" ")[0] in ("literally", "буквально") and len(words) > 1:
        rest = "".join(words[1:]).strip()
        return Literally(rest) if _parse(_hear(words[1:])) else None
    return _parse(heard)


def may_become_command(text: str) -> bool:
    """Whether more words could make a command of this text, or it is one: then nothing is committed yet."""
    words = pieces(text)
    if not words or len(words) > MAX_WORDS:
        return False
    line = _hear(words).line
    return any(
        f"{line} ".startswith(f"{opener} ") or opener.startswith(line)
        for opener in (*_OPENERS, *_MARKS)
    )


def _hear(words: list[str]) -> _Heard:
    kept = [(normal(word), word.strip()) for word in words]
    kept = [(word, surface) for word, surface in kept if re.search(r"\w", word)]
    polite = ("please", "пожалуйста")
    while kept and kept[0][0] in polite:
        kept.pop(0)
    while kept and kept[-1][0] in polite:
        kept.pop()
    surfaces = tuple(re.sub(r"^[^\w]+|[^\w]+$", "", surface) for _, surface in kept)
    return _Heard(" ".join(word for word, _ in kept), surfaces)


def _parse(heard: _Heard) -> Command | None:
    line, then_stop = heard.line, False
    if tail := _AND_STOP.search(line):
        line, then_stop = line[: tail.start()], True
    for pattern, build in _GRAMMAR:
        if match := pattern.fullmatch(line):
            made = build(_Heard(line, heard.surfaces), match)
            return Command(name=made.name, arguments=made.arguments, then_stop=then_stop)
    return None


def _plain(name: Name) -> Build:
    return lambda _heard, _match: Command(name=name)


def _insert(label: str, text: str) -> Build:
    return lambda _heard, _match: Command(name="insert", arguments={"label": label, "text": text})


def _mark(_: _Heard, match: re.Match[str]) -> Command:
    return Command(name="insert", arguments={"label": "mark", "text": _MARKS[match["mark"]]})


def _delete(_: _Heard, match: re.Match[str]) -> Command:
    scope = _unit(match["unit"])
    return Command(name="delete", arguments={"scope": scope, "count": _NUMBERS[match["n"] or "1"]})


def _replace(heard: _Heard, match: re.Match[str]) -> Command:
    is_all = bool(match["all"] or match["everywhere"])
    arguments = {
        "old": heard.surface(match, "old"),
        "new": heard.surface(match, "new"),
        "scope": "all" if is_all else "last",
    }
    return Command(name="replace", arguments=arguments)


def _select(keep: bool) -> Build:
    def build(_: _Heard, match: re.Match[str]) -> Command:
        unit = _unit(match["unit"]) if match["unit"] else "half"
        arguments: dict[str, Value] = {
            "keep": keep,
            "end": "first" if match["end"].startswith(("first", "перв")) else "last",
            "unit": unit,
            "count": _NUMBERS[match["n"] or "1"],
        }
        return Command(name="select", arguments=arguments)

    return build


def _unit(word: str) -> str:
    return next(
        unit
        for unit, parts in _UNITS
        if any(re.fullmatch(part, word) for part in parts.split())
        or (unit == "word" and word.startswith("слов"))
        or (unit == "sentence" and word.startswith("предложен"))
    )


_AND_STOP = re.compile(rf"(?<=\S)(?: (?:and then|and|then|и|а|потом|затем|после этого))+ {_STOP}$")
_WRITE = r"(?:transcribe|write down|write|type|take down)"
_WRITE_RU = r"(?:запиши|напиши|расшифруй|печатай|напечатай)"
_DELETE = r"(?:delete|remove|erase)"
_DELETE_RU = r"(?:удали|сотри|убери)"
_PHRASE = r"\S+(?: \S+){0,3}?"
_ALL = r"(?P<all>(?:all|every)(?: (?:instances?|occurrences?) of)? )?"
_GRAMMAR: tuple[tuple[re.Pattern[str], Build], ...] = tuple(
    (re.compile(pattern), build)
    for pattern, build in (
        (r"(?:scratch|strike) that|(?:вычеркни|зачеркни) это|отставить", _plain("scratch")),
        (rf"{_DELETE} (?:that|it)|{_DELETE_RU} это", _plain("scratch")),
        (
            r"undo(?: that| it| the last (?:edit|change|command))?"
            r"|отмени(?: это| последнее| последнюю (?:правку|команду))?|верни как было",
            _plain("undo"),
        ),
        (_STOP, _plain("stop")),
        (r"(?:start |begin )?(?:a )?new paragraph", _insert("paragraph", "\n\n")),
        (r"(?:с )?нов(?:ый|ого) абзаца?", _insert("paragraph", "\n\n")),
        (r"(?:start |begin )?(?:a )?(?:new|next) line", _insert("line", "\n")),
        (r"(?:новая|следующая) строка|с новой строки", _insert("line", "\n")),
        (
            rf"{_DELETE} (?:the |that |this )?(?:(?:last|previous) )?(?P<n>{_N})? ?(?P<unit>{_UNIT})",
            _delete,
        ),
        (
            rf"{_DELETE_RU} (?:(?:последн|предыдущ)\w+|эт(?:о|от|у)) (?:(?P<n>{_N}) )?(?P<unit>{_UNIT})",
            _delete,
        ),
        (
            rf"(?:listen carefully )?(?:replace|substitute) {_ALL}(?:the word )?(?P<old>{_PHRASE}) "
            rf"(?:with|by) (?P<new>{_PHRASE})(?P<everywhere> everywhere)?",
            _replace,
        ),
        (
            rf"change (?P<all>every )?(?:the )?word (?P<old>{_PHRASE}) to (?P<new>{_PHRASE})(?P<everywhere> everywhere)?",
            _replace,
        ),
        (
            rf"(?:замени|поменяй) (?P<all>(?:все|каждое|везде) )?(?:слов[оа] )?(?P<old>{_PHRASE}) на (?P<new>{_PHRASE})"
            r"(?P<everywhere> везде)?",
            _replace,
        ),
        (rf"(?:only )?{_WRITE} (?:only |just )?{_EN_TARGET}{_OF}", _select(True)),
        (
            rf"{_WRITE} everything (?:but|except)(?: for)? {_EN_TARGET}{_OF}",
            _select(False),
        ),
        (rf"{_WRITE_RU} (?:только |лишь )?{_RU_TARGET}{_OF_RU}", _select(True)),
        (rf"{_WRITE_RU} все кроме {_RU_TARGET}{_OF_RU}", _select(False)),
        (rf"(?P<mark>{'|'.join(sorted(_MARKS, key=len, reverse=True))})", _mark),
    )
)
_OPENERS = tuple(
    """scratch that|strike that|undo|stop listening|stop dictation|stop dictating|stop recording|turn off
turn listening|turn dictation|turn the mic|new paragraph|new line|next line|start new|begin new|start a new
begin a new|delete that|delete it|delete the|delete this|delete last|delete previous|remove that|remove the
remove last|remove this|erase that|erase the|erase last|erase this|replace|substitute|listen carefully
change the word|change every word|transcribe|write down|write the|write only|write everything|type the|type only
take down|only transcribe|only write|literally|вычеркни|зачеркни|отставить|отмени|верни как|перестань слушать
хватит слушать|прекрати слушать|кончай слушать|выключи|отключи|останови|заверши|закончи|стоп диктовка
новая строка|следующая строка|с новой строки|новый абзац|с нового абзаца|удали|сотри|убери|замени|поменяй
запиши|напиши|расшифруй|печатай|напечатай|буквально""".replace("\n", "|").split("|")
)
