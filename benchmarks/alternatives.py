"""What five alternatives cost beside one, and where the time goes: from one prompt that is known already, decoded
together.

First in this process, with a stopwatch inside the onnx engine, then through HTTP. `--model DIR` measures any model
folder, so the whole of a larger shape or a slice of it (`benchmarks.true_shape --layers 6`) too.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from itertools import count
from typing import Any

from onnxruntime import InferenceSession

from benchmarks.harness import (
    Figure,
    Report,
    common_parser,
    daemon_flags,
    describe_environment,
    figure,
    publish,
    running_daemon,
)
from benchmarks.http_client import Client
from benchmarks.in_process import WAIT_S, run_bare, started
from benchmarks.lookup import options
from benchmarks.typing_trace import LANGUAGES, read_script
from pushkin_runtime.engines.host_sampler import HostSampler
from pushkin_runtime.row import Row
from pushkin_runtime.runtime import Runtime
from pushkin_runtime.sampling_types import SamplingOverrides
from pushkin_runtime.types import GenerationRequest, GenerationResult

N = 5
MAX_TOKENS = 10
BAR_MS = 120.0  # for five of ten tokens on the embedded model, through HTTP
BAR_RATIO = 2.0  # five against one at the 4B's shape
PARTS = ("layers", "head", "sampling", "text")


@dataclass(slots=True)
class Found:
    """took_ms: by way and number of alternatives; parts_ms: of five in this process."""

    took_ms: dict[tuple[str, int], list[float]] = field(default_factory=dict)
    parts_ms: dict[str, list[float]] = field(default_factory=lambda: {p: [] for p in PARTS})
    n_told: int = 0
    n_distinct: int = 0

    def add(self, way: str, n: int, ms: float) -> None:
        self.took_ms.setdefault((way, n), []).append(ms)

    def count(self, result: GenerationResult) -> None:
        self.n_told += len(result.choices)
        self.n_distinct += len({choice.tokens[0].token for choice in result.choices})


class Stopwatch:
    """Seconds inside methods, by the part they are."""

    def __init__(self) -> None:
        self.spent: defaultdict[str, float] = defaultdict(float)

    @contextlib.contextmanager
    def on(self, owner: type, method: str, part: Callable[[Any], str]) -> Iterator[None]:
        """Count the time in `owner.method`; part: of an instance."""
        inner = getattr(owner, method)

        def timed(this: Any, *args: Any) -> Any:
            began = time.perf_counter()
            try:
                return inner(this, *args)
            finally:
                self.spent[part(this)] += time.perf_counter() - began

        setattr(owner, method, timed)
        try:
            yield
        finally:
            setattr(owner, method, inner)


def main() -> int:
    """Run and publish."""
    parser = common_parser(__doc__)
    parser.add_argument("--rounds", type=int, default=30, help="of each language")
    parser.add_argument("--chars", type=int, help="of the prompt; unset: the script's own")
    arguments = parser.parse_args()
    flags = daemon_flags(arguments)
    found = Found()
    texts = [_text(language, arguments.chars) for language in LANGUAGES]
    with started(Runtime(options(**flags))) as runtime:
        _ask_here(runtime, texts, arguments.rounds, found)
        status = runtime.status()
    with running_daemon(flags) as daemon, Client(daemon.target, WAIT_S) as client:
        _ask_through_http(client, texts, arguments.rounds, found)
    assert status.model is not None
    publish(
        Report(
            benchmark="alternatives",
            environment=describe_environment(
                {"engine": {"name": status.engine}, "model": asdict(status.model)}
            ),
            figures=_figures(found),
            counts={
                "alternatives_a_request": round(found.n_told / len(found.parts_ms["text"]), 2),
                "distinct_first_tokens": round(found.n_distinct / len(found.parts_ms["text"]), 2),
            },
            notes=(
                f"{MAX_TOKENS} tokens each, from submission to the last event; the prompt is known.",
                "http: the answer in one piece, of requests that wrote all their tokens.",
                "five_*: what of `five_ms` was spent there; layers and head: ONNX Runtime's own time.",
            ),
        ),
        quiet=arguments.json,
    )
    return 0


def _text(language: str, n_chars: int | None) -> str:
    text = str(read_script(language)["before"])
    if n_chars is None:
        return text
    return (text.rstrip() + " ") * (n_chars // len(text)) + text[: n_chars % len(text)]


def _turns(n_rounds: int, n_texts: int) -> Iterator[tuple[int, int, int]]:
    """Seed, text and number of alternatives, one and five taking turns at being first; seed 0 warms up."""
    for seed in range(n_rounds + 1):
        for text in range(n_texts):
            for n in (1, N) if seed % 2 else (N, 1):
                yield seed, text, n


def _ask_here(runtime: Runtime, texts: list[str], n_rounds: int, found: Found) -> None:
    watch, numbers = Stopwatch(), count()
    with (
        watch.on(InferenceSession, "run_with_iobinding", _part_of),
        watch.on(HostSampler, "step", lambda _: "sampling"),
        watch.on(Row, "push", lambda _: "text"),
    ):
        for seed, text, n in _turns(n_rounds, len(texts)):
            request = GenerationRequest(
                request_id=str(next(numbers)),
                task="continue",
                text=texts[text],
                n=n,
                max_tokens=MAX_TOKENS,
                ignore_eos=True,
                return_tokens=True,
                sampling=SamplingOverrides(seed=seed),
            )
            watch.spent.clear()
            run = run_bare(runtime, request)
            if seed == 0:
                continue
            found.add("", n, run.total_ms)
            if n == N:
                found.count(run.result)
                for part in PARTS:
                    found.parts_ms[part].append(watch.spent[part] * 1000)


def _part_of(session: InferenceSession) -> str:
    return "head" if session.get_outputs()[0].name == "logits" else "layers"


def _ask_through_http(client: Client, texts: list[str], n_rounds: int, found: Found) -> None:
    for seed, text, n in _turns(n_rounds, len(texts)):
        body = {"text": texts[text], "n": n, "max_tokens": MAX_TOKENS, "sampling": {"seed": seed}}
        answer = client.call("POST", "/v1/continue", body)
        reasons = {choice["finish_reason"] for choice in answer.data["choices"]}
        if seed and "length" in reasons:
            found.add("http_", n, answer.total_ms)


def _figures(found: Found) -> dict[str, Figure]:
    figures = {}
    for way in ("", "http_"):
        one, five = found.took_ms[way, 1], found.took_ms[way, N]
        figures[f"{way}one_ms"] = figure(one, "ms")
        figures[f"{way}five_ms"] = figure(five, "ms", bar=BAR_MS if way else None)
        middle = figures[f"{way}one_ms"].median
        ratios = [ms / middle for ms in five]
        figures[f"{way}five_to_one"] = figure(ratios, "times", bar=BAR_RATIO)
    for part, spent in found.parts_ms.items():
        figures[f"five_{part}_ms"] = figure(spent, "ms")
    parts = zip(*found.parts_ms.values(), strict=True)
    rest = [ms - sum(part) for ms, part in zip(found.took_ms["", N], parts, strict=True)]
    figures["five_rest_ms"] = figure(rest, "ms")
    return figures


if __name__ == "__main__":
    sys.exit(main())
