"""Text or command: who decides, what is written, and what is kept back.

A command needs the grammar (the words as they were read, or a phrase that the whole utterance sounds like), no objection of
the model's first token, an utterance between pauses, and a text it can be done to. With less certainty it is written as text
and offered as a command. A selection ("only the first half") is honoured before any of its text leaves the session.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from audio.agreement import Committed
from audio.commands import Command, Literally, parse
from audio.edit_log import Edit, EditLog, split_sentences
from audio.events import CommandHeard, Commit, DictationEvent, TextChange, utf16_length
from audio.pcm import SAMPLE_RATE
from audio.recognizer import Hypothesis, Kind
from audio.segmenter import Utterance
from audio.words import pieces

SELECTION_PAUSE_S = 2.0
_MAX_OFFERS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What an utterance turned out to be. text: to be committed; None for nothing. command: to do, or to offer."""

    kind: Kind
    text: str | None
    command: Command | None = None
    confidence: float = 0.0
    is_offer: bool = False


@dataclass(slots=True)
class _Selection:
    """A selection under way: what it keeps, and the text that waits for it."""

    command: Command
    text: str = ""
    start: int | None = None
    end: int = 0
    last_utterance: int = 0


class Decider:
    """Owns the session's text. `on_stop` is called when a command ends the session."""

    def __init__(
        self,
        before: str,
        mode: Literal["auto", "dictate", "command"],
        emit: Callable[[DictationEvent], None],
        on_stop: Callable[[], None],
    ) -> None:
        self._mode = mode
        self._emit = emit
        self._on_stop = on_stop
        self._selection: _Selection | None = None
        self._offers: dict[int, tuple[Command, int, tuple[int, int]]] = {}
        self._n_commands = 0
        self.log = EditLog(before)

    @property
    def before(self) -> str:
        """The text before the caret, as far as it is known here."""
        return self.log.text

    @property
    def is_withholding(self) -> bool:
        """Whether what is said now is kept back."""
        return self._selection is not None

    def decide(self, utterance: Utterance, found: Hypothesis, committed: str) -> Decision:
        """What this utterance is. committed: what of it has been written already, which makes it text."""
        if found.kind == "none":
            return Decision(kind="none", text=None)
        can_be_asked = self._mode != "dictate" and utterance.is_whole
        meaning = _meaning(found) if can_be_asked else None
        if isinstance(meaning, Literally):
            return Decision(kind="dict", text=found.text if committed else meaning.text)
        if meaning is not None:
            return self._weigh(meaning, found, committed)
        if self._mode == "command":
            return Decision(kind="cmd", text=None)
        return Decision(kind="dict", text=found.text)

    def commit(self, utterance: int, committed: Committed) -> None:
        """Write text, or keep it for the selection."""
        if self._selection is not None:
            selection = self._selection
            selection.text += _joined(selection.text, committed.text)
            selection.start = committed.start if selection.start is None else selection.start
            selection.end, selection.last_utterance = committed.end, utterance
            return
        self._write(committed.text, utterance, committed.start, committed.end)

    def carry_out(self, decision: Decision, utterance: Utterance) -> None:
        """Do or offer the command of a concluded utterance."""
        command = decision.command
        if command is None:
            return
        samples = (utterance.start, utterance.speech_end)
        self._n_commands += 1
        edit = None
        if decision.is_offer:
            self._offers[self._n_commands] = (command, utterance.number, samples)
            while len(self._offers) > _MAX_OFFERS:
                self._offers.pop(next(iter(self._offers)))
        elif command.name == "scratch" and self._selection is not None and self._selection.text:
            self._selection.text = ""  # it has not left, so there is nothing to take back
        else:
            self._release(utterance.start)
            edit = self.log.apply(command, utterance.number, samples)
        self._tell(self._n_commands, decision, utterance.number, samples, edit)
        if not decision.is_offer:
            self._after(command)

    def confirm(self, number: int) -> bool:
        """Do an offered command instead of the text it was written as; False if that can no longer be done."""
        offer = self._offers.pop(number, None)
        if offer is None:
            return False
        command, utterance, samples = offer
        edit = self.log.exchange(command, utterance, samples)
        if edit is None:
            return False
        decision = Decision(kind="cmd", text=None, command=command, confidence=1.0)
        self._tell(number, decision, utterance, samples, edit)
        self._after(command)
        return True

    def silence(self, position: int) -> None:
        """Nothing is being said at `position`: a selection is complete after a long enough pause."""
        selection = self._selection
        if selection is None or selection.start is None:
            return
        if position - selection.end >= SELECTION_PAUSE_S * SAMPLE_RATE:
            self._release(position)

    def finish(self, position: int) -> None:
        """The session ends: what was selected is written."""
        self._release(position)

    def _weigh(self, command: Command, found: Hypothesis, committed: str) -> Decision:
        is_sure = found.p_command >= found.limits.do_at and _is_plain(found) and not committed
        can_be_done = self.log.can_apply(command) or self._selection is not None
        if can_be_done and (is_sure or self._mode == "command"):
            return Decision(kind="cmd", text=None, command=command, confidence=found.p_command)
        if self._mode == "command":
            return Decision(kind="cmd", text=None)
        if not can_be_done or found.p_command < found.limits.offer_at:
            return Decision(kind="dict", text=found.text)
        return Decision(
            kind="dict",
            text=found.text,
            command=command,
            confidence=found.p_command,
            is_offer=True,
        )

    def _after(self, command: Command) -> None:
        if command.name == "select":
            self._selection = _Selection(command)
        elif command.name == "stop" or command.then_stop:
            self._on_stop()

    def _release(self, position: int) -> None:
        """Write what the selection keeps; the rest is forgotten."""
        selection, self._selection = self._selection, None
        if selection is None:
            return
        kept = _selected(selection.text, selection.command)
        if kept:
            start = position if selection.start is None else selection.start
            self._write(kept, selection.last_utterance, start, selection.end)
        if selection.command.then_stop:
            self._on_stop()

    def _write(self, text: str, utterance: int, start: int, end: int) -> None:
        text = _joined(self.log.text, text)
        self.log.dictate(text, utterance, (start, end))
        self._emit(Commit(utterance=utterance, text=text, start=start, end=end))

    def _tell(
        self,
        number: int,
        decision: Decision,
        utterance: int,
        samples: tuple[int, int],
        edit: Edit | None,
    ) -> None:
        assert decision.command is not None
        arguments = dict(decision.command.arguments)
        if decision.command.then_stop:
            arguments["then_stop"] = True
        self._emit(
            CommandHeard(
                id=number,
                utterance=utterance,
                name=decision.command.name,
                arguments=arguments,
                confidence=decision.confidence,
                needs_confirmation=decision.is_offer,
                edit=None if edit is None else self._change_of(edit),
                start=samples[0],
                end=samples[1],
            )
        )

    def _change_of(self, edit: Edit) -> TextChange:
        """An edit that has just been made, as clients count: what stands before it has not changed."""
        return TextChange(
            start_utf16=utf16_length(self.log.text[: edit.start]),
            length_utf16=utf16_length(edit.removed),
            text=edit.inserted,
        )


def _meaning(found: Hypothesis) -> Command | Literally | None:
    """What is asked for: what was read, word for word, or else the phrase that it sounds like as a whole."""
    read = parse(found.text)
    if read is not None or found.phrase is None:
        return read
    if not found.phrase.is_within(found.limits.offer_within):
        return None
    return parse(found.phrase.text)


def _is_plain(found: Hypothesis) -> bool:
    """Whether the words leave no doubt of it."""
    is_near = found.phrase is not None and found.phrase.is_within(found.limits.do_within)
    return is_near or isinstance(parse(found.text), Command)


def _joined(text: str, more: str) -> str:
    """`more` as it follows `text`: with a space, unless there is one or a mark of punctuation follows."""
    is_open = not text or text[-1].isspace() or text[-1] in "([«“\"'—-"
    begins_word = more[:1].isalnum() or more[:1] in "([«“\"'—"
    if is_open:
        return more.lstrip(" ") if not text or text[-1].isspace() else more
    return f" {more}" if begins_word else more


def _selected(text: str, command: Command) -> str:
    """The part of `text` that a selection keeps."""
    unit, count = str(command.arguments["unit"]), int(command.arguments["count"])
    parts = split_sentences(text) if unit == "sentence" else pieces(text)
    n = math.ceil(len(parts) / 2) if unit == "half" else min(count, len(parts))
    from_start = command.arguments["end"] == "first"
    if unit == "half" and not from_start:
        n = len(parts) - n
    chosen = parts[:n] if from_start else parts[len(parts) - n :]
    rest = parts[n:] if from_start else parts[: len(parts) - n]
    return "".join(chosen if command.arguments["keep"] else rest).strip()
