"""Hours in which nobody speaks: what is written all the same, and which gate held the rest back.

`python -m benchmarks.false_words --minutes 30` hears so much of each of silence, hum, keyboard and music, and a fifth of it of
each other sound; `--recordings DIR` adds the recorded noises of a folder. Faster than real time, in audio time (see
`dictation_lockstep`), with the installed speech model. `--speech FILES.jsonl` counts in how many clips of speech anything is heard: a gate
that hears nothing is no gate. Numbers a reader can compare have the same --seed; a threshold set on one is reported on another.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from audio.events import CommandHeard, Commit, DictationEvent
from audio.pcm import SAMPLE_RATE
from audio.session import Hearing
from audio.vad import FRAME_S, SpeechDetector
from benchmarks.dictation import installed_model
from benchmarks.dictation_lockstep import Lockstep
from benchmarks.dictation_sounds import MORE_SOUNDS, SOUNDS, at_dbfs, sound_of
from benchmarks.harness import Report, describe_machine, publish, say

BAR_PER_HOUR = 1.0
_MORE_SHARE = 0.2
_AROUND_S = 1.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of one kind of sound. speech_s: time the detector takes for speech (gate 1 opens there); clicks: too short for an
    utterance. passes_none: the model says nobody spoke (gate 2). passes_wordless, screened: nothing to write, or too much of it (gate 3).
    words, commands: what came of it all."""

    minutes: float
    speech_s: float
    clicks: int
    utterances: int
    passes: int
    passes_none: int
    passes_wordless: int
    screened: int
    words: int
    commands: int


def outcome_of(hearing: Hearing, stretches: Iterable[NDArray[np.float32]]) -> Outcome:
    """Hear it all in one dictation."""
    events: list[DictationEvent] = []
    dictation = Lockstep(hearing, events.append)
    n_samples = 0
    for stretch in stretches:
        n_samples += len(stretch)
        dictation.push(stretch)
    dictation.finish()
    counts, passes = dictation.streaming.counts, dictation.passes
    return Outcome(
        minutes=round(n_samples / SAMPLE_RATE / 60, 2),
        speech_s=round(dictation.n_speech_frames * FRAME_S, 1),
        clicks=counts.n_empty,
        utterances=counts.n_utterances,
        passes=passes.n,
        passes_none=passes.n_none,
        passes_wordless=passes.n_wordless,
        screened=counts.n_shed + counts.n_echoes,
        words=sum(len(e.text.split()) for e in events if isinstance(e, Commit)),
        commands=sum(isinstance(e, CommandHeard) and not e.needs_confirmation for e in events),
    )


def recorded(path: Path, seconds: float, seed: int) -> Iterator[NDArray[np.float32]]:
    """A recording over and over, each time at another speed, level and place to begin."""
    sound, rate = soundfile.read(path, dtype="float64", always_2d=True)
    rng = np.random.default_rng([seed, *path.stem.encode()])
    left = round(seconds * SAMPLE_RATE)
    while left > 0:
        faster = rng.uniform(0.8, 1.25)
        heard = soxr.resample(
            np.roll(sound[:, 0], rng.integers(len(sound))), rate * faster, SAMPLE_RATE
        )[:left]
        left -= len(heard)
        yield at_dbfs(heard, rng.uniform(-50, -14)).astype(np.float32)


def is_heard(hearing: Hearing, speech: NDArray[np.float32]) -> bool:
    """Whether anything is written, or done, of a clip with a second of quiet room before and after it."""
    events: list[DictationEvent] = []
    dictation = Lockstep(hearing, events.append, previews=False)
    room = np.random.default_rng(len(speech)).standard_normal(
        len(speech) + 2 * int(_AROUND_S * SAMPLE_RATE)
    )
    sound = (room * 3e-4).astype(np.float32)
    sound[int(_AROUND_S * SAMPLE_RATE) :][: len(speech)] += speech
    dictation.push(sound)
    dictation.finish()
    return any(isinstance(e, Commit | CommandHeard) for e in events)


def shares_heard(hearing: Hearing, lists: Iterable[Path]) -> dict[str, Any]:
    """By group of the lists (lines of {"path", "group"}, paths from the list's own folder): clips, and the share heard."""
    found: dict[str, list[bool]] = {}
    for listed in lists:
        for line in listed.read_text("utf-8").splitlines():
            row = json.loads(line)
            speech, rate = soundfile.read(listed.parent / row["path"], dtype="float32")
            speech = np.asarray(soxr.resample(speech, rate, SAMPLE_RATE), np.float32)
            found.setdefault(row["group"], []).append(is_heard(hearing, speech))
    return {
        group: {"clips": len(own), "heard": round(float(np.mean(own)), 4)}
        for group, own in sorted(found.items())
    }


def main() -> int:
    """Run; 1 when there were more false words than the bar allows, 2 without a speech model."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="only JSON, nothing on stderr")
    parser.add_argument("--minutes", type=float, default=30.0, help="of each of the four sounds")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--recordings", type=Path, help="a folder of noises without speech")
    parser.add_argument("--speech", type=Path, nargs="*", default=[], help="lists of clips")
    arguments = parser.parse_args()
    notes: list[str] = []
    with installed_model(notes) as recognizer:
        if recognizer is None:
            say(notes[0])
            return 2
        hearing = Hearing(SpeechDetector(), recognizer)
        outcomes = {
            name: _reported(name, outcome_of(hearing, stretches))
            for name, stretches in _sounds(arguments)
        }
        heard = shares_heard(hearing, arguments.speech)
    four = [outcomes[name] for name in SOUNDS]
    totals = {"four_sounds": _per_hour(four), "all_sounds": _per_hour(list(outcomes.values()))}
    notes.append(
        "The sounds are synthetic but for the recordings; pieces of them are no hours in a real room."
    )
    counts = {"seed": arguments.seed, **totals, "bar_words_per_hour": BAR_PER_HOUR}
    counts |= {"sounds": {name: asdict(o) for name, o in outcomes.items()}, "speech_heard": heard}
    publish(
        Report(
            benchmark="false_words",
            environment=describe_machine(),
            figures={},
            counts=counts,
            notes=tuple(notes),
        ),
        quiet=arguments.json,
    )
    return int(totals["four_sounds"]["words_per_hour"] > BAR_PER_HOUR)


def _sounds(
    arguments: argparse.Namespace,
) -> Iterator[tuple[str, Iterator[NDArray[np.float32]]]]:
    seconds, seed = arguments.minutes * 60, arguments.seed
    for name in SOUNDS:
        yield name, sound_of(name, seconds, seed)
    for name in MORE_SOUNDS:
        yield name, sound_of(name, seconds * _MORE_SHARE, seed)
    files = sorted(arguments.recordings.iterdir()) if arguments.recordings else []
    for path in files:
        yield f"recorded {path.stem}", recorded(path, seconds * _MORE_SHARE, seed)


def _reported(name: str, outcome: Outcome) -> Outcome:
    say(f"{name}: {outcome.words} words, {outcome.passes} passes in {outcome.minutes:g} min")
    return outcome


def _per_hour(outcomes: list[Outcome]) -> dict[str, float]:
    hours = sum(o.minutes for o in outcomes) / 60
    words = sum(o.words for o in outcomes)
    return {"hours": round(hours, 3), "words": words, "words_per_hour": round(words / hours, 3)}


if __name__ == "__main__":
    sys.exit(main())
