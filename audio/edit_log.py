"""What dictation did to the text, append-only and tied to the sound that caused it: undo is exact.

The text is the part before the caret as the client sent it, and what was dictated since. Every step (an utterance,
a command) is one group of edits; "undo that" takes the last one back, "scratch that" goes back to before
the last dictation. Taking back is a step too.
"""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

from audio.commands import Command

Cause = Literal["dictation", "command", "undo"]
MAX_STEPS = 1000

_SENTENCE_END = re.compile(r"(?<=[.!?…])[\"”»)]*\s+")


@dataclass(frozen=True, slots=True)
class Edit:
    """Replace `removed`, which stands at `start` (characters), by `inserted`."""

    start: int
    removed: str
    inserted: str

    def inverse(self) -> Edit:
        """The edit that takes this one back."""
        return Edit(self.start, self.inserted, self.removed)


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that was done. samples: of the sound that asked for it. undoes: the number of a step taken back."""

    number: int
    cause: Cause
    utterance: int
    samples: tuple[int, int]
    edits: tuple[Edit, ...]
    undoes: tuple[int, ...] = ()


class EditLog:
    """Used on one thread. `steps` is the log, oldest first; the last MAX_STEPS are kept."""

    def __init__(self, before: str = "") -> None:
        self.text = before
        self.steps: deque[Step] = deque(maxlen=MAX_STEPS)
        self._undoable: deque[Step] = deque(maxlen=MAX_STEPS)
        self._scratched: dict[int, list[Step]] = {}  # by the number of the step that did it
        self._n_steps = 0

    def dictate(self, text: str, utterance: int, samples: tuple[int, int]) -> Edit:
        """Append text; commits of one utterance are one step."""
        edit = Edit(len(self.text), "", text)
        self.text += text
        last = self._undoable[-1] if self._undoable else None
        self._record("dictation", utterance, samples, (edit,))
        if last is not None and last.cause == "dictation" and last.utterance == utterance:
            added = self._undoable.pop()
            self._undoable[-1] = replace(
                added,
                samples=(min(last.samples[0], samples[0]), max(last.samples[1], samples[1])),
                edits=(*last.edits, edit),
            )
        return edit

    def apply(self, command: Command, utterance: int, samples: tuple[int, int]) -> Edit | None:
        """Do what a command asks; return the change of the text, None when there is nothing to do it to."""
        before = self.text
        if command.name in ("undo", "scratch"):
            if not self._take_back(command.name == "scratch", utterance, samples):
                return None
            return _difference(before, self.text)
        edits = self._resolve(command)
        if edits is None:
            return None
        for edit in edits:
            self._change(edit)
        self._record("command", utterance, samples, edits)
        return _difference(before, self.text)

    def exchange(self, command: Command, utterance: int, samples: tuple[int, int]) -> Edit | None:
        """Do a command instead of the text that it was written as; None if that is not the last thing done."""
        last = self._undoable[-1] if self._undoable else None
        if last is None or last.utterance != utterance or last.cause != "dictation":
            return None
        before, kept = self.text, self._undoable.pop()
        for edit in reversed(kept.edits):
            self._change(edit.inverse())
        if not self.can_apply(command):
            for edit in kept.edits:
                self._change(edit)
            self._undoable.append(kept)
            return None
        undone = tuple(edit.inverse() for edit in reversed(kept.edits))
        self._note(Step(0, "undo", utterance, samples, undone, (kept.number,)))
        self.apply(command, utterance, samples)
        return _difference(before, self.text)

    def can_apply(self, command: Command) -> bool:
        """Whether the text has what the command is about."""
        if command.name == "undo":
            return bool(self._undoable)
        if command.name == "scratch":
            return any(step.cause == "dictation" for step in self._undoable)
        return self._resolve(command) is not None

    def _record(
        self,
        cause: Cause,
        utterance: int,
        samples: tuple[int, int],
        edits: tuple[Edit, ...],
        undoes: tuple[int, ...] = (),
    ) -> None:
        self._undoable.append(self._note(Step(0, cause, utterance, samples, edits, undoes)))

    def _note(self, step: Step) -> Step:
        self._n_steps += 1
        numbered = replace(step, number=self._n_steps)
        self.steps.append(numbered)
        return numbered

    def _change(self, edit: Edit) -> None:
        end = edit.start + len(edit.removed)
        assert self.text[edit.start : end] == edit.removed
        self.text = self.text[: edit.start] + edit.inserted + self.text[end:]

    def _take_back(self, whole_dictation: bool, utterance: int, samples: tuple[int, int]) -> bool:
        taken: list[Step] = []
        while self._undoable:
            step = self._undoable.pop()
            taken.append(step)
            if not whole_dictation or step.cause == "dictation":
                break
        else:
            self._undoable.extend(reversed(taken))
            return False
        # A "scratch that" on the way has left the text as it was before what it took back: nothing to do for it.
        undone = [step for step in taken if not whole_dictation or step.cause != "undo"]
        edits = tuple(edit.inverse() for step in undone for edit in reversed(step.edits))
        for edit in edits:
            self._change(edit)
        numbers = tuple(step.number for step in taken)
        if whole_dictation:
            self._record("undo", utterance, samples, edits, numbers)
            self._scratched[self._n_steps] = taken
        else:
            # What "scratch that" took back can itself be undone again, once that is undone.
            self._undoable.extend(reversed(self._scratched.pop(taken[0].number, [])))
            self._note(Step(0, "undo", utterance, samples, edits, numbers))
        return True

    def _resolve(self, command: Command) -> tuple[Edit, ...] | None:
        arguments = command.arguments
        if command.name == "insert":
            return (self._insertion(str(arguments["text"])),)
        if command.name == "delete":
            start = _start_of(self.text, str(arguments["scope"]), int(arguments["count"]))
            return (Edit(start, self.text[start:], ""),) if start < len(self.text) else None
        if command.name == "replace":
            return self._replacement(
                str(arguments["old"]), str(arguments["new"]), arguments["scope"] == "all"
            )
        return () if command.name in ("stop", "select") else None

    def _insertion(self, text: str) -> Edit:
        """A mark stands at the last word; a new line leaves no space at the end of the old one."""
        kept = self.text.rstrip(" ")
        return Edit(len(kept), self.text[len(kept) :], text)

    def _replacement(self, old: str, new: str, is_all: bool) -> tuple[Edit, ...] | None:
        pattern = re.compile(
            r"(?<!\w)" + re.sub(r"[её]", "[её]", re.escape(old), flags=re.IGNORECASE) + r"(?!\w)",
            re.IGNORECASE,
        )
        found = list(pattern.finditer(self.text))
        if not found:
            return None
        chosen = found if is_all else found[-1:]
        # From the end, so that earlier positions stay true.
        return tuple(
            Edit(match.start(), match[0], _cased_like(new, match[0])) for match in reversed(chosen)
        )


def split_sentences(text: str) -> list[str]:
    """The sentences of a text; joined they are the text."""
    cuts = [match.end() for match in _SENTENCE_END.finditer(text)]
    return [text[a:b] for a, b in pairwise([0, *cuts, len(text)]) if a < b]


def _cased_like(new: str, old: str) -> str:
    return new[:1].upper() + new[1:] if old[:1].isupper() and new[:1].islower() else new


def _start_of(text: str, scope: str, count: int) -> int:
    """Where the last `count` words, sentences, lines or paragraphs begin, the space before words included."""
    kept = text.rstrip()
    for _ in range(count):
        kept = kept.rstrip()
        if scope == "word":
            kept = re.sub(r"\S+$", "", kept).rstrip(" ")
        elif scope == "sentence":
            line = kept.rfind("\n") + 1
            ends = [match.end() for match in _SENTENCE_END.finditer(kept, line)]
            kept = kept[: ends[-1] if ends else line].rstrip(" ")
        else:
            kept = kept[: kept.rfind("\n") + 1]
    return len(kept)


def _difference(old: str, new: str) -> Edit:
    """The one replacement that makes `new` of `old`."""
    n_most = min(len(old), len(new))
    start = next((i for i in range(n_most) if old[i] != new[i]), n_most)
    tail = 0
    while tail < n_most - start and old[-1 - tail] == new[-1 - tail]:
        tail += 1
    return Edit(start, old[start : len(old) - tail], new[start : len(new) - tail])
