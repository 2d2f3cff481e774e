"""What every benchmark shares: a daemon of its own, where it ran, and figures with their limits.

A figure is never a gate: machines differ, so a bar is printed beside the figure and nothing fails by it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
import psutil

from pushkin_runtime.model_config import SMALL_MODEL

REPOSITORY = Path(__file__).resolve().parent.parent
STOP_TIMEOUT_S = 8.0

Flags = dict[str, str | None]
"""Flags of `pushkin serve` that were given to the benchmark, without the dashes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One measured quantity: its spread, and what it is to be read against.

    limit: what the same run shows to be possible, limit_is: how that was found. bar: what was asked for.
    """

    unit: str
    n: int
    min: float
    median: float
    p95: float
    limit: float | None = None
    limit_is: str | None = None
    bar: float | None = None


def figure(
    samples: Sequence[float],
    unit: str,
    *,
    limit: float | None = None,
    limit_is: str | None = None,
    bar: float | None = None,
) -> Figure:
    """Summarise `samples`; percentiles are linear interpolations between the nearest ones."""
    if not samples:
        raise ValueError("figure: no samples")
    low, middle, high = (float(np.percentile(samples, q)) for q in (0, 50, 95))
    return Figure(
        unit=unit,
        n=len(samples),
        min=round(low, 4),
        median=round(middle, 4),
        p95=round(high, 4),
        limit=None if limit is None else round(limit, 4),
        limit_is=limit_is,
        bar=bar,
    )


@dataclass(frozen=True, slots=True)
class Target:
    """Where a daemon listens, and the token it wants."""

    host: str
    port: int
    token: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Daemon:
    """A started daemon; times are seconds from just before the process was made.

    listening_s: the sockets are open. ready_s: the model answers.
    """

    target: Target
    pid: int
    home: Path
    listening_s: float
    ready_s: float


@contextlib.contextmanager
def running_daemon(
    flags: Flags | None = None, prepare: Callable[[Path], None] | None = None
) -> Iterator[Daemon]:
    """Start `pushkin serve` on a free port with a fresh home; stop it, whatever happened, at the end.

    prepare: puts files into the home folder first.

    Raises RuntimeError with the daemon's own words when it does not become ready.
    """
    with tempfile.TemporaryDirectory(prefix="pushkin-bench-") as folder:
        home = Path(folder).resolve() / "home"
        if prepare is not None:
            home.mkdir(mode=0o700)
            prepare(home)
        with daemon_of(home, flags) as daemon:
            yield daemon


@contextlib.contextmanager
def daemon_of(home: Path, flags: Flags | None = None) -> Iterator[Daemon]:
    """Start `pushkin serve` on a free port with a home that is kept. Raises as `running_daemon` does."""
    with tempfile.TemporaryFile() as stderr:
        started = time.monotonic()
        process = spawn_daemon(home, flags, stderr)
        try:
            daemon = _await_ready(process, home, started)
            if daemon is None:
                stderr.seek(0)
                words = stderr.read().decode(errors="replace").strip()
                raise RuntimeError(f"The daemon did not become ready: {words}")
            yield daemon
        finally:
            _stop(process)


def spawn_daemon(
    home: Path, flags: Flags | None = None, stderr: IO[bytes] | int = subprocess.DEVNULL
) -> subprocess.Popen[str]:
    """Start `pushkin serve --json` and return at once."""
    arguments = [f"--{name}={value}" for name, value in (flags or {}).items() if value]
    return subprocess.Popen(
        # `env` adds one variable and becomes the daemon: the process id is the daemon's.
        ["env", f"PUSHKIN_HOME={home}", *serve_command(), "--port=0", "--json", *arguments],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
    )


def serve_command() -> list[str]:
    """`pushkin serve` with this interpreter."""
    return [sys.executable, "-m", "daemon", "serve"]


def _await_ready(process: subprocess.Popen[str], home: Path, started: float) -> Daemon | None:
    """Read what the daemon announces; None when it ended instead."""
    assert process.stdout is not None
    seen: dict[str, tuple[float, dict[str, Any]]] = {}
    for line in process.stdout:
        record = json.loads(line)
        seen[record["event"]] = (time.monotonic() - started, record)
        if record["event"] == "ready":
            break
    if "ready" not in seen:
        return None
    ready_s, ready = seen["ready"]
    token = Path(ready["token_file"]).read_text().strip()
    return Daemon(
        target=Target("127.0.0.1", ready["port"], token),
        pid=process.pid,
        home=home,
        listening_s=seen["listening"][0],
        ready_s=ready_s,
    )


def _stop(process: subprocess.Popen[str]) -> None:
    process.terminate()
    try:
        process.communicate(timeout=STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a benchmark prints. notes: what a reader of the figures must know."""

    benchmark: str
    environment: dict[str, Any]
    figures: dict[str, Figure]
    counts: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def publish(report: Report, *, quiet: bool) -> None:
    """JSON to stdout; unless `quiet`, a table for people to stderr."""
    if not quiet:
        for name, value in report.environment.items():
            say(f"{name:>16}: {value}")
        for name, found in report.figures.items():
            say(_row(name, found))
        for name, count in report.counts.items():
            say(f"{name:>34}: {count}")
        for note in report.notes:
            say(f"note: {note}")
    print(json.dumps(asdict(report), ensure_ascii=False, indent=1))


def _row(name: str, found: Figure) -> str:
    spread = f"min {found.min:g}  median {found.median:g}  p95 {found.p95:g} {found.unit}"
    limit = "" if found.limit is None else f"  [limit {found.limit:g}: {found.limit_is}]"
    bar = "" if found.bar is None else f"  [bar {found.bar:g}]"
    return f"{name:>34}: {spread}  (n {found.n}){bar}{limit}"


def say(line: str) -> None:
    """A line for people, at once."""
    print(line, file=sys.stderr, flush=True)


def describe_environment(status: dict[str, Any]) -> dict[str, Any]:
    """Where the figures come from. status: the answer of `GET /v1/status`."""
    model = status["model"]
    return {
        **describe_machine(),
        "engine": status["engine"]["name"],
        "model": model["id"],
        "model_digest": model["digest"],
        "model_bytes": model["n_bytes"],
        "n_parameters": model["n_parameters"],
    }


def describe_machine() -> dict[str, Any]:
    """Where figures come from that no daemon was needed for."""
    return {
        "cpu": _cpu_name(),
        "n_cpus": psutil.cpu_count(),
        "os": platform.platform(),
        "python": platform.python_version(),
        "load_average": [round(x, 2) for x in psutil.getloadavg()],
        "commit": _commit(),
    }


def _cpu_name() -> str:
    if sys.platform == "darwin":
        return _first_line("sysctl", "-n", "machdep.cpu.brand_string") or platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _commit() -> str:
    commit = _first_line("git", "rev-parse", "--short=12", "HEAD")
    if not commit:
        return "unknown"
    changed = _first_line("git", "status", "--porcelain", "--untracked-files=no")
    return f"{commit}{'+changes' if changed else ''}"


def _first_line(*command: str) -> str:
    try:
        found = subprocess.run(
            command, cwd=REPOSITORY, capture_output=True, text=True, timeout=10, check=False
        )
    except OSError:
        return ""
    return found.stdout.partition("\n")[0].strip()


def memory_bandwidth_gb_s(n_bytes: int) -> float:
    """Bytes read per second (10⁹) by one thread summing `n_bytes` of floats, best of several passes.

    n_bytes: what a decode step reads, so that a model which fits a cache is compared with that cache.
    """
    weights = np.ones(max(1, n_bytes // 4), dtype=np.float32)
    vector = np.ones(1024, dtype=np.float32)
    matrix = weights[: len(weights) // 1024 * 1024].reshape(-1, 1024)
    best = 0.0
    for _ in range(15):
        started = time.perf_counter()
        matrix @ vector
        best = max(best, matrix.nbytes / (time.perf_counter() - started))
    return best / 1e9


def step_bytes(status: dict[str, Any]) -> int:
    """Weight bytes a decode step reads with this engine: torch expands small models to float32."""
    model = status["model"]
    if status["engine"]["name"] == "torch" and model["n_parameters"] <= SMALL_MODEL:
        return int(model["n_parameters"]) * 4
    return int(model["n_bytes"])


def common_parser(description: str | None) -> argparse.ArgumentParser:
    """The options that every benchmark has."""
    parser = argparse.ArgumentParser(description=(description or "").partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="only JSON, nothing on stderr")
    parser.add_argument("--engine", help="as for `pushkin serve`")
    parser.add_argument("--model", help="as for `pushkin serve`")
    return parser


def daemon_flags(arguments: argparse.Namespace) -> Flags:
    """The options of `common_parser` that go to the daemon."""
    return {"engine": arguments.engine, "model": arguments.model}
