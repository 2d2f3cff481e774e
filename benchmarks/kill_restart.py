"""`kill -9` of a daemon under load, again and again: does the next one come up whole, soon, and with everything
that was acknowledged?

One home lives through all of it. Clients write and index; the daemon is killed at a random moment, one time in
ten while it starts. The database is checked as the kill has left it, and what the next daemon says is compared
with what the ones before have acknowledged.
"""

from __future__ import annotations

import contextlib
import json
import random
import shutil
import socket
import sqlite3
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from benchmarks.harness import (
    Daemon,
    Flags,
    Report,
    Target,
    common_parser,
    daemon_flags,
    daemon_of,
    describe_environment,
    describe_machine,
    figure,
    publish,
    say,
    spawn_daemon,
)
from benchmarks.http_client import Broken, Client
from benchmarks.index_kills import DELETED, N_DOCUMENTS, Said, paragraphs_of
from benchmarks.soak_load import Worker

RESTART_BAR_S = 5.0
LONGEST_S = 3.0  # of a life after it is ready
EARLY_SHARE = 0.1
N_WRITERS = 3
PAUSE_S = 0.25  # at most, between two requests of a writer: documents are indexed in such pauses
ORPHAN_S = 5.0
GONE = (
    OSError,
    Broken,
    json.JSONDecodeError,
    KeyError,
)  # how a killed daemon shows itself to a client


@dataclass(slots=True)
class Trial:
    """What all lives together have shown. restart_cpu_s: of the processor, whatever else the machine did."""

    said: Said = field(default_factory=Said)
    wrong: list[str] = field(default_factory=list)
    restart_s: list[float] = field(default_factory=list)
    restart_cpu_s: list[float] = field(default_factory=list)
    n_requests: int = 0
    n_early: int = 0


def main() -> int:
    """Run; 1 when anything was lost, damaged or in the way."""
    parser = common_parser(__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    flags, trial, status = daemon_flags(arguments), Trial(), {}
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="pushkin-kills-") as folder:
        home = Path(folder).resolve() / "home"
        home.mkdir(mode=0o700)
        (home / "config.toml").write_text('[server]\nunix_socket = "on"\n')
        for number in range(arguments.kills + 1):
            moment = random.Random(arguments.seed * 1_000_003 + number)
            n_before = len(trial.wrong)
            with daemon_of(home, flags) as daemon:
                status = _greet(daemon, trial)
                if number < arguments.kills:
                    _live_and_die(daemon, trial, moment)
            trial.wrong += [f"kill {number}: {what}" for what in damage(home)]
            if moment.random() < EARLY_SHARE:
                _die_early(home, flags, trial, moment)
            trial.wrong[n_before:] = [f"life {number}: {what}" for what in trial.wrong[n_before:]]
            if not arguments.json and number % 10 == 9:
                last = f"{trial.restart_s[-1]:.1f} s ({trial.restart_cpu_s[-1]:.1f} s of processor)"
                say(f"{number + 1} kills, {len(trial.wrong)} wrong, last restart {last}")
    publish(
        _report(trial, arguments.kills, status, time.monotonic() - started), quiet=arguments.json
    )
    return 1 if trial.wrong else 0


def _live_and_die(daemon: Daemon, trial: Trial, moment: random.Random) -> None:
    """Let clients work, kill the daemon in the middle of it, and see that nothing of it lives on."""
    children = psutil.Process(daemon.pid).children(recursive=True)
    stopping = threading.Event()
    writers = [Worker(daemon.target, number) for number in range(N_WRITERS)]
    first_job = moment.randrange(10**9)

    def write(writer: Worker) -> None:
        pause = random.Random(first_job + writer.number)
        with contextlib.closing(writer):
            while not stopping.wait(pause.uniform(0, PAUSE_S)):
                writer.do(first_job + N_WRITERS * writer.tally.n_done + writer.number)

    threads = [threading.Thread(target=write, args=(writer,)) for writer in writers]
    threads.append(
        threading.Thread(
            target=_keep_documents, args=(daemon.target, trial.said, first_job, stopping)
        )
    )
    for thread in threads:
        thread.start()
    time.sleep(moment.uniform(0, LONGEST_S))
    process = psutil.Process(daemon.pid)
    children += process.children(recursive=True)
    # What ends for the wrong reason from here on ends because of the kill.
    wrong = [what for writer in writers for what in writer.tally.wrong]
    process.kill()
    stopping.set()
    for thread in threads:
        thread.join()
    trial.n_requests += sum(writer.tally.n_done for writer in writers)
    trial.wrong += wrong
    _, alive = psutil.wait_procs(set(children), timeout=ORPHAN_S)
    trial.wrong += [f"orphan {child.name()}" for child in alive]


def _die_early(home: Path, flags: Flags, trial: Trial, moment: random.Random) -> None:
    process = spawn_daemon(home, flags)
    time.sleep(moment.uniform(0, max(trial.restart_s)))
    process.kill()
    process.communicate()
    trial.n_early += 1
    trial.wrong += [f"killed in its start: {what}" for what in damage(home)]


def _keep_documents(target: Target, said: Said, seed: int, stopping: threading.Event) -> None:
    """Push and delete documents, and note what is tried and what has been acknowledged."""
    chosen = random.Random(seed)
    with contextlib.suppress(*GONE), Client(target, program="documents") as client:
        client.call("PUT", "/v1/consent", {"global": "on"})
        while not stopping.is_set():
            document = f"d{chosen.randrange(N_DOCUMENTS)}"
            path = f"/v1/documents/{document}"
            is_known = said.acknowledged.get(document, DELETED) != DELETED
            revision = time.monotonic_ns()
            if is_known and chosen.random() < 0.15:
                revision = DELETED
            said.hear([f"try {document} {revision}"])
            if revision == DELETED:
                is_done = client.call("DELETE", path).status == 200
            else:
                text = "\n\n".join(paragraphs_of(document, revision))
                body = {"text": text, "revision": revision, "consent": True}
                client.call("PUT", path, body)
                is_done = _await_indexed(client, path, revision, stopping)
            if is_done:
                said.hear([f"ack {document} {revision}"])


def _await_indexed(client: Client, path: str, revision: int, stopping: threading.Event) -> bool:
    while not stopping.wait(0.01):
        found = client.call("GET", path).data["document"]
        if found is not None and found["revision"] == revision:
            return True
    return False


def _greet(daemon: Daemon, trial: Trial) -> dict[str, object]:
    """Look at a daemon that has just started: healthy, in time, reachable, and with all that it should have."""
    with Client(daemon.target, program="judge") as client:
        health = client.call("GET", "/health")
        trial.restart_s.append(daemon.ready_s + health.total_ms / 1000)
        cpu = psutil.Process(daemon.pid).cpu_times()
        trial.restart_cpu_s.append(cpu.user + cpu.system)
        written = client.call("POST", "/v1/continue", {"text": "After", "max_tokens": 1})
        status = client.call("GET", "/v1/status").data
        documents = client.call("GET", "/v1/documents")
    checks = {
        f"health {health.status}": health.status == 200,
        f"continue {written.status}": written.status == 200,
        f"documents {documents.status}": documents.status == 200,
    }
    trial.wrong += [what for what, is_right in checks.items() if not is_right]
    trial.wrong += _wrong_files(daemon)
    if documents.status == 200:
        found = {item["id"]: int(item["revision"]) for item in documents.data["documents"]}
        trial.wrong += judge(trial.said, found)
    return status


def _wrong_files(daemon: Daemon) -> Iterator[str]:
    endpoint = json.loads((daemon.home / "endpoint.json").read_bytes())
    if (endpoint["pid"], endpoint["port"]) != (daemon.pid, daemon.target.port):
        yield "endpoint.json is of another daemon"
    lock = json.loads((daemon.home / "daemon.lock").read_bytes())
    if lock["pid"] != daemon.pid:
        yield "daemon.lock names another daemon"
    with socket.socket(socket.AF_UNIX) as connection:
        try:
            connection.connect(endpoint["unix_socket"])
        except OSError as error:
            yield f"Unix socket: {error!r}"
    left = [path.name for path in daemon.home.iterdir() if path.suffix in (".tmp", ".part")]
    if left:
        yield f"left behind: {left}"


def judge(said: Said, found: dict[str, int]) -> Iterator[str]:
    """Compare the revisions a daemon has with what was said; what it has is what the next one begins with."""
    for document in {*said.acknowledged, *said.tried, *found}:
        revision = found.get(document, DELETED)
        if revision not in said.allowed(document):
            yield f"{document}: revision {revision}, said {said.allowed(document)}"
        else:
            said.settle(document, revision)


def damage(home: Path) -> Iterator[str]:
    """Tell what SQLite finds wrong with the index, in a copy: the next daemon has to recover by itself."""
    folder = home / "index.noindex"
    if not (folder / "index.sqlite3").exists():
        return
    with tempfile.TemporaryDirectory(prefix="pushkin-kills-") as copies:
        for path in folder.glob("index.sqlite3*"):
            shutil.copy(path, copies)
        with contextlib.closing(sqlite3.connect(Path(copies) / "index.sqlite3")) as database:
            for check in ("integrity_check", "foreign_key_check"):
                found = _pragma(database, check)
                if found not in ([("ok",)], []):
                    yield f"{check}: {found[:3]}"
    moved_aside = [path.name for path in folder.glob("damaged*")]
    if moved_aside:
        yield f"moved aside: {moved_aside}"


def _pragma(database: sqlite3.Connection, name: str) -> list[object]:
    try:
        return database.execute(f"PRAGMA {name}").fetchall()
    except sqlite3.DatabaseError as error:
        return [error]


def _report(trial: Trial, n_kills: int, status: dict[str, object], seconds: float) -> Report:
    return Report(
        benchmark="kill_restart",
        environment={
            **describe_environment(status),
            "load_average_at_the_end": describe_machine()["load_average"],
        },
        figures={
            "restart until /health is 200": figure(
                trial.restart_s,
                "s",
                bar=RESTART_BAR_S,
                limit=min(trial.restart_cpu_s),
                limit_is="processor time of the quickest",
            ),
            "processor time of a restart": figure(trial.restart_cpu_s, "s"),
        },
        counts={
            "kills": n_kills,
            "kills while starting": trial.n_early,
            "longest restart s": round(max(trial.restart_s), 3),
            "restarts over the bar": sum(s > RESTART_BAR_S for s in trial.restart_s),
            "requests": trial.n_requests,
            "commits and deletions acknowledged": trial.said.n_acknowledged,
            "seconds": round(seconds, 1),
            "wrong": len(trial.wrong),
            "what was wrong": trial.wrong[:20],
        },
    )


if __name__ == "__main__":
    sys.exit(main())
