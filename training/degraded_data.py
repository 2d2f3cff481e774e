"""Rewriting pairs made from authors' prose: the target is the author's own text, the source a worse one.

Typing errors, lost commas and capitals, dropped, doubled and swapped words, wrong endings, wooden
filler, sentences glued together or cut apart. The same seed always gives the same pairs.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from training.task_examples import Pair

Words = list[str]
Edit = Callable[[Words, random.Random, str], bool]

_CORE = re.compile(r"^(\W*)(.*?)(\W*)$", re.DOTALL)
_SENTENCE_BREAK = re.compile(r"(?<=[.!?…])([\"”»’']?)\s+(?=[\"“«‘'—–-]?\s?[A-ZА-ЯЁ])")
_ROWS = {
    "en": ("qwertyuiop", "asdfghjkl", "zxcvbnm"),
    "ru": ("йцукенгшщзхъ", "фывапролджэ", "ячсмитьбю"),
}
_FILLERS = {
    "en": (
        "very really quite just actually basically rather somewhat simply certainly|in fact|"
        "of course|as it were|so to speak|in a sense|at this point in time|it should be noted that|"
        "the fact is that|needless to say|in order|for the most part"
    ),
    "ru": (
        "очень просто собственно вообще конечно именно довольно действительно достаточно|как бы|"
        "в принципе|на самом деле|так сказать|в целом|в общем|следует отметить, что|"
        "дело в том, что|в некотором роде|данный|в данный момент|как известно"
    ),
}
_CONFUSED = {
    "en": (
        "was:were is:are has:have does:do their:there its:it's your:you're then:than to:too "
        "lose:loose who:whom me:I him:he her:she them:they a:an an:a this:these of:off "
        "went:gone saw:seen came:come knew:know took:taken began:begun good:well less:fewer"
    ),
    "ru": (
        "не:ни ни:не что:што чтобы:что-бы тоже:то-же также:так-же если:есле "
        "здесь:сдесь сейчас:щас его:ево её:ее был:была была:был были:был "
        "мой:моя свой:своя который:которая которая:который этот:эта эта:этот они:он сделать:зделать"
    ),
}
_ENDINGS = {
    "en": ("ed: s: ing: ing:ed ly: ies:ys er:ar ent:ant tion:sion ness:nes ll:l"),
    "ru": (
        "ться:тся тся:ться ый:ий ого:ова его:ево ая:ое ое:ая ые:ый ет:ит ит:ет ют:ят ят:ют "
        "ла:л ли:ла ал:ала ами:ам ах:ам ом:ем ой:ом нн:н енный:еный ешь:еш ость:асть"
    ),
}
_INSTRUCTIONS = {
    "en": (
        "Fix the mistakes.",
        "Improve the style.",
        "Correct the spelling.",
        "Make it read well.",
    ),
    "ru": ("Исправь ошибки.", "Улучши стиль.", "Исправь опечатки.", "Сделай текст лучше."),
}


def _pairs(table: str) -> dict[str, list[str]]:
    result: dict[str, list[str]] = {}
    for entry in table.split():
        right, wrong = entry.split(":")
        result.setdefault(right, []).append(wrong)
    return result


def _fillers(language: str) -> list[str]:
    words, *phrases = _FILLERS[language].split("|")
    return [*words.split(), *phrases]


def _split(word: str) -> tuple[str, str, str]:
    match = _CORE.match(word)
    return (match[1], match[2], match[3]) if match else ("", word, "")


def _pick(
    words: Words, rng: random.Random, fits: Callable[[int], bool], first: int = 0
) -> int | None:
    """A random index from `first` on for which `fits`, or None."""
    indices = [index for index in range(first, len(words)) if fits(index)]
    return rng.choice(indices) if indices else None


def typo(words: Words, rng: random.Random, language: str) -> bool:
    """Swap, drop, double or mistype one letter of a word."""
    index = _pick(words, rng, lambda i: len(_split(words[i])[1]) > 3)
    if index is None:
        return False
    left, core, right = _split(words[index])
    at = rng.randrange(1, len(core) - 1)
    way = rng.randrange(4)
    if way == 0:
        core = core[:at] + core[at + 1] + core[at] + core[at + 2 :]
    elif way == 1:
        core = core[:at] + core[at + 1 :]
    elif way == 2:
        core = core[:at] + core[at] + core[at:]
    else:
        core = core[:at] + _neighbour(core[at], rng, language) + core[at + 1 :]
    words[index] = left + core + right
    return True


def _neighbour(letter: str, rng: random.Random, language: str) -> str:
    for row in _ROWS[language]:
        at = row.find(letter)
        if at >= 0:
            return row[max(0, at - 1)] if rng.random() < 0.5 and at else row[(at + 1) % len(row)]
    return letter


def drop_word(words: Words, rng: random.Random, language: str) -> bool:
    """Lose a short word."""
    index = _pick(words, rng, lambda i: len(words[i]) < 5 and words[i].isalpha(), first=1)
    if index is None or len(words) < 4:
        return False
    del words[index]
    return True


def double_word(words: Words, rng: random.Random, language: str) -> bool:
    """Write a word twice."""
    index = _pick(words, rng, lambda i: words[i].isalpha())
    if index is None:
        return False
    words.insert(index, words[index])
    return True


def swap_words(words: Words, rng: random.Random, language: str) -> bool:
    """Exchange two neighbours that carry no punctuation."""
    plain = [word.isalpha() and word.islower() for word in words]
    index = _pick(words, rng, lambda i: plain[i] and plain[i - 1], first=1)
    if index is None:
        return False
    words[index - 1], words[index] = words[index], words[index - 1]
    return True


def drop_punctuation(words: Words, rng: random.Random, language: str) -> bool:
    """Lose a comma, a semicolon or the mark at the end."""
    index = _pick(words, rng, lambda i: words[i][-1:] in ",;:.!?" and len(words[i]) > 1)
    if index is None:
        return False
    words[index] = words[index][:-1]
    return True


def lower_start(words: Words, rng: random.Random, language: str) -> bool:
    """Lose a capital letter."""
    index = _pick(words, rng, lambda i: _split(words[i])[1][:1].isupper())
    if index is None:
        return False
    left, core, right = _split(words[index])
    words[index] = left + core[0].lower() + core[1:] + right
    return True


def add_filler(words: Words, rng: random.Random, language: str) -> bool:
    """Put in a word or phrase that says nothing."""
    if len(words) < 3:
        return False
    words.insert(rng.randrange(1, len(words)), rng.choice(_fillers(language)))
    return True


def confuse_word(words: Words, rng: random.Random, language: str) -> bool:
    """Write a neighbour in the grammar or in sound: was for were, ни for не."""
    table = _pairs(_CONFUSED[language])
    index = _pick(words, rng, lambda i: _split(words[i])[1] in table)
    if index is None:
        return False
    left, core, right = _split(words[index])
    words[index] = left + rng.choice(table[core]) + right
    return True


def change_ending(words: Words, rng: random.Random, language: str) -> bool:
    """Break agreement or spelling at the end of a word."""
    table = _pairs(_ENDINGS[language])

    def endings(index: int) -> list[str]:
        core = _split(words[index])[1]
        return [end for end in table if len(core) > len(end) + 2 and core.endswith(end)]

    index = _pick(words, rng, lambda i: bool(endings(i)))
    if index is None:
        return False
    left, core, right = _split(words[index])
    end = rng.choice(endings(index))
    words[index] = left + core[: -len(end)] + rng.choice(table[end]) + right
    return True


def glue_sentences(words: Words, rng: random.Random, language: str) -> bool:
    """Make a run-on of two sentences."""
    index = _pick(
        words, rng, lambda i: words[i - 1][-1:] == "." and words[i][:1].isupper(), first=1
    )
    if index is None:
        return False
    words[index - 1] = words[index - 1][:-1] + rng.choice((",", ""))
    words[index] = words[index][0].lower() + words[index][1:]
    return True


def cut_sentence(words: Words, rng: random.Random, language: str) -> bool:
    """End a sentence at a comma."""
    index = _pick(
        words, rng, lambda i: words[i - 1][-1:] == "," and words[i][:1].islower(), first=1
    )
    if index is None:
        return False
    words[index - 1] = words[index - 1][:-1] + "."
    words[index] = words[index][0].upper() + words[index][1:]
    return True


_EDITS: tuple[tuple[Edit, int], ...] = (
    (typo, 26),
    (drop_word, 6),
    (double_word, 8),
    (swap_words, 8),
    (drop_punctuation, 14),
    (lower_start, 6),
    (add_filler, 12),
    (confuse_word, 8),
    (change_ending, 8),
    (glue_sentences, 5),
    (cut_sentence, 4),
)


def degrade(text: str, rng: random.Random, language: str, n_edits: int) -> str:
    """`text` with up to `n_edits` flaws; single blanks between words, as in the input."""
    words = text.split(" ")
    edits, weights = zip(*_EDITS, strict=True)
    for edit in rng.choices(edits, weights, k=n_edits):
        edit(words, rng, language)
    return " ".join(words)


def sentences(paragraph: str) -> list[str]:
    """The sentences of a paragraph, closing quotes kept with theirs."""
    parts = _SENTENCE_BREAK.sub(lambda match: f"{match[1]}\n", paragraph).split("\n")
    return [part for part in (part.strip() for part in parts) if part]


@dataclass(frozen=True, slots=True)
class Selection:
    """A stretch of one paragraph, and the paragraph's text on both sides of it."""

    before: str
    text: str
    after: str


def selections(
    text: str, rng: random.Random, max_chars: int, phrase_share: float = 0.2
) -> Iterator[Selection]:
    """Whole sentences, and now and then a few words, of randomly ordered prose paragraphs."""
    paragraphs = [" ".join(part.split()) for part in re.split(r"\n+", text)]
    paragraphs = [part for part in paragraphs if len(part) >= 30 and any(map(str.islower, part))]
    rng.shuffle(paragraphs)
    for paragraph in paragraphs:
        own = sentences(paragraph)
        start = rng.randrange(len(own))
        end = start + rng.choice((1, 1, 1, 2, 2, 3))
        chosen = " ".join(own[start:end])
        before, after = " ".join(own[:start]), " ".join(own[end:])
        words = chosen.split(" ")
        if rng.random() < phrase_share and len(words) > 4:
            first = rng.randrange(len(words) - 2)
            last = first + rng.randrange(2, 9)
            before = f"{before} {' '.join(words[:first])}".strip()
            after = f"{' '.join(words[last:])} {after}".strip()
            chosen = " ".join(words[first:last])
        if 8 <= len(chosen) <= max_chars:
            yield Selection(before, chosen, after)


def degraded_pair(
    selection: Selection, rng: random.Random, language: str, group: str, copy_share: float = 0.12
) -> Pair:
    """A pair of kind "degraded", or "copy" (nothing to do), sometimes with context or an instruction."""
    n_words = selection.text.count(" ") + 1
    n_edits = 0 if rng.random() < copy_share else 1 + rng.randrange(1 + n_words // 5)
    source = degrade(selection.text, rng, language, n_edits)
    with_context = rng.random() < 0.25
    return Pair(
        language,
        "copy" if source == selection.text else "degraded",
        group,
        source,
        selection.text,
        before=selection.before[-160:] if with_context else "",
        after=selection.after[:80] if with_context and rng.random() < 0.5 else "",
        instruction=rng.choice(_INSTRUCTIONS[language]) if rng.random() < 0.15 else "",
    )


def scrambled_pair(
    chosen: Sequence[Selection], rng: random.Random, language: str, group: str
) -> Pair:
    """Words in random order, to be given back as they are: copying with no help from the language."""
    words = [word for selection in chosen for word in selection.text.split(" ")]
    rng.shuffle(words)
    text = " ".join(words[: rng.randrange(3, 25)])
    return Pair(language, "scrambled", group, text, text)
