"""From where on a speech model hears a command: limits from one set of utterances, written into the model's folder.

`python -m benchmarks.command_calibration --model DIR` dictates the calibration set of `command_phrases` with the whole product, keeps
what every last pass heard, and searches the limits that do most commands while hardly anything else is done. They
go into `DIR/adapters/dictate`, whose limits serving reads. What they are worth is for `command_decisions` to say, on the other set.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain, product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from audio.command_phrases import closed_phrases
from audio.commands import Command, parse
from audio.recognizer import Hypothesis, Recognition, Recognizer
from audio.session import Hearing
from audio.vad import SpeechDetector
from benchmarks.command_decisions import outcome_of
from benchmarks.command_phrases import Role, Said, say_all, texts
from benchmarks.dictation import installed_model
from benchmarks.harness import Report, describe_machine, publish, say
from pushkin_runtime.speech_folder import ADAPTER, KIND, LIMITS, read_projector
from pushkin_runtime.speech_types import CommandLimits, PhraseLimits
from training.checkpoint import write_atomic

WRONG = 5  # commands not done are as bad as one that nobody asked for
_RESAMPLES = 25
_STEPS = 13  # values of each loss that are tried, evenly among those of the commands
_LOST = (
    0.0,
    0.02,
    0.05,
    0.1,
    0.2,
)  # shares of the commands that a lead or the first token may lose
_WIDER = 1.5  # an offer costs a glance: so much more loss is offered
_HELD = 0.98  # of the commands that are done: none of their words is written while they are said


@dataclass(frozen=True, slots=True)
class Trial:
    """An utterance of the set and what was heard of it. so_far: the most that any preview's was."""

    said: Said
    found: Hypothesis
    so_far: float


class _Listening:
    """Passes on to another recogniser; keeps what it heard. Nothing is done of it: every answer is plain text."""

    def __init__(self, inner: Recognizer) -> None:
        self._inner = inner
        self.last = Hypothesis(kind="none", text="", p_command=0.0, n_tokens=0)
        self.so_far = 0.0

    def recognize(self, wanted: Recognition, is_cancelled: Callable[[], bool]) -> Hypothesis:
        found = self._inner.recognize(wanted, is_cancelled)
        if found.phrase is not None and not wanted.is_final:
            self.so_far = max(self.so_far, found.phrase.so_far)
        self.last = found
        return replace(found, text="once upon a time", kind="dict", phrase=None)


def trial_of(hearing: Hearing, said: Said) -> Trial:
    """Dictate one utterance; a command with previews, everything else with its last pass alone."""
    listening = _Listening(hearing.recognizer)
    outcome_of(Hearing(hearing.detector, listening), said, previews=said.role == "command")
    return Trial(said, listening.last, listening.so_far)


def limits_for(trials: Sequence[Trial]) -> CommandLimits:
    """The limits that do most closed commands and little else: each the median of those that are best for resamples.

    The best for one set alone hang on its last few utterances. Raises ValueError when no limits do more good than harm.
    """
    rng, table = np.random.default_rng(0), _Table(trials)
    best = []
    for _ in range(_RESAMPLES):
        chosen = rng.integers(0, len(trials), len(trials))
        best.append(_Table([trials[i] for i in chosen]).best())
    do_at, ahead, *losses = (float(value) for value in np.median(best, axis=0))
    names = ("per_piece", "edge", "peak")
    within = PhraseLimits(**dict(zip(names, losses, strict=True)), ahead=ahead)
    done = table.done(within, do_at)
    if (done & table.closed).sum() <= WRONG * (done & table.others).sum():
        raise ValueError(
            "no limits tell commands from what sounds like them: is this speech model trained?"
        )
    wider = {name: _WIDER * loss for name, loss in zip(names, losses, strict=True)}
    return CommandLimits(
        do_at=do_at,
        offer_at=do_at / 2,
        do_within=within,
        offer_within=PhraseLimits(**wider, ahead=min(0.0, ahead)),
        may_become_at=float(np.quantile(table.so_far[done & table.closed], _HELD)),
    )


class _Table:
    """The trials as columns."""

    def __init__(self, trials: Sequence[Trial]) -> None:
        inf = float("inf")
        asked = np.array([t.said.role == "command" for t in trials])
        self.languages = np.array([t.said.language for t in trials])
        closed = set(chain.from_iterable(closed_phrases().values()))
        self.closed = asked & np.array([t.said.text in closed for t in trials])
        self.others = ~asked
        self.heard = np.array([t.found.kind != "none" for t in trials])
        self._read = np.array([isinstance(parse(t.found.text), Command) for t in trials])
        self._p_command = np.array([t.found.p_command for t in trials])
        self.so_far = np.array([t.so_far for t in trials])
        phrases = [t.found.phrase for t in trials]
        self._loss: dict[str, NDArray[np.float64]] = {
            name: np.array([inf if p is None else getattr(p, name) for p in phrases])
            for name in ("per_piece", "edge", "peak")
        }
        self._ahead = np.array([-inf if p is None else p.ahead for p in phrases])

    def done(self, within: PhraseLimits, do_at: float) -> NDArray[np.bool_]:
        """Which utterances are done as commands."""
        like = self._ahead >= within.ahead
        for name, loss in self._loss.items():
            like &= loss <= getattr(within, name)
        return self.heard & (self._read | like) & (self._p_command >= do_at)

    def best(self) -> tuple[float, ...]:
        """do_at, ahead and the three losses with which most is done, a wrong command counted as WRONG that are not done."""
        steps = [self._steps(loss) for loss in self._loss.values()]
        within = [
            loss <= own[:, None] for loss, own in zip(self._loss.values(), steps, strict=True)
        ]
        found: list[tuple[float, tuple[float, ...]]] = []
        for ahead, do_at in product(self._leads(), self._objections()):
            may = self.heard & (self._p_command >= do_at)
            weight = may * (1.0 * self.closed - WRONG * self.others)
            like = weight * (~self._read & (self._ahead >= ahead))
            merit = (within[0][:, None] & within[1]) * like @ within[2].T + weight @ self._read
            at = np.unravel_index(int(merit.argmax()), merit.shape)  # the tightest of equals
            losses = (float(own[i]) for own, i in zip(steps, at, strict=True))
            found.append((float(merit[at]), (do_at, ahead, *losses)))
        return max(found)[1]

    def _leads(self) -> list[float]:
        """Least leads over another phrase to try."""
        own = self._ahead[self.closed & np.isfinite(self._ahead)]
        return sorted({0.0, *(float(np.quantile(own, s)) for s in _LOST if len(own))})

    def _objections(self) -> list[float]:
        """Shares of <cmd> to ask for."""
        own = self._p_command[self.closed]
        return sorted({0.0, *(float(np.quantile(own, s)) for s in _LOST if len(own))})

    def _steps(self, loss: NDArray[np.float64]) -> NDArray[np.float64]:
        """Limits of a loss to try: what so many of the commands keep within."""
        own = loss[self.closed & np.isfinite(loss)]
        return np.quantile(own, np.linspace(0.4, 1.0, _STEPS)) if len(own) else np.zeros(1)


def write_limits(folder: Path, limits: CommandLimits) -> None:
    """Put limits into the manifest of a speech model's folder. Raises ModelCorrupt when it is none."""
    read_projector(folder)
    path = folder / f"{KIND}.json"
    manifest: dict[str, Any] = json.loads(path.read_bytes())
    manifest["settings"][LIMITS] = asdict(limits)
    write_atomic(path, json.dumps(manifest, ensure_ascii=False, indent=2) + "\n")
    read_projector(folder)


def main() -> int:
    """Run; 2 without a speech model."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="only JSON, nothing on stderr")
    parser.add_argument("--model", type=Path, required=True, help="folder of the base model")
    parser.add_argument("--commands", type=int, default=112, help="of each language")
    parser.add_argument("--near-misses", type=int, default=112, help="of each language")
    parser.add_argument("--dictation", type=int, default=60, help="of each language")
    arguments = parser.parse_args()
    notes: list[str] = []
    folder = arguments.model.resolve()
    with installed_model(notes, {"runtime.model": str(folder)}) as recognizer:
        if recognizer is None:
            say(notes[0])
            return 2
        trials = [*_trials(Hearing(SpeechDetector(), recognizer), arguments)]
    limits = limits_for(trials)
    write_limits(folder / "adapters" / ADAPTER, limits)
    publish(
        Report(
            benchmark="command_calibration",
            environment=describe_machine(),
            figures={},
            counts={"utterances": len(trials), "limits": asdict(limits), **shares(trials, limits)},
            notes=(*notes, "On the set that the limits were chosen on: no measure of the model."),
        ),
        quiet=arguments.json,
    )
    return 0


def shares(trials: Sequence[Trial], limits: CommandLimits) -> dict[str, Any]:
    """What the limits do on the set they were chosen on, by language."""
    table = _Table(trials)
    done = table.done(limits.do_within, limits.do_at)
    found: dict[str, Any] = {}
    for language in np.unique(table.languages).tolist():
        own = table.languages == language
        found[language] = {
            "closed_commands": int((own & table.closed).sum()),
            "closed_commands_done": int((own & table.closed & done).sum()),
            "others_done": int((own & table.others & done).sum()),
            "heard_as_none": int((own & ~table.heard).sum()),
        }
    return found


def _trials(hearing: Hearing, arguments: argparse.Namespace) -> Iterator[Trial]:
    wanted: tuple[tuple[Role, int], ...] = (
        ("command", arguments.commands),
        ("near_miss", arguments.near_misses),
        ("dictation", arguments.dictation),
    )
    for language, (role, n) in product(("en", "ru"), wanted):
        for said in say_all(language, role, "calibration", texts(language, role, "calibration", n)):
            yield trial_of(hearing, said)
        say(f"{language}: {n} of {role}")


if __name__ == "__main__":
    sys.exit(main())
