"""Minutes of mixed traffic over one daemon: does anything wedge, answer wrongly, slow `/health` down, or grow?

Every connection is a client of its own kind (see `load_mix.py`), one of them keeps documents that are indexed
meanwhile. `/health` is asked every 50 ms, `/metrics` every second; memory is read before, after a first short load
that brings in whatever is loaded when it is needed, during the real one, and when the daemon has come to rest.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from benchmarks.harness import (
    REPOSITORY,
    Daemon,
    Figure,
    Report,
    Target,
    common_parser,
    daemon_flags,
    describe_environment,
    describe_machine,
    figure,
    publish,
    running_daemon,
    say,
)
from benchmarks.http_client import Client
from benchmarks.load_mix import DEFAULT_MIX, KINDS, Traffic, is_served
from benchmarks.soak import (
    HEALTH_BAR_MS,
    HEALTH_EVERY_S,
    MIB,
    N_QUIET,
    Watch,
    await_idle,
    drift_percent,
    look,
)

METRICS_EVERY = 20  # looks at /health
SAY_EVERY = 400
SETTLE_S = 15.0
WARM_UP_MINUTES = 1.0  # of the same load: encoders, adapters, caches up to their budgets
JOIN_S = 90.0  # for what is under way at the end; who has not come back by then is wedged

Clients = list[tuple[str, Traffic]]


def main() -> int:
    """Run; 1 when something wedged, was refused, broke or was answered wrongly."""
    arguments = _parser().parse_args()
    sys.setswitchinterval(0.0005)  # or the clients' threads would be in the figures of /health
    encoder = arguments.speech_encoder
    prepare = None if encoder is None else partial(_install_encoder, encoder)
    with running_daemon(daemon_flags(arguments), prepare) as daemon:
        process = psutil.Process(daemon.pid)
        with Client(daemon.target) as client:
            quiet_ms = [client.call("GET", "/health").total_ms for _ in range(N_QUIET)]
            status = client.call("GET", "/v1/status").data
        rss, n_wedged = {"start": process.memory_info().rss}, 0
        for name, minutes in (("level", WARM_UP_MINUTES), ("settled", arguments.minutes)):
            with _clients(daemon.target, arguments.mix) as clients:
                watch, n_left = _run(daemon, clients, 60 * minutes, quiet=arguments.json)
            is_idle, _ = await_idle(daemon.target)
            n_wedged += n_left + (not is_idle)
            time.sleep(SETTLE_S)
            rss[name] = process.memory_info().rss
        rss["peak"] = max(size for _, size in watch.rss)
        with Client(daemon.target) as client:
            at_rest = client.call("GET", "/v1/status").data
    counts = _counts(clients, watch)
    publish(
        Report(
            benchmark="load",
            environment=describe_environment(status)
            | {"load_average_at_the_end": describe_machine()["load_average"]},
            figures=_figures(clients, watch, quiet_ms),
            counts={
                "minutes": arguments.minutes,
                "connections": dict(Counter(kind for kind, _ in clients)),
                **counts,
                "wedged": n_wedged,
                "rss_mib": {name: round(size / MIB, 1) for name, size in rss.items()},
                "held_at_rest_mib": _held(at_rest),
                "dictation_at_rest": at_rest["dictation"],
            },
            notes=(
                "rss drift: the second tenth of the requests against the last tenth.",
                f"rss level: at rest after the first {WARM_UP_MINUTES:.0f} min of the load; settled: after all of it.",
            ),
        ),
        quiet=arguments.json,
    )
    is_well = set(watch.health_status) == {200}
    return 0 if is_well and not n_wedged and not counts["wrong"] else 1


def _parser() -> argparse.ArgumentParser:
    parser = common_parser(__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument(
        "--mix",
        type=read_mix,
        default=DEFAULT_MIX,
        help=f"connections by kind, of {', '.join(KINDS)}; default: %(default)s",
    )
    parser.add_argument(
        "--speech-encoder",
        type=Path,
        metavar="DIR",
        help="imported first, as `pushkin models import DIR` does; without one nobody dictates",
    )
    return parser


def _held(status: dict[str, Any]) -> dict[str, float]:
    return {part: round(status[part]["n_bytes"] / MIB, 1) for part in ("kv_cache", "adapters")}


def _install_encoder(encoder: Path, home: Path) -> None:
    """Raises CalledProcessError with the command's own words on stderr."""
    command = [sys.executable, "-m", "daemon", "models", "import", str(encoder.resolve())]
    subprocess.run(
        ["env", f"PUSHKIN_HOME={home}", *command], cwd=REPOSITORY, check=True, stdout=sys.stderr
    )


def read_mix(text: str) -> dict[str, int]:
    """Read "native=3,documents=1". Raises ArgumentTypeError."""
    try:
        mix = {kind: int(n) for kind, _, n in (part.partition("=") for part in text.split(","))}
    except ValueError:
        raise argparse.ArgumentTypeError("expected kind=connections,…") from None
    unknown = set(mix) - set(KINDS)
    if unknown:
        raise argparse.ArgumentTypeError(f"unknown: {', '.join(unknown)}")
    return mix


@contextlib.contextmanager
def _clients(target: Target, mix: dict[str, int]) -> Iterator[Clients]:
    """The clients of a mix; a kind that is not served gives its connections to `mixed`."""
    made: Clients = []
    for kind, n_connections in mix.items():
        served = kind if is_served(target, kind) else "mixed"
        if served != kind:
            say(f"{kind} is not served: {n_connections} more of `mixed`")
        for _ in range(n_connections):
            made.append((served, KINDS[served](target, len(made))))
    yield made
    for _, client in made:
        client.close()


def _run(daemon: Daemon, clients: Clients, seconds: float, *, quiet: bool) -> tuple[Watch, int]:
    """Let the clients work and watch; returns what was seen, and how many never came back."""
    numbers = itertools.count()  # its `next` is atomic
    end_at = time.monotonic() + seconds

    def work(client: Traffic) -> None:
        while time.monotonic() < end_at:
            client.do(next(numbers))

    threads = [threading.Thread(target=work, args=(c,), daemon=True) for _, c in clients]
    for thread in threads:
        thread.start()
    watch, process = Watch(), psutil.Process(daemon.pid)
    with Client(daemon.target) as client:
        for n_looks in itertools.count():
            is_over = time.monotonic() > end_at + JOIN_S
            if is_over or not any(thread.is_alive() for thread in threads):
                break
            n_done = sum(client.tally.n_done for _, client in clients)
            look(client, process, watch, n_done)
            if n_looks % METRICS_EVERY == 0:
                watch.health_status[client.call("GET", "/metrics").status] += 1
            if not quiet and n_looks % SAY_EVERY == 0:
                _say_progress(watch, clients, end_at)
            time.sleep(HEALTH_EVERY_S)
    return watch, sum(thread.is_alive() for thread in threads)


def _say_progress(watch: Watch, clients: Clients, end_at: float) -> None:
    n_done, rss = watch.rss[-1]
    n_wrong = sum(client.tally.wrong.total() for _, client in clients)
    say(
        f"{max(0.0, end_at - time.monotonic()):.0f} s to go, {n_done} done, {n_wrong} wrong, "
        f"{rss / MIB:.0f} MiB, health max {max(watch.health_ms):.0f} ms"
    )


def _counts(clients: Clients, watch: Watch) -> dict[str, object]:
    outcomes: dict[str, Counter[str]] = {}
    wrong: Counter[str] = Counter()
    for kind, client in clients:
        outcomes.setdefault(kind, Counter()).update(client.tally.outcomes)
        wrong.update({f"{kind}: {what}": n for what, n in client.tally.wrong.items()})
    n_done = watch.rss[-1][0]
    return {
        "requests": n_done,
        "tokens": sum(client.tally.n_tokens for _, client in clients),
        "outcomes": {kind: dict(sorted(found.items())) for kind, found in outcomes.items()},
        "wrong": dict(wrong),
        "health_and_metrics_status": {str(k): n for k, n in watch.health_status.items()},
        "health_p99_ms": round(float(np.percentile(watch.health_ms, 99)), 2),
        "health_max_ms": round(max(watch.health_ms), 2),
        "rss_drift_percent": drift_percent(watch.rss, n_done),
        "threads_first_last": [watch.n_threads[0], watch.n_threads[-1]],
        "files_first_last": [watch.n_files[0], watch.n_files[-1]],
    }


def _figures(clients: Clients, watch: Watch, quiet_ms: list[float]) -> dict[str, Figure]:
    quiet = figure(quiet_ms, "ms")
    figures = {
        "health_ms": figure(
            watch.health_ms,
            "ms",
            bar=HEALTH_BAR_MS,
            limit=quiet.median,
            limit_is="the same before the load",
        ),
        "rss_mib": figure([size / MIB for _, size in watch.rss], "MiB"),
    }
    for kind in dict.fromkeys(kind for kind, _ in clients):
        ttft_ms = [ms for k, client in clients if k == kind for ms in client.tally.ttft_ms]
        if ttft_ms:
            figures[f"ttft_ms {kind}"] = figure(ttft_ms, "ms")
    return figures


if __name__ == "__main__":
    sys.exit(main())
