"""What a typist waits for: a session replayed key by key, over HTTP and against the bare runtime.

Every keystroke is sent to both, in turn, A B then B A, so that drift of the machine cancels out of the
difference. Then: how soon the model is idle after a newer request, a disconnect, a DELETE.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlsplit

from benchmarks.cancellation import CancelTimes, measure_cancellation
from benchmarks.harness import (
    Figure,
    Flags,
    Report,
    Target,
    common_parser,
    daemon_flags,
    describe_environment,
    figure,
    memory_bandwidth_gb_s,
    publish,
    running_daemon,
    say,
    step_bytes,
)
from benchmarks.http_client import Client
from benchmarks.in_process import bare_runtime, run_bare
from benchmarks.typing_trace import LANGUAGES, Keystroke, typing_session
from pushkin_runtime.runtime import Runtime
from pushkin_runtime.sampling_types import SamplingOverrides
from pushkin_runtime.types import GenerationRequest

MAX_TOKENS = 12
SEED = 1799
OVERHEAD_BAR_MS = 3.0
N_HEALTH = 200
FIVE_BAR_MS = 120.0
N_TOKENS = 10  # of an alternative
ALTERNATIVES_EVERY = 2  # of the last keystrokes
SUFFIX_EVERY = (
    5  # of the keystrokes in the middle, which are also asked with the text after the caret
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One keystroke; milliseconds as the client saw them, the rest as the daemon reported it."""

    phase: str
    ttft_ms: float | None
    total_ms: float
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    decode_ms: float
    tokens_per_second: float


@dataclass(frozen=True, slots=True)
class Trace:
    """The session over HTTP, and the same against the bare runtime (empty when that was not possible)."""

    http: list[Sample]
    bare: list[Sample]


def main() -> int:
    """Run; 1 when an answer was wrong, never because one was slow."""
    arguments = _arguments()
    quiet: bool = arguments.json
    with _daemon(arguments) as target, Client(target) as client:
        status = client.call("GET", "/v1/status").data
        flags = daemon_flags(arguments)
        with _matching_runtime(flags, status, skip=arguments.no_bare) as runtime:
            trace = _replay(client, runtime, _sessions(arguments.keystrokes), quiet=quiet)
        with_suffix = _ask_with_suffix(client)
        alone, five = _ask_for_alternatives(client)
        health_ms = [client.call("GET", "/health").total_ms for _ in range(N_HEALTH)]
        cancel = measure_cancellation(target, n=arguments.cancels)
        report = Report(
            benchmark="keystroke",
            environment=describe_environment(status),
            figures={
                **_trace_figures(trace, status),
                "suffix_total_ms": figure(with_suffix, "ms"),
                "one_of_ten_tokens_ms": figure(alone, "ms"),
                "five_of_ten_tokens_ms": figure(five, "ms", bar=FIVE_BAR_MS),
                **_overhead_figures(trace, health_ms),
                **_cancel_figures(cancel, trace),
            },
            counts={
                "keystrokes": dict(Counter(sample.phase for sample in trace.http)),
                "finish_reasons_of_ended": dict(cancel.reasons),
                "too_early_to_count": cancel.n_missed,
            },
            notes=_notes(trace),
        )
    publish(report, quiet=quiet)
    return 1 if cancel.n_wrong else 0


def _arguments() -> argparse.Namespace:
    parser = common_parser(__doc__)
    parser.add_argument("--url", help="a running daemon, e.g. http://127.0.0.1:1799")
    parser.add_argument("--token", default="", help="its token; `pushkin token` prints it")
    parser.add_argument("--keystrokes", type=int, default=0, help="of each session, 0 for all")
    parser.add_argument("--cancels", type=int, default=30, help="of each kind")
    parser.add_argument("--no-bare", action="store_true", help="skip the bare runtime")
    return parser.parse_args()


@contextlib.contextmanager
def _daemon(arguments: argparse.Namespace) -> Iterator[Target]:
    if arguments.url:
        address = urlsplit(arguments.url)
        if address.hostname is None or address.port is None:
            sys.exit(f"--url: expected http://HOST:PORT, got {arguments.url}")
        yield Target(address.hostname, address.port, arguments.token)
        return
    with running_daemon(daemon_flags(arguments)) as daemon:
        yield daemon.target


@contextlib.contextmanager
def _matching_runtime(
    flags: Flags, status: dict[str, Any], *, skip: bool
) -> Iterator[Runtime | None]:
    """A runtime in this process with the daemon's engine and model; None when it has another."""
    if skip:
        yield None
        return
    with TemporaryDirectory() as home, bare_runtime(Path(home), flags) as runtime:
        own = runtime.status()
        assert own.model is not None
        same = (own.engine, own.model.digest) == (
            status["engine"]["name"],
            status["model"]["digest"],
        )
        yield runtime if same else None


def _sessions(limit: int) -> list[list[Keystroke]]:
    sessions = [typing_session(language) for language in LANGUAGES]
    return [session[:limit] if limit else session for session in sessions]


# -- the trace ----------------------------------------------------------------------------------


def _replay(
    client: Client, runtime: Runtime | None, sessions: Sequence[Sequence[Keystroke]], *, quiet: bool
) -> Trace:
    trace = Trace([], [])
    for session in sessions:
        for i, key in enumerate(session):
            if runtime is not None and i % 2:
                trace.bare.append(_ask_bare(runtime, key))
            trace.http.append(_ask_http(client, key))
            if runtime is not None and not i % 2:
                trace.bare.append(_ask_bare(runtime, key))
        if not quiet:
            say(f"replayed {len(session)} keystrokes of {session[0].document_id}")
    return trace


def _ask_http(client: Client, key: Keystroke) -> Sample:
    body = {
        "text": key.text,
        "document_id": key.document_id,
        "revision": key.revision,
        "max_tokens": MAX_TOKENS,
        "sampling": {"seed": SEED},
    }
    ttft_ms = None
    for event in client.stream("/v1/continue", body):
        if event.name == "delta" and ttft_ms is None:
            ttft_ms = event.at_ms
    if event.name != "done":
        raise RuntimeError(f"{key.document_id} revision {key.revision}: {event.data}")
    usage, timings = event.data["usage"], event.data["timings"]
    return Sample(
        phase=key.phase,
        ttft_ms=ttft_ms,
        total_ms=event.at_ms,
        **usage,
        decode_ms=timings["decode_ms"],
        tokens_per_second=timings["tokens_per_second"],
    )


def _ask_bare(runtime: Runtime, key: Keystroke) -> Sample:
    request = GenerationRequest(
        request_id=f"bare-{key.document_id}-{key.revision}",
        task="continue",
        text=key.text,
        document_id=key.document_id,
        revision=key.revision,
        max_tokens=MAX_TOKENS,
        sampling=SamplingOverrides(seed=SEED),
    )
    ran = run_bare(runtime, request)
    usage, timings = ran.result.usage, ran.result.timings
    return Sample(
        phase=key.phase,
        ttft_ms=ran.ttft_ms,
        total_ms=ran.total_ms,
        prompt_tokens=usage.prompt_tokens,
        cached_tokens=usage.cached_tokens,
        completion_tokens=usage.completion_tokens,
        decode_ms=timings.decode_ms,
        tokens_per_second=timings.tokens_per_second,
    )


def _ask_with_suffix(client: Client) -> list[float]:
    """Total time of suggestions that must lead into the text after the caret."""
    total_ms = []
    for language in LANGUAGES:
        middle = [key for key in typing_session(language) if key.phase == "edit_middle"]
        for key in middle[::SUFFIX_EVERY]:
            body = {
                "text": key.text,
                "suffix": key.suffix,
                "max_tokens": MAX_TOKENS,
                "sampling": {"seed": SEED},
            }
            total_ms.append(client.call("POST", "/v1/continue", body).total_ms)
    return total_ms


def _ask_for_alternatives(client: Client) -> tuple[list[float], list[float]]:
    """Total time of one suggestion of ten tokens and of five, after texts that were just read."""
    one_ms, five_ms = [], []
    for language in LANGUAGES:
        at_end = [key for key in typing_session(language) if key.phase == "return"]
        for key in at_end[::ALTERNATIVES_EVERY]:
            body = {"text": key.text, "max_tokens": N_TOKENS, "sampling": {"seed": SEED}}
            client.call("POST", "/v1/continue", body | {"max_tokens": 1})
            one_ms.append(client.call("POST", "/v1/continue", body).total_ms)
            five_ms.append(client.call("POST", "/v1/continue", body | {"n": 5}).total_ms)
    return one_ms, five_ms


# -- the figures --------------------------------------------------------------------------------


def _trace_figures(trace: Trace, status: dict[str, Any]) -> dict[str, Figure]:
    n_bytes = step_bytes(status)
    gb_s = memory_bandwidth_gb_s(n_bytes)
    decodes = [s for s in trace.http if s.completion_tokens > 2]
    step_ms = figure([s.decode_ms / s.completion_tokens for s in decodes], "ms")
    ttft = {
        phase: [s.ttft_ms for s in trace.http if s.phase == phase and s.ttft_ms is not None]
        for phase in dict.fromkeys(s.phase for s in trace.http)
    }
    warm = [ms for phase, found in ttft.items() if phase != "open" for ms in found]
    cached = [100 * s.cached_tokens / max(1, s.prompt_tokens) for s in trace.http]
    return {
        "ttft_ms": figure(
            warm,
            "ms",
            limit=step_ms.median,
            limit_is="one decode step; a healed token often takes two",
        ),
        **{f"ttft_{phase}_ms": figure(found, "ms") for phase, found in ttft.items() if found},
        "cached_tokens": figure(
            cached, "% of the prompt", limit=100.0, limit_is="nothing left to prefill"
        ),
        "prefilled_tokens": figure(
            [s.prompt_tokens - s.cached_tokens for s in trace.http],
            "tokens",
            limit=1.0,
            limit_is="the prompt's last token, which the first step feeds",
        ),
        "decode_tokens_per_s": figure(
            [s.tokens_per_second for s in decodes],
            "tokens/s",
            limit=gb_s * 1e9 / n_bytes,
            limit_is=f"{n_bytes / 1e6:.1f} MB of weights a token at {gb_s:.1f} GB/s on one thread",
        ),
        "decode_step_ms": step_ms,
    }


def _overhead_figures(trace: Trace, health_ms: list[float]) -> dict[str, Figure]:
    floor = figure(health_ms, "ms")
    figures = {"health_ms": floor}
    if not trace.bare:
        return figures
    pairs = list(zip(trace.http, trace.bare, strict=True))
    ttft = [
        (a.ttft_ms, b.ttft_ms) for a, b in pairs if a.ttft_ms is not None and b.ttft_ms is not None
    ]
    why = "GET /health on the same connection: the transport alone"
    return {
        **figures,
        "bare_ttft_ms": figure([b for _, b in ttft], "ms"),
        "bare_total_ms": figure([b.total_ms for _, b in pairs], "ms"),
        "http_total_ms": figure([a.total_ms for a, _ in pairs], "ms"),
        "http_overhead_ttft_ms": figure(
            [a - b for a, b in ttft], "ms", bar=OVERHEAD_BAR_MS, limit=floor.median, limit_is=why
        ),
        "http_overhead_total_ms": figure(
            [a.total_ms - b.total_ms for a, b in pairs], "ms", limit=floor.median, limit_is=why
        ),
    }


def _cancel_figures(cancel: CancelTimes, trace: Trace) -> dict[str, Figure]:
    steps = [s.decode_ms / s.completion_tokens for s in trace.http if s.completion_tokens > 2]
    limits = {
        "decode": (_median(steps), "one decode step"),
        "prefill": (_median(cancel.chunk_ms), "one prefill chunk"),
    }
    return {
        f"{name}_ms": figure(
            found, "ms", limit=limits[name.split("_")[1]][0], limit_is=limits[name.split("_")[1]][1]
        )
        for name, found in cancel.to_idle_ms.items()
        if found
    }


def _median(samples: Sequence[float]) -> float | None:
    return figure(samples, "ms").median if samples else None


def _notes(trace: Trace) -> tuple[str, ...]:
    if not trace.bare:
        return ("The bare runtime was left out: no figure for the overhead of HTTP.",)
    ttft = [
        (a.ttft_ms, b.ttft_ms)
        for a, b in zip(trace.http, trace.bare, strict=True)
        if a.ttft_ms is not None and b.ttft_ms is not None
    ]
    difference = (
        figure([a for a, _ in ttft], "ms").median - figure([b for _, b in ttft], "ms").median
    )
    return (f"Difference of the two TTFT medians, HTTP less bare: {difference:.2f} ms.",)


if __name__ == "__main__":
    sys.exit(main())
