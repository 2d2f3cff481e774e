"""Dictation through the real capture path: first words, commits, finals, flicker, losses; and long dictations.

With the oracle, which knows the words and their times, the figures are those of everything around the model; with the
model (when a speech model is installed) they are the product's. Delays from a virtual microphone; see dictation_runs.py.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from audio.oracle import OracleRecognizer
from audio.pcm import to_samples
from audio.recognizer import Recognizer
from audio.session import Hearing
from audio.vad import SpeechDetector
from benchmarks import espeak
from benchmarks.dictation_runs import Delays, Script, dictate, make_script, measure
from benchmarks.dictation_soak import soak
from benchmarks.harness import Figure, Report, describe_machine, figure, publish, say
from benchmarks.virtual_microphone import VirtualMicrophone, missing, virtual_microphone

FIRST_BAR_MS = 800.0
COMMIT_BAR_MS = 1200.0
FINAL_BAR_MS = 400.0
SOAK_PACES = (125, 150, 180)
SOAK_FLAGS = {"runtime.kv_budget_mb": 16}  # the least there is: full within the warm-up


def main() -> int:
    """Run; 1 when sound was lost or a pass failed, 2 when something is not installed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="only JSON, nothing on stderr")
    parser.add_argument("--runs", type=int, default=2, help="times the script is spoken")
    parser.add_argument("--recognizer", choices=("both", "oracle", "model"), default="both")
    parser.add_argument("--soak-minutes", type=float, default=0.0)
    arguments = parser.parse_args()
    needed = missing() + (["espeak-ng"] if espeak.is_missing() else [])
    if needed:
        say(f"Not installed: {', '.join(needed)}.")
        return 2
    figures: dict[str, Figure] = {}
    counts: dict[str, Any] = {}
    notes: list[str] = []
    script = make_script()
    flags = SOAK_FLAGS if arguments.soak_minutes else {}
    with virtual_microphone() as microphone:
        for name, recognizer in _recognizers(arguments.recognizer, script, notes, flags):
            bench = _Bench(name, Hearing(SpeechDetector(), recognizer), microphone, script)
            bench.run(arguments, figures, counts)
        if arguments.recognizer != "model":
            _at_twice_the_load(microphone, script, counts)
    notes.append(
        "The speech is one synthetic voice for each language: it shows timing, and nothing of accuracy on people."
    )
    notes.append(
        "Finals after the last word include the 0.5 s of silence that end an utterance; after_stop does not."
    )
    publish(
        Report(
            benchmark="dictation",
            environment=describe_machine(),
            figures=figures,
            counts=counts,
            notes=tuple(notes),
        ),
        quiet=arguments.json,
    )
    is_bad = any(v > 0 for k, v in counts.items() if k.endswith(("lost_ms", "failed_passes")))
    return int(is_bad)


class _Bench:
    """One recogniser's runs; its figures carry its name."""

    def __init__(
        self, name: str, hearing: Hearing, microphone: VirtualMicrophone, script: Script
    ) -> None:
        self._name = name
        self._hearing = hearing
        self._microphone = microphone
        self._script = script

    def run(
        self, arguments: argparse.Namespace, figures: dict[str, Figure], counts: dict[str, Any]
    ) -> None:
        """Everything that was asked for."""
        delays = Delays()
        for i in range(arguments.runs):
            say(f"{self._name}: run {i + 1} of {arguments.runs}")
            measure(dictate(self._microphone, self._script, self._hearing), self._script, delays)
        after_stop = self._stopped()
        named = {
            "first_word": (delays.first, FIRST_BAR_MS),
            "commit": (delays.commit, COMMIT_BAR_MS),
            "text_complete_after_last_word": (delays.complete, FINAL_BAR_MS),
            "final_after_last_word": (delays.final, None),
            "final_after_pause": (delays.decided, None),
            "final_after_stop": (after_stop, FINAL_BAR_MS),
        }
        for name, (samples, bar) in named.items():
            if samples:
                figures[f"{self._name}_{name}"] = figure(samples, "ms", bar=bar)
        counts |= self._counted(delays)
        if arguments.soak_minutes:
            is_told = self._name == "oracle"  # the words of one script
            script = self._script if is_told else make_script(paces=SOAK_PACES)
            found = soak(self._microphone, script, self._hearing, arguments.soak_minutes)
            counts |= {f"{self._name}_soak_{name}": value for name, value in found.items()}

    def _counted(self, delays: Delays) -> dict[str, Any]:
        shown = max(1, delays.n_said)
        return {
            f"{self._name}_words_said": delays.n_said,
            f"{self._name}_words_right": delays.n_right,
            f"{self._name}_words_wrong": delays.n_committed - delays.n_right,
            f"{self._name}_flicker": round(delays.n_flickered / shown, 4),
            f"{self._name}_lost_ms": round(delays.lost_ms, 1),
            f"{self._name}_failed_passes": delays.n_failed,
        }

    def _stopped(self) -> list[float]:
        """Delays from pressing stop, just as the last word ends, to the end of the session."""
        single = make_script(1)
        found = []
        for _ in range(3):
            heard = dictate(
                self._microphone, single, self._hearing, stop_after=single.words[-1].end
            )
            assert heard.stopped_at is not None
            found.append(1000 * (heard.events[-1][0] - heard.stopped_at))
        return found


def _at_twice_the_load(
    microphone: VirtualMicrophone, script: Script, counts: dict[str, Any]
) -> None:
    """A recogniser that takes twice the time of what it hears: previews become rare, nothing is lost."""
    say("oracle: at twice the load")
    slow = OracleRecognizer(script.words, reference=to_samples(script.pcm), real_time_factor=2.0)
    delays = Delays()
    heard = dictate(microphone, script, Hearing(SpeechDetector(), slow))
    measure(heard, script, delays)
    counts["double_load_lost_ms"] = round(delays.lost_ms, 1)
    counts["double_load_words_said"] = delays.n_said
    counts["double_load_words_right"] = delays.n_right


def _recognizers(
    which: str, script: Script, notes: list[str], flags: Mapping[str, object]
) -> Iterator[tuple[str, Recognizer]]:
    if which != "model":
        yield "oracle", OracleRecognizer(script.words, reference=to_samples(script.pcm))
    if which != "oracle":
        with installed_model(notes, flags) as recognizer:
            if recognizer is not None:
                yield "model", recognizer


@contextmanager
def installed_model(
    notes: list[str], flags: Mapping[str, object] | None = None
) -> Iterator[Recognizer | None]:
    """The product's recogniser on the configured model, if it can hear. flags: of the configuration, by section.key."""
    from audio.runtime_recognizer import RuntimeRecognizer
    from daemon.config import load
    from daemon.lifecycle import build_runtime
    from pushkin_runtime.errors import RuntimeFault

    runtime = build_runtime(load(flags))
    runtime.start()
    try:
        recognizer = RuntimeRecognizer(_loaded(runtime))
        recognizer.prepare()
        yield recognizer
    except RuntimeFault as error:
        notes.append(f"No figures of the model: {error}")
        yield None
    finally:
        runtime.close(drain_s=5)


def _loaded(runtime: Any) -> Any:
    import time

    while runtime.status().state == "loading":
        time.sleep(0.05)
    return runtime


if __name__ == "__main__":
    sys.exit(main())
