"""Commands told from text by the whole product: how often rightly, in both languages, and which part of it decided.

`python -m benchmarks.command_decisions` speaks commands, sentences that nearly are some and everyday sentences in synthetic voices that were
never trained on, each between pauses, and dictates them with the installed speech model (see `dictation_lockstep`): commands
with previews, where one may be lost to an early commit, and everything else with one pass, where a command can only be found. Synthetic
voices prove the decision; they prove nothing about how well people are understood.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy import stats

from audio.agreement import Committed
from audio.commands import Command, parse
from audio.events import CommandHeard, DictationEvent
from audio.pcm import SAMPLE_RATE
from audio.recognizer import Hypothesis, Recognition, Recognizer
from audio.session import Hearing
from audio.vad import SpeechDetector
from benchmarks.command_phrases import Role, Said, Set, is_closed, say_all, texts
from benchmarks.dictation import installed_model
from benchmarks.dictation_lockstep import Lockstep
from benchmarks.harness import Report, describe_machine, publish, say

PRECISION_BAR, RECALL_BAR = 0.98, 0.85
CONFIDENCE = 0.95
_AROUND_S = 1.0
_BEFORE = {
    "en": "In the morning the captain wrote a letter by the river. Nobody answered. ",
    "ru": "Утро было тихое, река спала. Капитан закончил письмо. ",
}
_DICTATED = {"en": "She closed the door.", "ru": "Она закрыла дверь."}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of an utterance. done, offered: the command, as `parse` has it. read: the last pass was the command word for word."""

    said: Said
    done: Command | None
    offered: Command | None
    read: bool

    @property
    def is_right(self) -> bool:
        """Whether just what was asked for was done."""
        return self.done is not None and self.done == parse(self.said.text)


class _Last:
    """Passes on to another recogniser; keeps its last answer. told: what it is made to have read, for its last pass."""

    def __init__(self, inner: Recognizer, told: str | None) -> None:
        self._inner, self._told = inner, told
        self.text = ""

    def recognize(self, wanted: Recognition, is_cancelled: Callable[[], bool]) -> Hypothesis:
        found = self._inner.recognize(wanted, is_cancelled)
        self.text = found.text
        return found if self._told is None else replace(found, text=self._told, phrase=None)


def outcome_of(hearing: Hearing, said: Said, *, previews: bool, is_told: bool = False) -> Outcome:
    """Dictate one utterance after a sentence that can be taken back. is_told: with the right words, whatever was heard."""
    events: list[DictationEvent] = []
    last = _Last(hearing.recognizer, said.text if is_told else None)
    dictation = Lockstep(
        Hearing(hearing.detector, last),
        events.append,
        before=_BEFORE[said.language],
        previews=previews,
    )
    dictation.decider.commit(0, Committed(_DICTATED[said.language], 0, 1))
    events.clear()
    n_around = int(_AROUND_S * SAMPLE_RATE)
    room = np.random.default_rng(len(said.samples)).standard_normal(
        len(said.samples) + 2 * n_around
    )
    sound = (3e-4 * room).astype(np.float32)
    sound[n_around:-n_around] += said.samples
    dictation.push(sound)
    dictation.finish()
    heard = [event for event in events if isinstance(event, CommandHeard)]
    done = [_asked(event) for event in heard if not event.needs_confirmation]
    offered = [_asked(event) for event in heard if event.needs_confirmation]
    return Outcome(
        said=said,
        done=done[0] if done else None,
        offered=offered[0] if offered else None,
        read=isinstance(parse(last.text), Command),
    )


def _asked(event: CommandHeard) -> Command:
    arguments = dict(event.arguments)
    then_stop = bool(arguments.pop("then_stop", False))
    return Command(name=event.name, arguments=arguments, then_stop=then_stop)  # type: ignore[arg-type]


def figures_of(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Precision and recall of "this is a command", with intervals; what was asked for exactly; and by whose doing."""
    asked = [o for o in outcomes if o.said.role == "command"]
    others = [o for o in outcomes if o.said.role != "command"]
    n_true = sum(o.done is not None for o in asked)
    n_false = sum(o.done is not None for o in others)
    n_right = sum(o.is_right for o in asked)
    n_done = n_true + n_false
    return {
        "utterances": len(outcomes),
        "commands": len(asked),
        "done": n_true,
        "done_wrongly": n_false,
        "precision": _share(n_true, n_done),
        "recall": _share(n_true, len(asked)),
        "exactly_as_asked": _share(n_right, n_done),
        "recall_exactly": _share(n_right, len(asked)),
        "read_word_for_word": _share(sum(o.read for o in asked), len(asked)),
        "offered": sum(o.offered is not None for o in asked),
        "offered_wrongly": sum(o.offered is not None for o in others),
    }


def _share(n: int, of: int) -> dict[str, float] | None:
    """A share with its Wilson interval."""
    if not of:
        return None
    interval = stats.binomtest(n, of).proportion_ci(CONFIDENCE, method="wilson")
    return {
        "share": round(n / of, 4),
        "low": round(float(interval.low), 4),
        "high": round(float(interval.high), 4),
    }


def main() -> int:
    """Run; 1 when a bar was missed, 2 without a speech model."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="only JSON, nothing on stderr")
    parser.add_argument("--set", choices=("calibration", "report"), default="report")
    parser.add_argument("--commands", type=int, default=112, help="of each language")
    parser.add_argument("--near-misses", type=int, default=112, help="of each language")
    parser.add_argument("--dictation", type=int, default=0, help="of each language")
    parser.add_argument("--languages", nargs="+", choices=("en", "ru"), default=("en", "ru"))
    parser.add_argument("--told", action="store_true", help="and with the right words")
    arguments = parser.parse_args()
    notes: list[str] = []
    counts: dict[str, Any] = {"bars": {"precision": PRECISION_BAR, "recall": RECALL_BAR}}
    with installed_model(notes) as recognizer:
        if recognizer is None:
            say(notes[0])
            return 2
        hearing = Hearing(SpeechDetector(), recognizer)
        outcomes = [*_outcomes(hearing, arguments)]
        counts |= _by_language(outcomes)
        if arguments.told:
            asked = [o.said for o in outcomes if o.said.role == "command"]
            told = [outcome_of(hearing, s, previews=False, is_told=True) for s in asked]
            counts["with_the_right_words"] = _by_language(told)
    wrong = [[o.said.text, o.done.name] for o in outcomes if o.done and o.said.role != "command"]
    counts["done_wrongly"] = wrong[:40]
    counts["voices"] = dict(Counter(o.said.voice for o in outcomes))
    publish(
        Report(
            benchmark="command_decisions",
            environment=describe_machine(),
            figures={},
            counts=counts,
            notes=(*notes, "Synthetic voices: nothing of how people are understood."),
        ),
        quiet=arguments.json,
    )
    found = counts["both"]["all"]
    bars = {"precision": PRECISION_BAR, "recall": RECALL_BAR}
    return int(any(found[name] and found[name]["share"] < bar for name, bar in bars.items()))


def _by_language(outcomes: Sequence[Outcome]) -> dict[str, dict[str, Any]]:
    """closed: without the commands that have words of the user's own."""
    found: dict[str, dict[str, Any]] = {}
    for language in ("en", "ru", "both"):
        own = [o for o in outcomes if language in (o.said.language, "both")]
        closed = [o for o in own if o.said.role != "command" or is_closed(o.said.text)]
        found[language] = {"all": figures_of(own), "closed": figures_of(closed)}
    return found


def _outcomes(hearing: Hearing, arguments: argparse.Namespace) -> Iterator[Outcome]:
    which: Set = arguments.set
    wanted: tuple[tuple[Role, int], ...] = (
        ("command", arguments.commands),
        ("near_miss", arguments.near_misses),
        ("dictation", arguments.dictation),
    )
    for language in arguments.languages:
        for role, n in wanted:
            sentences = texts(language, role, which, n)
            for said in say_all(language, role, which, sentences):
                yield outcome_of(hearing, said, previews=role == "command")
            if n:
                say(f"{language}: {n} of {role}")


if __name__ == "__main__":
    sys.exit(main())
