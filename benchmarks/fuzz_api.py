"""schemathesis over `openapi.json` against a daemon of its own: `python -m benchmarks.fuzz_api --cases 5000`.

Every check that schemathesis has but `ignored_auth` (its thousands of wrong tokens would each wait for their refusal;
`tests/api/test_scopes.py` asks every route), on every operation but the endless stream of events; then whether the daemon is still
healthy, what its log says went wrong, and by how much its memory grew. JSON on stdout, exit code 1 for a finding.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from pathlib import Path
from typing import Any

import psutil

from benchmarks.harness import REPOSITORY, Daemon, running_daemon

_REQUEST_TIMEOUT_S = 30
_EXCLUDED = ("/v1/events",)  # has no end

Report = dict[str, Any]


def main(arguments: list[str] | None = None) -> int:
    """Fuzz a daemon with the scripted engine and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--cases", type=int, default=5000, help="about so many, over all operations"
    )
    parser.add_argument("--minutes", type=float, default=20.0, help="at most")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    with running_daemon({"engine": "scripted"}) as daemon:
        process = psutil.Process(daemon.pid)
        before = process.memory_info().rss
        report = _fuzz(daemon, options.cases, options.minutes * 60, options.seed)
        report["healthy_afterwards"] = _is_healthy(daemon)
        report["memory_growth_mb"] = round((process.memory_info().rss - before) / 1e6, 1)
        report["failed_inside"] = _failures(daemon.home / "logs" / "daemon.jsonl")
    print(json.dumps(report, indent=2))
    is_clean = report["healthy_afterwards"] and not report["failed_inside"]
    return int(not is_clean or bool(report["findings"]))


def _fuzz(daemon: Daemon, n_cases: int, limit_s: float, seed: int) -> Report:
    """Run schemathesis; its own report is read back."""
    paths = json.loads((REPOSITORY / "openapi.json").read_text("utf-8"))["paths"]
    n_operations = sum(len(operations) for operations in paths.values())
    with tempfile.TemporaryDirectory(prefix="pushkin-schemathesis-") as folder:
        # The token stands in a file, not in the arguments, which every user of the machine can read.
        header = f'Authorization = "Bearer {daemon.target.token}"\n'
        (Path(folder) / "schemathesis.toml").write_text(f"[headers]\n{header}")
        found = Path(folder) / "found.ndjson"
        command = [
            *(sys.executable, "-m", "schemathesis.cli", "run", str(REPOSITORY / "openapi.json")),
            *("--url", f"http://127.0.0.1:{daemon.target.port}", "--checks", "all"),
            *("--generation-with-security-parameters", "false"),
            *("--max-examples", str(max(1, n_cases // n_operations)), "--seed", str(seed)),
            *("--request-timeout", str(_REQUEST_TIMEOUT_S), "--continue-on-failure", "--no-color"),
            *(
                "--workers",
                "8",
                "--report",
                "ndjson",
                "--report-ndjson-path",
                str(found),
                "--no-shrink",
            ),
            *(flag for path in _EXCLUDED for flag in ("--exclude-path", path)),
        ]
        started = time.monotonic()
        try:
            ended = subprocess.run(
                command, cwd=folder, capture_output=True, text=True, timeout=limit_s, check=False
            )
            status = str(ended.returncode)
        except subprocess.TimeoutExpired:
            status = "stopped at the limit"
        seconds = round(time.monotonic() - started, 1)
        lines = found.read_text("utf-8").splitlines() if found.exists() else []
    n_run, findings = _read(lines)
    return {"cases": n_run, "seconds": seconds, "schemathesis": status, "findings": findings}


def _read(lines: list[str]) -> tuple[int, dict[str, int]]:
    """How many cases there were, and how often each check failed where."""
    n_cases, findings = 0, Counter[str]()
    for line in lines:
        for event, content in json.loads(line).items():
            if event != "ScenarioFinished":
                continue
            recorder = content["recorder"]
            n_cases += len(recorder.get("interactions", {}))
            for case, checks in recorder.get("checks", {}).items():
                for check in checks:
                    if check["status"] == "failure":
                        request = recorder["cases"][case]["value"]
                        findings[f"{check['name']}: {request['method']} {request['path']}"] += 1
    return n_cases, dict(findings.most_common())


def _is_healthy(daemon: Daemon) -> bool:
    url = f"http://127.0.0.1:{daemon.target.port}/health"
    try:
        with urllib.request.urlopen(url, timeout=_REQUEST_TIMEOUT_S) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def _failures(log: Path) -> dict[str, int]:
    """What the daemon's log calls a failed request, by place."""
    records = (json.loads(line) for line in log.read_text("utf-8").splitlines())
    return dict(
        Counter(
            f"{record.get('error_type')} at {', '.join(record.get('where', [])[-2:])}"
            for record in records
            if record.get("event", record.get("message")) == "request failed"
        )
    )


if __name__ == "__main__":
    sys.exit(main())
