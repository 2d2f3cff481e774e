"""schemathesis over `openapi.json` against a daemon of its own: `python -m benchmarks.fuzz_api --cases 5000`.

Every check that schemathesis has, on every operation but the endless stream of events; then whether the daemon is still
healthy, what its log says went wrong, and what it kept. Then the requests of the last round again, just as they were
(`--replays`): what the first pass leaves behind in buffers and caches the others find there, so growth in the later ones is
a leak. JSON on stdout; exit code 1 for a finding, and for a round that schemathesis did not end well.
"""

from __future__ import annotations

import argparse
import base64
import json
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from benchmarks.fuzz_replay import read_requests, replay
from benchmarks.harness import REPOSITORY, Daemon, running_daemon, say
from benchmarks.http_client import Client

_REQUEST_TIMEOUT_S = 30
_ERRORS = ("NonFatalError", "FatalError")
# Of its tracebacks; the events tell the outermost alone.
_EXCEPTION = re.compile(r"^[ |]*((?:\w+\.)*\w*(?:Error|Exception|Failure): .{0,200})", re.MULTILINE)
_SCHEMATHESIS = str(REPOSITORY / "benchmarks" / "schemathesis_alone.py")
_EXCLUDED = ("/v1/events",)  # has no end
_MIB = 2**20
_TOML = """\
[headers]
Authorization = "Bearer {token}"

# 501 and 503 are answers with a reason: what is not supported, not installed, or not now.
[checks.not_a_server_error]
expected-statuses = ["2xx", "3xx", "4xx", 501, 503]

# 404 and 422: names of things that do not exist, which no schema can know; 400 is said apart, see `read_report`.
[checks.positive_data_acceptance]
expected-statuses = ["2xx", 400, 401, 403, 404, 422, 423, "5xx"]
"""

Report = dict[str, Any]


def main(arguments: list[str] | None = None) -> int:
    """Fuzz a daemon with the scripted engine and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--cases", type=int, default=5000, help="about so many a round, over all operations"
    )
    parser.add_argument("--rounds", type=int, default=1, help="from the same seed")
    parser.add_argument("--replays", type=int, default=4, help="of the last round's requests")
    parser.add_argument("--minutes", type=float, default=20.0, help="at most, a round")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    with running_daemon({"engine": "scripted"}) as daemon:
        report: Report = {"memory": [_memory(daemon)], "rounds": [], "replays": []}
        lines: list[str] = []
        for _ in range(options.rounds):
            outcome, lines = _fuzz(daemon, options.cases, options.minutes * 60, options.seed)
            report["rounds"].append(outcome | read_report(lines))
            report["memory"].append(_memory(daemon))
            say(f"round: {outcome}, {report['memory'][-1]}")
        requests = read_requests(_recorders(lines))
        for _ in range(options.replays):
            report["replays"].append(replay(daemon.target, requests))
            report["memory"].append(_memory(daemon))
            say(f"replay of {len(requests)}: {report['memory'][-1]}")
        report["healthy_afterwards"] = _is_healthy(daemon)
        report["failed_inside"] = _failures(daemon.home / "logs" / "daemon.jsonl")
    print(json.dumps(report, indent=2))
    return int(not is_clean(report))


def is_clean(report: Report) -> bool:
    """Whether nothing was found, and everything was looked at."""
    return bool(
        report["healthy_afterwards"]
        and not report["failed_inside"]
        and all(
            round_["schemathesis"] == "0" and not round_["findings"] and not round_["errors"]
            for round_ in report["rounds"]
        )
    )


def _fuzz(daemon: Daemon, n_cases: int, limit_s: float, seed: int) -> tuple[Report, list[str]]:
    """Run schemathesis: how it ended, and the lines of its own report."""
    paths = json.loads((REPOSITORY / "openapi.json").read_text("utf-8"))["paths"]
    n_operations = sum(len(operations) for operations in paths.values())
    with tempfile.TemporaryDirectory(prefix="pushkin-schemathesis-") as folder:
        # The token stands in a file, not in the arguments, which every user of the machine can read.
        settings = _TOML.format(token=daemon.target.token)
        (Path(folder) / "schemathesis.toml").write_text(settings)
        found = Path(folder) / "found.ndjson"
        command = [
            *(sys.executable, "-P", _SCHEMATHESIS, "run", str(REPOSITORY / "openapi.json")),
            *("--url", f"http://127.0.0.1:{daemon.target.port}", "--checks", "all"),
            *("--generation-with-security-parameters", "false"),
            *("--max-examples", str(max(1, n_cases // n_operations)), "--seed", str(seed)),
            *("--request-timeout", str(_REQUEST_TIMEOUT_S), "--continue-on-failure", "--no-color"),
            *("--workers", "8", "--no-shrink", "--report", "ndjson"),
            *("--report-ndjson-path", str(found)),
            *(flag for path in _EXCLUDED for flag in ("--exclude-path", path)),
        ]
        started = time.monotonic()
        try:
            ended = subprocess.run(
                command, cwd=folder, capture_output=True, text=True, timeout=limit_s, check=False
            )
            status, said = str(ended.returncode), ended.stdout
        except subprocess.TimeoutExpired:
            status, said = "stopped at the limit", ""
        seconds = round(time.monotonic() - started, 1)
        text = found.read_text("utf-8") if found.exists() else ""
    whole, _, _ = text.rpartition("\n")  # a stopped schemathesis leaves half a line
    outcome = {
        "seconds": seconds,
        "schemathesis": status,
        "exceptions": sorted(set(_EXCEPTION.findall(said))),
    }
    return outcome, whole.split("\n") if whole else []


def read_report(lines: list[str]) -> Report:
    """From schemathesis' NDJSON: cases, statuses by route, what failed where, and the reasons of refusals of what a schema allows.

    errors: why schemathesis could not test a route, which is no failed check and still its exit code 1.
    """
    n_cases, findings = 0, dict[str, Report]()
    statuses: defaultdict[str, Counter[str]] = defaultdict(Counter)
    refusals: Counter[str] = Counter()
    for recorder in _recorders(lines):
        n_cases += len(recorder.get("interactions", {}))
        for case, interaction in recorder.get("interactions", {}).items():
            response = interaction.get("response") or {}
            status = str(response.get("status_code", "none"))
            statuses[_route(recorder, case)][status] += 1
            if status == "400" and _is_positive(recorder["cases"].get(case, {})):
                refusals[f"{_route(recorder, case)}: {_reason(response)}"] += 1
        for case, checks in recorder.get("checks", {}).items():
            for check in checks:
                if check["status"] == "failure":
                    name = f"{check['name']}: {_route(recorder, case)}"
                    entry = findings.setdefault(name, {"n": 0, "example": check})
                    entry["n"] += 1
    return {
        "cases": n_cases,
        "findings": findings,
        "errors": [_error(content) for _, content in _events(lines, *_ERRORS)],
        "statuses": {route: dict(sorted(seen.items())) for route, seen in sorted(statuses.items())},
        "refused_though_the_schema_allows_it": dict(refusals.most_common(60)),
    }


def _recorders(lines: list[str]) -> Iterator[Report]:
    for _, content in _events(lines, "ScenarioFinished"):
        yield content["recorder"]


def _events(lines: list[str], *names: str) -> Iterator[tuple[str, Report]]:
    for line in lines:
        for name, content in json.loads(line).items():
            if name in names:
                yield name, content


def _error(content: Report) -> Report:
    """Of an event that ended a phase, or the whole run."""
    reason = content.get("value") or content.get("exception") or {}
    return {
        "route": content.get("label"),
        "phase": content.get("phase"),
        "reason": f"{reason.get('type')}: {reason.get('message')}",
    }


def _route(recorder: Report, case: str) -> str:
    request = recorder["cases"][case]["value"]
    return f"{request['method']} {request['path']}"


def _is_positive(case: Report) -> bool:
    meta = case.get("value", {}).get("meta") or {}
    return bool(meta.get("generation", {}).get("mode") == "positive")


def _reason(response: Report) -> str:
    """The code of an error, and the field it is about."""
    body = base64.b64decode((response.get("content") or {}).get("$base64", ""))
    try:
        error = json.loads(body)["error"]
    except (ValueError, KeyError, TypeError):
        return "not an error of ours"
    return f"{error.get('reason') or error.get('code')} ({error.get('param')})"


def _memory(daemon: Daemon) -> Report:
    """What the daemon holds, in MiB and numbers, by its own count where it has one."""
    with Client(daemon.target) as client:
        status = client.call("GET", "/v1/status").data
        n_documents = len(client.call("GET", "/v1/documents").data["documents"])
    process = psutil.Process(daemon.pid)
    found = process.memory_full_info()
    return {
        "rss_mib": round(found.rss / _MIB, 1),
        "private_mib": round(found.uss / _MIB, 1),
        "kv_cache_mib": round(status["kv_cache"]["n_bytes"] / _MIB, 1),
        "kv_cache_entries": status["kv_cache"]["n_entries"],
        "documents": n_documents,
        "threads": process.num_threads(),
        "files": process.num_fds(),
    }


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
