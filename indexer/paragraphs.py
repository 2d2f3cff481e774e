"""Blocks → paragraphs: the author's own, short ones merged, long ones divided, others' words left out.

The index compares paragraphs by hash, so an edit must not move boundaries far from it. Where a long run (of dialogue,
of sentences) has to be cut, the places are chosen by content: a boundary is one whose hash is the least within
`CUT_RADIUS_WORDS`. What stands further away has no say, so an edit changes the paragraph it is in and its neighbours.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

from indexer.language import language_of
from indexer.sentences import sentence_spans
from indexer.types import Block, Paragraph

MIN_CHARS = 40
MIN_WORDS = 8
MAX_WORDS = 220
MAX_CHARS = 4_000
MAX_SENTENCE_CHARS = 2_000
MIN_WORDS_ALONE = 3
CUT_RADIUS_WORDS = 60
CUT_MARGIN_WORDS = 30
MIN_LETTER_SHARE = 0.5

WORD = re.compile(r"\w+(?:[-'’]\w+)*")
DIALOGUE = re.compile(r"[—–―]|-\s|[\"“„«‘]")
BIBLIOGRAPHY = re.compile(
    r"\W*(?:\d+\W+)?(?:references|bibliography|works cited|literature|(?:список )?(?:использованн\w+ )?литератур\w*"
    r"|библиограф\w+|(?:список )?источник\w+)\W*$",
    re.IGNORECASE,
)
# Controls but newline and tab, soft hyphens, zero-width and bidirectional marks, tags, object and replacement
# characters, private use (the bullets of symbol fonts).
INVISIBLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180e\u200b-\u200f\u202a-\u202e"
    "\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\uffff\ud800-\udfff\ue000-\uf8ff\U000e0000-\U0010ffff]"
)
LINE_END = re.compile("\r\n|[\r\x0b\x0c\x85\u2028\u2029]")
SPACES = re.compile(r"[^\S\n]+")
BLANK_LINES = re.compile(r" ?\n[ \n]*")


def segment(blocks: Iterable[Block]) -> list[Paragraph]:
    """Paragraphs in document order. Headings, quotations, code and machine-written blocks never become one.

    Table cells and notes do only when they are long enough by themselves.
    """
    paragraphs: list[Paragraph] = []
    section: list[_Unit] = []
    in_bibliography = False
    for block in blocks:
        text = normalise(block.text)
        if block.kind == "heading":
            in_bibliography = bool(BIBLIOGRAPHY.match(text))
        is_prose = block.kind in ("paragraph", "list_item") and not block.is_ai
        if is_prose and not in_bibliography and _is_text(text):
            section.append(_Unit.of(text))
            continue
        paragraphs += _paragraphs(section)
        section = []
        if block.kind in ("table_cell", "note") and not block.is_ai and not in_bibliography:
            aside = _Unit.of(text)
            if not aside.is_short and _is_text(text):
                paragraphs += _paragraphs([aside])
    return paragraphs + _paragraphs(section)


def normalise(text: str) -> str:
    """NFC, invisible characters out, runs of blanks to one, lines trimmed. Quotes, dashes and ё stay."""
    text = INVISIBLE.sub("", LINE_END.sub("\n", text))
    text = unicodedata.normalize("NFC", text)
    return BLANK_LINES.sub("\n", SPACES.sub(" ", text)).strip()


def n_words_of(text: str) -> int:
    """Words, those with hyphens and apostrophes inside being one."""
    return sum(1 for _ in WORD.finditer(text))


def _is_text(text: str) -> bool:
    """Letters enough: not a row of figures, a rule or a drawing in signs."""
    n_letters = sum(map(str.isalpha, text))
    n_seen = len(text) - text.count(" ") - text.count("\n")
    return n_letters > 0 and n_letters >= MIN_LETTER_SHARE * n_seen


@dataclass(frozen=True, slots=True)
class _Unit:
    """A piece that is never divided, with its size. is_dialogue: one line that someone speaks."""

    text: str
    n_words: int
    is_dialogue: bool

    @staticmethod
    def of(text: str) -> _Unit:
        return _Unit(text, n_words_of(text), "\n" not in text and bool(DIALOGUE.match(text)))

    @property
    def is_short(self) -> bool:
        return self.n_words < MIN_WORDS or len(self.text) < MIN_CHARS

    @property
    def is_long(self) -> bool:
        return self.n_words > MAX_WORDS or len(self.text) > MAX_CHARS


def _paragraphs(section: Sequence[_Unit]) -> list[Paragraph]:
    """The paragraphs of blocks that follow each other without anything between them."""
    units = [piece for unit in section for piece in _divided(unit)]
    found = []
    for run in _runs(units):
        for group in _cut(run):
            text = "\n".join(unit.text for unit in group)
            n_words = sum(unit.n_words for unit in group)
            if n_words >= MIN_WORDS_ALONE:
                found.append(Paragraph(text=text, language=language_of(text), n_words=n_words))
    return found


def _runs(units: Sequence[_Unit]) -> list[list[_Unit]]:
    """Units that belong together: dialogue, and what is too short to stand alone with what precedes it."""
    runs: list[list[_Unit]] = []
    all_short = False  # the last run is nothing but short units: it takes whatever follows
    for at, unit in enumerate(units):
        after = units[at + 1] if at + 1 < len(units) else None
        if runs and (all_short or _belongs(unit, runs[-1][-1], after)):
            runs[-1].append(unit)
            all_short = all_short and unit.is_short
        else:
            runs.append([unit])
            all_short = unit.is_short
    if len(runs) > 1 and all_short and sum(unit.n_words for unit in runs[-1]) < 2 * MIN_WORDS:
        runs[-2:] = [[*runs[-2], *runs[-1]]]
    return runs


def _belongs(unit: _Unit, before: _Unit, after: _Unit | None) -> bool:
    if before.is_dialogue and unit.is_dialogue:
        return True
    # A short line that opens a dialogue goes with the dialogue.
    opens_dialogue = unit.is_dialogue and after is not None and after.is_dialogue
    return unit.is_short and not opens_dialogue


def _divided(unit: _Unit) -> list[_Unit]:
    """A long paragraph at the ends of sentences, a long poem at the ends of lines."""
    if not unit.is_long:
        return [unit]
    if "\n" in unit.text:
        joint, parts = "\n", unit.text.split("\n")
    else:
        spans = sentence_spans(unit.text, language_of(unit.text))
        joint, parts = " ", [unit.text[start:end] for start, end in spans]
    atoms = [_Unit(text, n_words_of(text), False) for part in parts for text in _bounded(part)]
    # Not `_Unit.of`: a piece that happens to begin with a quote is no line of dialogue.
    return [
        _Unit(joint.join(atom.text for atom in group), sum(atom.n_words for atom in group), False)
        for group in _cut(atoms)
    ]


def _bounded(sentence: str) -> list[str]:
    """A sentence beyond all measure (a list without full stops, bytes in disguise) in pieces between words."""
    if len(sentence) <= MAX_SENTENCE_CHARS:
        return [sentence]
    pieces = []
    start = 0
    while len(sentence) - start > MAX_SENTENCE_CHARS:
        end = sentence.rfind(" ", start + 1, start + MAX_SENTENCE_CHARS)
        end = end if end > start else start + MAX_SENTENCE_CHARS
        pieces.append(sentence[start:end].strip())
        start = end
    return [piece for piece in (*pieces, sentence[start:].strip()) if piece]


def _cut(units: Sequence[_Unit]) -> list[Sequence[_Unit]]:
    """A run in groups of at most `MAX_WORDS`, where that can be without dividing a unit."""
    if len(units) < 2 or not _is_too_long(units):
        return [units]
    ends = list(accumulate(unit.n_words for unit in units))
    total = ends.pop()
    keys = [_key(units[at], units[at + 1]) for at in range(len(ends))]
    cuts = [
        at + 1
        for at, end in enumerate(ends)
        if CUT_MARGIN_WORDS <= end <= total - CUT_MARGIN_WORDS and _is_least(at, ends, keys)
    ]
    bounds = [0, *cuts, len(units)]
    groups = [units[start:end] for start, end in pairwise(bounds)]
    return [half for group in groups for half in _halved(group)]


def _is_too_long(units: Sequence[_Unit]) -> bool:
    n_chars = sum(len(unit.text) + 1 for unit in units)
    return sum(unit.n_words for unit in units) > MAX_WORDS or n_chars > MAX_CHARS + 1


def _key(unit: _Unit, following: _Unit) -> bytes:
    content = f"{unit.text}\n{following.text}".encode("utf-8", "replace")
    return hashlib.blake2b(content, digest_size=8).digest()


def _is_least(at: int, ends: Sequence[int], keys: Sequence[bytes]) -> bool:
    """Whether no other boundary within the radius has a key as small."""
    for step in (-1, 1):
        other = at + step
        while 0 <= other < len(ends) and abs(ends[other] - ends[at]) < CUT_RADIUS_WORDS:
            if keys[other] <= keys[at]:
                return False
            other += step
    return True


def _halved(units: Sequence[_Unit]) -> list[Sequence[_Unit]]:
    """Groups that chance left too long: at the boundary nearest the middle, until they fit."""
    if len(units) < 2 or not _is_too_long(units):
        return [units]
    ends = list(accumulate(len(unit.text) for unit in units))
    middle = min(range(len(units) - 1), key=lambda at: abs(2 * ends[at] - ends[-1])) + 1
    return [*_halved(units[:middle]), *_halved(units[middle:])]
