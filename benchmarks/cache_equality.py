"""Does the prompt cache ever change what is written? Greedy answers with it and without it, edit by edit.

Two runtimes: one whose cache keeps everything, one whose cache keeps nothing and prefills in a single chunk.
Between the compared edits the kept cache is disturbed as in life: generations cancelled half-way, batches
of alternatives, other tasks, other documents.
"""

from __future__ import annotations

import itertools
import random
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

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
from daemon.paths import find_model
from pushkin_runtime.runtime import Runtime, RuntimeOptions
from pushkin_runtime.sampling_types import SamplingOverrides
from pushkin_runtime.types import GenerationRequest

Zone = Literal["in_window", "past_window", "context_cut"]

ZONES: tuple[Zone, ...] = ("in_window", "past_window", "context_cut")
MAX_TOKENS = 12
WHOLE_PROMPT = 1 << 20  # tokens in a chunk
DISTURB_SHARE = 0.4  # of the edits are preceded by a disturbance
CHARS = {"in_window": 500, "past_window": 4_000, "context_cut": 16_000}


@dataclass(slots=True)
class Outcome:
    """What was compared; mismatches: the zone and the edit of each answer that differed."""

    zones: Counter[str] = field(default_factory=Counter)
    disturbances: Counter[str] = field(default_factory=Counter)
    mismatches: list[tuple[str, int]] = field(default_factory=list)
    cached_share: list[float] = field(default_factory=list)
    prefill_with_ms: list[float] = field(default_factory=list)
    prefill_without_ms: list[float] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Edit:
    """The text before the caret after an edit."""

    number: int
    zone: Zone
    text: str


def compare(
    kept: Runtime, nothing: Runtime, *, n_edits: int, seed: int, zones: tuple[Zone, ...] = ZONES
) -> Outcome:
    """Make `n_edits` random edits and write after each, with the cache and without it."""
    outcome = Outcome()
    chance = random.Random(seed)
    for edit in itertools.islice(random_edits(chance, zones), n_edits):
        if chance.random() < DISTURB_SHARE:
            outcome.disturbances[_disturb(kept, edit, chance)] += 1
        request = _request(edit, f"edit-{edit.number}")
        with_cache, without = run_bare(kept, request).result, run_bare(nothing, request).result
        assert without.usage.cached_tokens == 0
        outcome.zones[edit.zone] += 1
        if with_cache.choices[0].text != without.choices[0].text:
            outcome.mismatches.append((edit.zone, edit.number))
        usage = with_cache.usage
        outcome.cached_share.append(100 * usage.cached_tokens / max(1, usage.prompt_tokens))
        outcome.prefill_with_ms.append(with_cache.timings.prefill_ms)
        outcome.prefill_without_ms.append(without.timings.prefill_ms)
    return outcome


def random_edits(chance: random.Random, zones: tuple[Zone, ...] = ZONES) -> Iterator[Edit]:
    """Yield edits of several documents for ever: at the end, in the middle, back and forth, cut and paste."""
    words = {language: read_script(language)["before"].split() for language in LANGUAGES}
    documents = {
        (language, zone): _text(words[language], CHARS[zone], chance)
        for language in LANGUAGES
        for zone in zones
    }
    for number in itertools.count():
        language, zone = key = chance.choice(list(documents))
        text = documents[key]
        caret = chance.choice((len(text), len(text), chance.randrange(len(text) // 2, len(text))))
        head = _edited(text[:caret], words[language], chance)
        tail = text[caret:]
        documents[key] = (head + tail)[-2 * CHARS[zone] :] or _text(words[language], 200, chance)
        yield Edit(number, zone, head)


def _text(words: list[str], n_chars: int, chance: random.Random) -> str:
    text = ""
    while len(text) < n_chars:
        start = chance.randrange(len(words))
        text += " ".join(words[start : start + 40]) + "\n\n"
    return text


def _edited(head: str, words: list[str], chance: random.Random) -> str:
    """Change the end of `head` as a person does; never to nothing."""
    kind = chance.choice(("type", "type", "type", "delete", "replace", "paste", "undo"))
    word = chance.choice(words)
    match kind:
        case "type":
            return head + " " + word[: chance.randint(1, len(word))]
        case "delete":
            return head[: -chance.randint(1, 30)] or word
        case "replace":
            return head[: -chance.randint(1, 200)] + " " + word
        case "paste":
            return head + _text(words, chance.randint(20, 400), chance)
        case _:
            return head[: -chance.randint(200, 900)] or word


def _disturb(kept: Runtime, edit: Edit, chance: random.Random) -> str:
    """Leave something in the cache that the next edit may wrongly trust; say what."""
    kind = chance.choice(("cancelled", "batch", "rephrase", "suffix"))
    name = f"disturb-{edit.number}"
    match kind:
        case "cancelled":
            run_bare(kept, _request(edit, name), cancel_after=chance.randint(1, 14))
        case "batch":
            run_bare(kept, _request(edit, name, temperature=1.0, n=3))
        case "rephrase":
            run_bare(
                kept, _request(edit, name, task="rephrase", text=edit.text[-60:].strip() or "a")
            )
        case "suffix":
            run_bare(kept, _request(edit, name, temperature=1.0, suffix=" and so it went."))
    return kind


def _request(
    edit: Edit, name: str, *, temperature: float = 0.0, **fields: Any
) -> GenerationRequest:
    sampling = SamplingOverrides(temperature=temperature, seed=edit.number)
    wanted = {"task": "continue", "text": edit.text, "max_tokens": MAX_TOKENS, **fields}
    return GenerationRequest(request_id=name, sampling=sampling, **wanted)


def runtime_options(engine: str | None, model: str | None) -> RuntimeOptions:
    """The engine and model that the daemon would load."""
    loaded = load({"runtime.engine": engine, "runtime.model": model})
    runtime = loaded.config.runtime
    return RuntimeOptions(
        model_dir=find_model(runtime.model, loaded.paths),
        engine=runtime.engine,
        context_length=runtime.context_length,
        n_threads=runtime.threads,
    )


def without_cache(options: RuntimeOptions) -> RuntimeOptions:
    """The same, with a cache that keeps nothing and a prefill that is never cut."""
    return replace(options, kv_budget_bytes=0, prefill_chunk=WHOLE_PROMPT)


def main() -> int:
    """Run; 1 when an answer differed."""
    parser = common_parser(__doc__)
    parser.add_argument("--edits", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1799)
    arguments = parser.parse_args()
    options = runtime_options(**daemon_flags(arguments))
    with (
        started(Runtime(options)) as kept,
        started(Runtime(without_cache(options))) as nothing,
    ):
        outcome = compare(kept, nothing, n_edits=arguments.edits, seed=arguments.seed)
        status = kept.status()
    assert status.model is not None
    report = Report(
        benchmark="cache_equality",
        environment=describe_environment(
            {"engine": {"name": status.engine}, "model": asdict(status.model)}
        ),
        figures={
            "cached_tokens": figure(outcome.cached_share, "% of the prompt"),
            "prefill_with_cache_ms": figure(outcome.prefill_with_ms, "ms"),
            "prefill_without_cache_ms": figure(outcome.prefill_without_ms, "ms"),
        },
        counts={
            "edits": arguments.edits,
            "equal": arguments.edits - len(outcome.mismatches),
            "differing": outcome.mismatches,
            "edits_by_zone": dict(outcome.zones),
            "disturbances": dict(outcome.disturbances),
        },
        notes=(
            f"Window {status.model.window}, context {status.model.context_length} tokens; "
            f"{MAX_TOKENS} greedy tokens an answer.",
        ),
    )
    publish(report, quiet=arguments.json)
    return 1 if outcome.mismatches else 0


if __name__ == "__main__":
    sys.exit(main())
