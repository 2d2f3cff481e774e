"""What being watched costs: a token and an answer with nobody looking, with metrics, with a trace.

Three runs of the same generations take turns in one process, so the machine's mood falls on all of them; the
pieces are also timed alone, because a microsecond drowns in the noise of a decode step.
"""

from __future__ import annotations

import logging
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path

from api.metrics.instruments import HttpRequest, Metrics
from api.metrics.observer import GenerationEnds
from api.metrics.page import Moment, metrics_page
from benchmarks.harness import (
    Figure,
    Report,
    common_parser,
    daemon_flags,
    describe_machine,
    figure,
    publish,
)
from benchmarks.in_process import BareRun, bare_runtime, run_bare
from daemon.log_ids import LogIds
from daemon.logs import start_logging, stop_logging
from daemon.trace import Trace
from pushkin_runtime.observer import Observer, Unobserved
from pushkin_runtime.runtime import Runtime
from pushkin_runtime.sampling_types import SamplingOverrides
from pushkin_runtime.types import Delta, Done, Event, GenerationRequest
from usage.desk import UsageDesk

N_TOKENS = 64
N_CALLS = 20_000
TEXT = "The old man shut the door and"


def main() -> int:
    """Run it."""
    parser = common_parser(__doc__)
    parser.add_argument("--rounds", type=int, default=20, help="generations of each kind")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        with bare_runtime(home, daemon_flags(arguments)) as runtime:
            figures = _measure(runtime, home, arguments.rounds)
            status = runtime.status()
            environment = {**describe_machine(), "engine": status.engine}
            environment["model"] = status.model.id if status.model else "none"
    notes = (
        f"Generations of {N_TOKENS} tokens, greedy, the prompt from the cache.",
        "per_token ratios: a generation's decode time against the unwatched one of the same round.",
        "per_delta, per_answer, log_event, page: the piece alone, the mean of many calls.",
    )
    publish(
        Report(benchmark="observability", environment=environment, figures=figures, notes=notes),
        quiet=arguments.json,
    )
    return 0


def _measure(runtime: Runtime, home: Path, n_rounds: int) -> dict[str, Figure]:
    metrics, desk = Metrics(), UsageDesk(home / "stats.sqlite3")
    desk.decide(counts=True).result()
    ids = LogIds(b"k" * 32)
    trace = Trace(home / "trace.json", ids)
    watchers: dict[str, Observer] = {
        "nobody": Unobserved(),
        "metrics": GenerationEnds(metrics, desk, beyond=Unobserved()),
        "metrics and trace": GenerationEnds(metrics, desk, beyond=trace),
    }
    runs: dict[str, list[BareRun]] = {name: [] for name in watchers}
    numbers = count()
    for _ in range(n_rounds + 1):  # the first round warms up
        for name, watcher in watchers.items():
            runtime.observe(watcher)
            runs[name].append(run_bare(runtime, _request(next(numbers))))
    decode = {
        name: [run.result.timings.decode_ms / N_TOKENS for run in found[1:]]
        for name, found in runs.items()
    }
    figures = {f"token, {name}": figure(found, "ms") for name, found in decode.items()}
    for name in ("metrics", "metrics and trace"):
        pairs = zip(decode[name], decode["nobody"], strict=True)
        figures[f"per_token, {name}"] = figure([a / b for a, b in pairs], "× nobody", limit=1.0,
                                               limit_is="nobody looks")  # fmt: skip
    figures |= _pieces(metrics, desk, runs["nobody"][0], home, ids)
    figures["page"] = figure(
        [_timed(lambda: metrics_page(metrics, _moment(runtime)), 1) for _ in range(50)], "µs"
    )
    desk.close()
    return figures


def _pieces(
    metrics: Metrics, desk: UsageDesk, run: BareRun, home: Path, ids: LogIds
) -> dict[str, Figure]:
    """Microseconds of each piece alone."""
    request, done, delta = _request(0), Done(run.result), Delta(0, " word")
    watched = GenerationEnds(metrics, desk, beyond=Unobserved()).events(request, _nobody)
    ended = HttpRequest(
        request_id="req_0", method="POST", route="/v1/continue", status=200, duration_s=0.1
    )
    log = logging.getLogger("pushkin.benchmark")
    handler = start_logging(home / "daemon.jsonl", "info", ids)
    fields = {"request_id": "a-client-s-own", "status": 200, "duration_ms": 1.5, "route": "/v1/x"}
    pieces: dict[str, Callable[[], object]] = {
        "per_delta, nobody": lambda: _nobody(delta),
        "per_delta, metrics": lambda: watched(delta),
        "per_answer, metrics and usage": lambda: watched(done),
        "per_request, metrics": lambda: metrics.http_ended(ended),
        "log_event": lambda: log.info("request finished", extra=fields),
    }
    found = {
        name: figure([_timed(piece, N_CALLS // 10) for _ in range(10)], "µs")
        for name, piece in pieces.items()
    }
    stop_logging(handler)
    return found


def _nobody(event: Event) -> None:
    """A sink that does nothing."""


def _timed(call: Callable[[], object], n_calls: int) -> float:
    started = time.perf_counter()
    for _ in range(n_calls):
        call()
    return (time.perf_counter() - started) / n_calls * 1e6


def _request(number: int) -> GenerationRequest:
    return GenerationRequest(
        request_id=f"r{number}",
        task="continue",
        text=TEXT,
        max_tokens=N_TOKENS,
        sampling=SamplingOverrides(temperature=0.0),
    )


def _moment(runtime: Runtime) -> Moment:
    return Moment(
        version="benchmark",
        started_at=0.0,
        uptime_s=1.0,
        status=runtime.status(),
        n_listeners=0,
        index=None,
    )


if __name__ == "__main__":
    sys.exit(main())
