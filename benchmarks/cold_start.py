"""From nothing to the first word: process start, sockets, model, first token over HTTP; and where it went.

Files are in the page cache, as they are at every start but the first after boot.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.harness import (
    REPOSITORY,
    Figure,
    Flags,
    Report,
    common_parser,
    daemon_flags,
    describe_environment,
    figure,
    publish,
    running_daemon,
    say,
)
from benchmarks.http_client import Client

FIRST_TOKEN_BAR_S = 3.0
HELP_BAR_S = 0.3
N_SLOWEST = 12  # imports listed
NO_TEARDOWN = "import os; os._exit(0)"

# What each stage cannot be faster than: the same import in a process of its own.
IMPORTS = {
    "python": "pass",
    "torch": "import torch",
    "onnxruntime": "import onnxruntime",
    "fastapi": "import fastapi",
    "api": "import api.app",
    "runtime": "import pushkin_runtime.runtime",
}
ENGINE_IMPORTS = {
    "torch": "import pushkin_runtime.engines.torch_engine",
    "mlx": "import pushkin_runtime.engines.mlx_engine",
    "onnx": "import pushkin_runtime.engines.onnx_engine",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """One start; seconds from just before the process was made.

    load_s: the model's share, imports of the engine included. warm_ttft_s: a second request.
    """

    listening_s: float
    ready_s: float
    first_token_s: float
    load_s: float
    first_ttft_s: float
    warm_ttft_s: float
    status: dict[str, Any]


def main() -> int:
    """Run; always 0: a slow start is a figure, not a failure."""
    parser = common_parser(__doc__)
    parser.add_argument("--runs", type=int, default=7)
    arguments = parser.parse_args()
    flags, n_runs = daemon_flags(arguments), arguments.runs
    _start(flags)  # fills the page cache
    starts = []
    for number in range(n_runs):
        starts.append(_start(flags))
        if not arguments.json:
            say(f"start {number + 1} of {n_runs}: first token {starts[-1].first_token_s:.2f} s")
    engine = starts[-1].status["engine"]["name"]
    imports = IMPORTS | {"engine": ENGINE_IMPORTS.get(engine, "pass")}
    report = Report(
        benchmark="cold_start",
        environment=describe_environment(starts[-1].status),
        figures=_figures(starts, n_runs, imports),
        counts={
            "slowest_imports_ms": _slowest_imports("import api.app", imports["engine"]),
            "slowest_imports_of_help_ms": _slowest_imports("import daemon.cli"),
        },
        notes=(
            "Imports are cumulative and from one run of `python -X importtime`, which slows them down.",
            "The model loads on its own thread while the web framework is imported on the main one.",
        ),
    )
    publish(report, quiet=arguments.json)
    return 0


def _start(flags: Flags) -> Start:
    with running_daemon(flags) as daemon, Client(daemon.target) as client:
        entered = time.monotonic()
        first_at, first_ttft_s = _write(client)
        _, warm_ttft_s = _write(client)
        status = client.call("GET", "/v1/status").data
        return Start(
            listening_s=daemon.listening_s,
            ready_s=daemon.ready_s,
            first_token_s=daemon.ready_s + first_at - entered,
            load_s=status["load_ms"] / 1000,
            first_ttft_s=first_ttft_s,
            warm_ttft_s=warm_ttft_s,
            status=status,
        )


def _write(client: Client) -> tuple[float, float]:
    """When the first text came, and how long it took; seconds."""
    body = {"text": "It was a bright cold day in April", "max_tokens": 4, "sampling": {"seed": 1}}
    seen = [
        (time.monotonic(), event.at_ms / 1000)
        for event in client.stream("/v1/continue", body)
        if event.name == "delta"
    ]
    return seen[0]


def _figures(starts: Sequence[Start], n_runs: int, imports: dict[str, str]) -> dict[str, Figure]:
    alone = {
        f"alone_{name}_s": figure(
            [_run_python("-c", f"{code}; {NO_TEARDOWN}") for _ in range(n_runs)], "s"
        )
        for name, code in imports.items()
    }
    command = ("-m", "daemon", "--help")
    slowest = max(alone[f"alone_{name}_s"].median for name in ("api", "engine"))
    return {
        "first_token_s": figure(
            [s.first_token_s for s in starts],
            "s",
            bar=FIRST_TOKEN_BAR_S,
            limit=slowest,
            limit_is="the slower of the engine's and the API's imports, alone",
        ),
        "listening_s": figure([s.listening_s for s in starts], "s"),
        "ready_s": figure([s.ready_s for s in starts], "s"),
        "load_s": figure([s.load_s for s in starts], "s"),
        "first_ttft_s": figure([s.first_ttft_s for s in starts], "s"),
        "warm_ttft_s": figure([s.warm_ttft_s for s in starts], "s"),
        "help_s": figure(
            [_run_python(*command) for _ in range(n_runs)],
            "s",
            bar=HELP_BAR_S,
            limit=alone["alone_python_s"].median,
            limit_is="an interpreter that does nothing",
        ),
        **alone,
    }


def _run_python(*arguments: str) -> float:
    started = time.monotonic()
    subprocess.run(
        [sys.executable, *arguments], cwd=REPOSITORY, check=True, stdout=subprocess.DEVNULL
    )
    return time.monotonic() - started


def _slowest_imports(*statements: str) -> dict[str, float]:
    """Cumulative milliseconds of the slowest imports; of a package only what is not inside a listed one."""
    traced = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", "; ".join(statements)],
        cwd=REPOSITORY,
        check=True,
        capture_output=True,
        text=True,
    )
    found = []
    for line in traced.stderr.splitlines():
        _, _, rest = line.partition("import time:")
        own, cumulative, name = (part.strip() for part in rest.split("|"))
        if own.isdigit():
            found.append((int(cumulative) / 1000, name))
    return {name: round(ms, 1) for ms, name in sorted(found, reverse=True)[:N_SLOWEST]}


if __name__ == "__main__":
    sys.exit(main())
