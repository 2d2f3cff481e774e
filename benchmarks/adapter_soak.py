"""Random loads, unloads, generations and cancels: does an adapter ever leak into another's answer, or stay?

Several clients act at once on one daemon. Every greedy answer is compared with that of a fresh daemon which
has only ever seen that one set of adapters; memory is read before and after.
"""

from __future__ import annotations

import contextlib
import itertools
import random
import sys
import threading
import time
from collections import Counter
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
    describe_environment,
    figure,
    publish,
    running_daemon,
    say,
)
from benchmarks.http_client import Body, Client
from benchmarks.random_adapters import install_random
from daemon.config import load
from daemon.paths import find_model
from pushkin_runtime.model_store import base_model, open_model

NAMES = ("alpha", "beta", "gamma")
ACTS_PER_SEQUENCE = 6
MAX_TOKENS = 8
MIB = 2**20
TEXTS = (
    "The old house stood by the river, and ",
    "The old house stood by the river, and nobody had lived in it since ",
    "It was late in the autumn when she ",
    "Старый дом стоял у реки, и никто ",
    "Была поздняя осень, когда он ",
)
Refs = tuple[tuple[str, float], ...]
SETS: tuple[Refs, ...] = (
    (),
    *(((name, scale),) for name in NAMES for scale in (1.0, 0.5)),
    *(((a, 1.0), (b, 1.0)) for a, b in itertools.combinations(NAMES, 2)),
    (("alpha", 1.0), ("beta", -0.5)),
)
References = dict[tuple[str, Refs], str]


@dataclass(slots=True)
class Tally:
    """What one client did and saw."""

    acts: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)


def main() -> int:
    """Run; 1 when an answer differed or the daemon did not come to rest."""
    parser = common_parser(__doc__)
    parser.add_argument("--sequences", type=int, default=1000)
    parser.add_argument("--clients", type=int, default=3)
    arguments = parser.parse_args()
    flags = daemon_flags(arguments)
    references: References = {}
    for refs in SETS:
        references |= _reference(flags, refs)
    say(f"{len(references)} references, {len(set(references.values()))} different")
    with _daemon_with_adapters(flags) as daemon:
        with Client(daemon.target) as client:
            status = client.call("GET", "/v1/status").data
            _round(client)  # every set once: what stays after that is the level
            before = _level(client, daemon)
        tallies, seconds = _run(daemon, references, arguments.sequences, arguments.clients)
        with Client(daemon.target) as client:
            after = _level(client, daemon)
            alive = client.call("POST", "/v1/continue", _body(TEXTS[0], ())).status == 200
    wrong = [line for tally in tallies for line in tally.wrong]
    acts = sum((tally.acts for tally in tallies), Counter[str]())
    publish(
        Report(
            benchmark="adapter_soak",
            environment=describe_environment(status),
            figures={"rss_mib": figure([before[0] / MIB, after[0] / MIB], "MiB")},
            counts={
                "sequences": arguments.sequences,
                "acts": dict(sorted(acts.items())),
                "seconds": round(seconds, 1),
                "references": len(references),
                "references_different": len(set(references.values())),
                "wrong": len(wrong),
                "wrong_examples": wrong[:5],
                "alive": alive,
                "rss_mib_before_after": [round(before[0] / MIB, 1), round(after[0] / MIB, 1)],
                "adapters_bytes_before_after": [before[1], after[1]],
            },
            notes=(
                "A reference comes from a fresh daemon that only ever saw that set of adapters.",
            ),
        ),
        quiet=arguments.json,
    )
    return 1 if wrong or not alive or after[1] != before[1] else 0


@contextlib.contextmanager
def _daemon_with_adapters(flags: Flags) -> Iterator[Daemon]:
    with running_daemon(flags) as daemon:
        loaded = load({"runtime.model": flags.get("model")}, env={"PUSHKIN_HOME": str(daemon.home)})
        base = base_model(open_model(find_model(loaded.config.runtime.model, loaded.paths)))
        for seed, name in enumerate(NAMES):
            install_random(Path(daemon.home) / "adapters", name, base, seed=seed, rank=4 + 4 * seed)
        yield daemon


def _reference(flags: Flags, refs: Refs) -> References:
    """Return the answers of a daemon of its own under one set of adapters."""
    with _daemon_with_adapters(flags) as daemon, Client(daemon.target) as client:
        return {(text, refs): _write(client, text, refs) for text in TEXTS}


def _run(
    daemon: Daemon, references: References, n_sequences: int, n_clients: int
) -> tuple[list[Tally], float]:
    numbers = itertools.count()  # its `next` is atomic
    tallies = [Tally() for _ in range(n_clients)]

    def work(tally: Tally) -> None:
        with Client(daemon.target) as client:
            while (number := next(numbers)) < n_sequences:
                _sequence(client, daemon.target, references, tally, random.Random(number))

    threads = [threading.Thread(target=work, args=(tally,), daemon=True) for tally in tallies]
    started = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return tallies, time.monotonic() - started


def _sequence(
    client: Client, target: Target, references: References, tally: Tally, rng: random.Random
) -> None:
    for _ in range(ACTS_PER_SEQUENCE):
        act = rng.choices(("generate", "cancel", "load", "unload"), (6, 2, 1, 1))[0]
        text, refs = rng.choice(TEXTS), rng.choice(SETS)
        if act == "generate":
            got = _write(client, text, refs)
            if got != references[(text, refs)]:
                tally.wrong.append(f"{refs} after {tally.acts.total()} acts")
        elif act == "cancel":
            _start_and_leave(target, text, refs, after_events=rng.randrange(1, 5))
        else:
            act = _load_or_unload(client, act, rng.choice(NAMES), tally)
        tally.acts[act] += 1


def _load_or_unload(client: Client, act: str, name: str, tally: Tally) -> str:
    """Do it; return what happened: an adapter that runs for another client cannot be unloaded."""
    answer = client.call("POST", f"/v1/adapters/{name}/{act}", {})
    if answer.status == 423:
        return "unload refused"
    if answer.status != 200:
        tally.wrong.append(f"{act}: {answer.status} {answer.data['error']['code']}")
    return act


def _start_and_leave(target: Target, text: str, refs: Refs, *, after_events: int) -> None:
    with Client(target) as client:
        events = client.stream("/v1/continue", _body(text, refs) | {"max_tokens": 64})
        for _ in itertools.islice(events, after_events):
            pass


def _round(client: Client) -> None:
    for refs in SETS:
        for text in TEXTS:
            _write(client, text, refs)


def _level(client: Client, daemon: Daemon) -> tuple[int, int]:
    """Return resident memory and the adapters' share, after everything has been unloaded."""
    deadline = time.monotonic() + 10
    for name in NAMES:
        while client.call("POST", f"/v1/adapters/{name}/unload", {}).status == 423:
            if time.monotonic() > deadline:
                break
            time.sleep(0.02)
    status = client.call("GET", "/v1/status").data
    return psutil.Process(daemon.pid).memory_info().rss, status["adapters"]["n_bytes"]


def _write(client: Client, text: str, refs: Refs) -> str:
    answer = client.call("POST", "/v1/continue", _body(text, refs))
    return str(answer.data["choices"][0]["text"]) if answer.status == 200 else repr(answer.data)


def _body(text: str, refs: Refs) -> Body:
    return {
        "text": text,
        "max_tokens": MAX_TOKENS,
        "sampling": {"temperature": 0},
        "adapters": [{"name": name, "scale": scale} for name, scale in refs],
    }


if __name__ == "__main__":
    sys.exit(main())
