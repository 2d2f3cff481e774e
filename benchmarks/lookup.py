"""What prompt lookup gains: the same passages rephrased with it and without it, seed by seed, in one run.

Two runtimes over the same model take turns. A seed writes the same text in both; how often it did is counted too.
"""

from __future__ import annotations

import re
import statistics
import sys
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.harness import (
    Report,
    common_parser,
    daemon_flags,
    describe_environment,
    figure,
    publish,
)
from benchmarks.in_process import run_bare, started
from benchmarks.typing_trace import LANGUAGES, read_script
from daemon.config import load
from daemon.runtime_options import runtime_options as configured
from pushkin_runtime.engines.base import Engine, EngineOptions, KVCache
from pushkin_runtime.engines.registry import EngineChoice, create_engine
from pushkin_runtime.runtime import Runtime, RuntimeOptions
from pushkin_runtime.sampling_types import SamplingOverrides
from pushkin_runtime.types import GenerationRequest

BAR = 1.5  # times as many tokens a second
SENTENCES = 2  # to a passage
PASSAGES = 6  # of a language
INSTRUCTIONS = ("", "shorter")


class PassCounter:
    """An engine that counts what its model was run for; everything else is the engine's own."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.n_passes = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def extend(self, cache: KVCache, tokens: Any, *, n_logits: int) -> NDArray[np.float32]:
        self.n_passes += 1
        return self._engine.extend(cache, tokens, n_logits=n_logits)


@dataclass(slots=True)
class Found:
    """ratios: tokens a second with lookup over without, of each answer."""

    with_lookup: list[float] = field(default_factory=list)
    without: list[float] = field(default_factory=list)
    ratios: list[float] = field(default_factory=list)
    tokens_a_pass: list[float] = field(default_factory=list)
    n_tokens: int = 0
    n_answers: int = 0
    n_equal: int = 0


def passages() -> list[str]:
    """Return passages of two sentences in each language."""
    found = []
    for language in LANGUAGES:
        sentences = re.split(r"(?<=[.!?])\s+", read_script(language)["before"].strip())
        pairs = [
            " ".join(sentences[i : i + SENTENCES]) for i in range(0, len(sentences), SENTENCES)
        ]
        found += pairs[:PASSAGES]
    return found


def compare(
    runtimes: tuple[Runtime, Runtime], counter: PassCounter, rounds: int, temperature: float | None
) -> Found:
    """Rephrase every passage with both, the first with lookup; the order changes from one to the next."""
    found = Found()
    orders = [
        (text, instruction, seed)
        for seed in range(rounds)
        for text in passages()
        for instruction in INSTRUCTIONS
    ]
    for number, (text, instruction, seed) in enumerate(orders):
        request = GenerationRequest(
            request_id=f"rephrase-{number}",
            task="rephrase",
            text=text,
            instruction=instruction,
            sampling=SamplingOverrides(seed=seed, temperature=temperature),
        )
        speeds, texts = [0.0, 0.0], ["", ""]
        n_passes = 0
        for place in (0, 1) if number % 2 else (1, 0):
            before = counter.n_passes
            result = run_bare(runtimes[place], request).result
            n_tokens = result.usage.completion_tokens
            speeds[place] = n_tokens / max(result.timings.decode_ms, 1e-3) * 1000
            texts[place] = result.choices[0].text
            if place == 0:
                n_passes = counter.n_passes - before - 1  # one is the prompt's
        found.n_answers += 1
        found.n_equal += texts[0] == texts[1]
        if n_tokens < 4:
            continue
        found.n_tokens += n_tokens
        found.with_lookup.append(speeds[0])
        found.without.append(speeds[1])
        found.ratios.append(speeds[0] / speeds[1])
        found.tokens_a_pass.append(n_tokens / max(1, n_passes))
    return found


def options(engine: str | None, model: str | None) -> RuntimeOptions:
    """What the daemon would run, adapters included."""
    loaded = load({"runtime.engine": engine, "runtime.model": model})
    return configured(loaded)


def main() -> int:
    """Run and publish."""
    parser = common_parser(__doc__)
    parser.add_argument("--rounds", type=int, default=1, help="seeds for each passage")
    parser.add_argument("--temperature", type=float, help="unset: the task's own")
    arguments = parser.parse_args()
    wanted = options(**daemon_flags(arguments))
    counters: list[PassCounter] = []

    def counted(choice: EngineChoice, engine_options: EngineOptions) -> Any:
        counters.append(PassCounter(create_engine(choice, engine_options)))
        return counters[-1]

    with (
        started(
            Runtime(replace(wanted, lookup_tasks=frozenset({"rephrase"})), create=counted)
        ) as on,
        started(Runtime(replace(wanted, lookup_tasks=frozenset()))) as off,
    ):
        found = compare((on, off), counters[0], arguments.rounds, arguments.temperature)
        status = on.status()
    assert status.model is not None
    publish(_report(found, status.engine, asdict(status.model)), quiet=arguments.json)
    return 0


def _report(found: Found, engine: str, model: dict[str, Any]) -> Report:
    return Report(
        benchmark="lookup",
        environment=describe_environment({"engine": {"name": engine}, "model": model}),
        figures={
            "tokens_per_second_with": figure(found.with_lookup, "tokens/s"),
            "tokens_per_second_without": figure(found.without, "tokens/s"),
            "ratio": figure(found.ratios, "times", bar=BAR),
            "tokens_a_pass": figure(found.tokens_a_pass, "tokens"),
        },
        counts={
            "answers": found.n_answers,
            "equal": found.n_equal,
            "tokens": found.n_tokens,
            "ratio_of_totals": round(
                statistics.harmonic_mean(found.with_lookup)
                / statistics.harmonic_mean(found.without),
                3,
            ),
        },
        notes=("Decode alone; the ratio is of the same answer in the same run.",),
    )


if __name__ == "__main__":
    sys.exit(main())
