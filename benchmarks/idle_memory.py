"""What an idle daemon gives back: its memory when it is ready, used, and unloaded, and what the next request pays.

Waits a minute, the shortest time of idleness that can be configured.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import psutil

from benchmarks.harness import (
    Report,
    common_parser,
    daemon_flags,
    describe_environment,
    figure,
    publish,
    running_daemon,
)
from benchmarks.http_client import Client
from benchmarks.typing_trace import LANGUAGES, read_script

BAR_MB = 400.0
WAIT_S = 120.0
LOOK_S = 0.5


def _configure(home: Path) -> None:
    (home / "config.toml").write_text("[runtime]\nidle_unload_min = 1\n")


def main() -> int:
    """Run; 1 when the model was not unloaded, or `/health` was not well meanwhile."""
    parser = common_parser(__doc__)
    arguments = parser.parse_args()
    unwell = 0
    with running_daemon(daemon_flags(arguments), prepare=_configure) as daemon:
        process = psutil.Process(daemon.pid)

        def resident_mb() -> float:
            return float(process.memory_info().rss) / 2**20

        with Client(daemon.target) as client:
            status = client.call("GET", "/v1/status").data
            ready = resident_mb()
            for language in LANGUAGES:
                text = str(read_script(language)["before"])
                for task in ("continue", "rephrase"):
                    client.call("POST", f"/v1/{task}", {"text": text[-1000:], "max_tokens": 32})
            used = resident_mb()
            give_up_at = time.monotonic() + WAIT_S
            state = "ready"
            while state != "unloaded" and time.monotonic() < give_up_at:
                time.sleep(LOOK_S)
                health = client.call("GET", "/health")
                unwell += health.status != 200
                state = str(health.data["state"])
            unloaded = resident_mb()
            again = client.call(
                "POST", "/v1/continue", {"text": "Once upon a time", "max_tokens": 8}
            )
            reloaded = resident_mb()
    publish(
        Report(
            benchmark="idle_memory",
            environment=describe_environment(status),
            figures={
                "ready": figure([ready], "MB"),
                "used": figure([used], "MB"),
                "unloaded": figure([unloaded], "MB", bar=BAR_MB),
                "loaded_again": figure([reloaded], "MB"),
                "first_request_after": figure([again.total_ms], "ms"),
            },
            counts={"state": state, "looks_at_health_that_were_not_well": unwell},
            notes=("Resident memory of the whole process, libraries included.",),
        ),
        quiet=arguments.json,
    )
    return int(state != "unloaded" or unwell > 0)


if __name__ == "__main__":
    sys.exit(main())
