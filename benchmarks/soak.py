"""Thousands of mixed requests, almost a third of them cancelled: does anything wedge, leak or go quiet?

Workers send at the same time; meanwhile `/health` is asked every 50 ms and the daemon's memory is read.
"""

from __future__ import annotations

import contextlib
import itertools
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import psutil

from benchmarks.harness import (
    Daemon,
    Figure,
    Report,
    Target,
    common_parser,
    daemon_flags,
    describe_environment,
    figure,
    publish,
    running_daemon,
    say,
)
from benchmarks.http_client import Client
from benchmarks.soak_load import Worker

HEALTH_EVERY_S = 0.05
HEALTH_BAR_MS = 100.0
DRIFT_BAR_PERCENT = 5.0
IDLE_TIMEOUT_S = 10.0
N_QUIET = 100  # looks at /health before the load, the limit of those under it
MIB = 2**20


@dataclass(slots=True)
class Watch:
    """What was seen from outside. rss: (requests done by then, bytes)."""

    health_ms: list[float] = field(default_factory=list)
    health_status: Counter[int] = field(default_factory=Counter)
    rss: list[tuple[int, int]] = field(default_factory=list)
    n_threads: list[int] = field(default_factory=list)
    n_files: list[int] = field(default_factory=list)


def main() -> int:
    """Run; 1 when something wedged, was lost or ended for a wrong reason."""
    parser = common_parser(__doc__)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--workers", type=int, default=6)
    arguments = parser.parse_args()
    sys.setswitchinterval(0.0005)  # or the workers' threads would be in the figures of /health
    with running_daemon(daemon_flags(arguments)) as daemon:
        with Client(daemon.target) as client:
            quiet_ms = [client.call("GET", "/health").total_ms for _ in range(N_QUIET)]
            status = client.call("GET", "/v1/status").data
        started = time.monotonic()
        workers, watch = _run(daemon, arguments.requests, arguments.workers, quiet=arguments.json)
        seconds = time.monotonic() - started
        is_idle, last_status = await_idle(daemon.target)
    wrong = sum((worker.tally.wrong for worker in workers), Counter[str]())
    drift = drift_percent(watch.rss, arguments.requests)
    report = Report(
        benchmark="soak",
        environment=describe_environment(status),
        figures=_figures(watch, quiet_ms),
        counts={
            "requests": sum(worker.tally.n_done for worker in workers),
            "seconds": round(seconds, 1),
            "tokens": sum(worker.tally.n_tokens for worker in workers),
            "outcomes": dict(
                sorted(sum((w.tally.outcomes for w in workers), Counter[str]()).items())
            ),
            "wrong": dict(wrong),
            "wedged": not is_idle,
            "rss_drift_percent": drift,
            "rss_drift_bar_percent": DRIFT_BAR_PERCENT,
            "threads_first_last": [watch.n_threads[0], watch.n_threads[-1]],
            "files_first_last": [watch.n_files[0], watch.n_files[-1]],
            "health_status": {str(k): n for k, n in watch.health_status.items()},
            "health_p99_ms": round(float(np.percentile(watch.health_ms, 99)), 2),
            "health_max_ms": round(max(watch.health_ms), 2),
            "kv_cache": last_status["kv_cache"],
        },
        notes=("Memory drift: median of the second tenth of the requests against the last tenth.",),
    )
    publish(report, quiet=arguments.json)
    return 1 if wrong or not is_idle or set(watch.health_status) != {200} else 0


def drift_percent(rss: Sequence[tuple[int, int]], n_requests: int) -> float | None:
    """Return how much larger memory is over the last tenth of the requests than over the second.

    None when one of them was too short to be seen.
    """
    tenth = n_requests / 10
    early = [size for n_done, size in rss if tenth <= n_done < 2 * tenth]
    late = [size for n_done, size in rss if n_done >= n_requests - tenth]
    if not early or not late:
        return None
    before, after = figure(early, "bytes").median, figure(late, "bytes").median
    return round(100 * (after - before) / before, 2)


def _run(
    daemon: Daemon, n_requests: int, n_workers: int, *, quiet: bool
) -> tuple[list[Worker], Watch]:
    numbers = itertools.count()  # its `next` is atomic
    workers = [Worker(daemon.target, number) for number in range(n_workers)]

    def work(worker: Worker) -> None:
        with contextlib.closing(worker):
            while (number := next(numbers)) < n_requests:
                worker.do(number)

    threads = [threading.Thread(target=work, args=(worker,), daemon=True) for worker in workers]
    for thread in threads:
        thread.start()
    watch = Watch()
    process = psutil.Process(daemon.pid)
    with Client(daemon.target) as client:
        while any(thread.is_alive() for thread in threads):
            n_done = sum(worker.tally.n_done for worker in workers)
            look(client, process, watch, n_done)
            if not quiet and len(watch.health_ms) % 200 == 0:
                _say_progress(watch, n_done, n_requests)
            time.sleep(HEALTH_EVERY_S)
    return workers, watch


def look(client: Client, process: psutil.Process, watch: Watch, n_done: int) -> None:
    """Ask for the daemon's health, and look at the process from outside."""
    answer = client.call("GET", "/health")
    watch.health_ms.append(answer.total_ms)
    watch.health_status[answer.status] += 1
    watch.rss.append((n_done, process.memory_info().rss))
    watch.n_threads.append(process.num_threads())
    watch.n_files.append(process.num_fds())


def _say_progress(watch: Watch, n_done: int, n_requests: int) -> None:
    say(
        f"{n_done}/{n_requests} done, {watch.rss[-1][1] / MIB:.0f} MiB, "
        f"health max {max(watch.health_ms):.0f} ms"
    )


def await_idle(target: Target) -> tuple[bool, dict[str, Any]]:
    """Whether the daemon comes to rest and still writes; and its last status."""
    deadline = time.monotonic() + IDLE_TIMEOUT_S
    with Client(target) as client:
        while True:
            status = client.call("GET", "/v1/status").data
            is_idle = status["queue"]["n_active"] + status["queue"]["n_queued"] == 0
            if is_idle or time.monotonic() > deadline:
                break
            time.sleep(0.05)
        body = {"text": "After all that", "max_tokens": 1}
        return is_idle and client.call("POST", "/v1/continue", body).status == 200, status


def _figures(watch: Watch, quiet_ms: list[float]) -> dict[str, Figure]:
    quiet = figure(quiet_ms, "ms")
    return {
        "health_ms": figure(
            watch.health_ms,
            "ms",
            bar=HEALTH_BAR_MS,
            limit=quiet.median,
            limit_is="the same before the load",
        ),
        "health_quiet_ms": quiet,
        "rss_mib": figure([size / MIB for _, size in watch.rss], "MiB"),
    }


if __name__ == "__main__":
    sys.exit(main())
