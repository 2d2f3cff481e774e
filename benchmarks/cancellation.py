"""How soon the model stops working for a request that nobody wants any more.

A superseded request ends with its own last event. After a disconnect or a DELETE the daemon's status is
polled until nothing runs, so those figures are one status round trip coarse.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from benchmarks.harness import Target
from benchmarks.http_client import Body, Broken, Client, ServerEvent
from benchmarks.typing_trace import read_script

Stage = Literal["prefill", "decode"]
Way = Literal["newer", "disconnect", "delete"]

WAYS: tuple[Way, ...] = ("newer", "disconnect", "delete")
STAGES: tuple[Stage, ...] = ("decode", "prefill")
EXPECTED = {"newer": "superseded", "disconnect": "cancelled", "delete": "cancelled"}
GIVE_UP_S = 20.0
N_REPEATED = 6  # times the text is repeated, so that its prefill takes many chunks


@dataclass(slots=True)
class CancelTimes:
    """to_idle_ms: "newer_decode" and so on → times. n_missed: it had ended by itself before it was asked to.

    n_wrong: it ended for a reason that nobody gave. chunk_ms: time between two prefill progress events.
    """

    to_idle_ms: dict[str, list[float]] = field(default_factory=dict)
    chunk_ms: list[float] = field(default_factory=list)
    reasons: Counter[str] = field(default_factory=Counter)
    n_missed: int = 0
    n_wrong: int = 0


class _Reader(threading.Thread):
    """Reads one stream on a thread of its own and tells when the wanted stage is reached."""

    def __init__(self, target: Target, body: Body, request_id: str, stage: Stage) -> None:
        super().__init__(daemon=True)
        self.client = Client(target)
        self.reached = threading.Event()
        self.reason: str | None = None
        self.ended_at = 0.0
        self.progress_at: list[float] = []
        self._events = self.client.stream("/v1/continue", body, request_id=request_id)
        self._until = {"prefill": "progress", "decode": "delta"}[stage]

    def run(self) -> None:
        try:
            for event in self._events:
                self._note(event)
        except Broken:
            pass  # we left
        finally:
            self.ended_at = time.perf_counter()
            self.reached.set()
            self.client.close()

    def _note(self, event: ServerEvent) -> None:
        if event.name == "progress":
            self.progress_at.append(event.at_ms)
        if event.name == "done":
            self.reason = event.data["choices"][0]["finish_reason"]
        if event.name == self._until:
            self.reached.set()


def measure_cancellation(target: Target, *, n: int) -> CancelTimes:
    """End `n` requests in every way and stage, one after another."""
    times = CancelTimes()
    numbers = itertools.count()
    with Client(target) as other:
        for way, stage in itertools.product(WAYS, STAGES):
            found = times.to_idle_ms.setdefault(f"{way}_{stage}", [])
            for _ in range(n):
                ms = _end_one(target, other, way, stage, next(numbers), times)
                if ms is None:
                    times.n_missed += 1
                else:
                    found.append(ms)
    return times


def _end_one(
    target: Target, other: Client, way: Way, stage: Stage, number: int, times: CancelTimes
) -> float | None:
    """Start a long request, wait for `stage`, end it; milliseconds until it was over."""
    request_id = f"cancel-{number}"
    body = _long_body(stage, number)
    reader = _Reader(target, body, request_id, stage)
    reader.start()
    reader.reached.wait(GIVE_UP_S)
    started = time.perf_counter()
    match way:
        case "newer":
            newer = {**body, "revision": 2, "text": "Then", "max_tokens": 1}
            other.call("POST", "/v1/continue", newer)
            reader.join(GIVE_UP_S)
            ended_at = reader.ended_at
        case "disconnect":
            reader.client.disconnect()
            ended_at = _await_idle(other)
        case "delete":
            other.call("DELETE", f"/v1/requests/{request_id}")
            ended_at = _await_idle(other)
    reader.join(GIVE_UP_S)
    times.chunk_ms += [b - a for a, b in itertools.pairwise(reader.progress_at)]
    if reader.reason in ("stop", "length"):
        return None
    if way != "disconnect":
        times.reasons[f"{way}: {reader.reason}"] += 1
        times.n_wrong += reader.reason != EXPECTED[way]
    return (ended_at - started) * 1000


def _await_idle(client: Client) -> float:
    """Poll the status until nothing runs; when that was."""
    for _ in _until_deadline():
        queue = client.call("GET", "/v1/status").data["queue"]
        if queue["n_active"] + queue["n_queued"] == 0:
            return time.perf_counter()
    raise RuntimeError(f"Still busy {GIVE_UP_S:g} s after the request was ended: {queue}")


def _until_deadline() -> Iterator[None]:
    deadline = time.monotonic() + GIVE_UP_S
    while time.monotonic() < deadline:
        yield


def _long_body(stage: Stage, number: int) -> Body:
    """A text that no cache entry shares, wherever its start is cut; long where the prefill is to be ended."""
    text = read_script("en")["before"]
    parts = [f"{number}, {i}. {text}" for i in range(N_REPEATED)]
    return {
        "text": "".join(parts) if stage == "prefill" else parts[0][:200],
        "document_id": f"cancel-{number}",
        "revision": 1,
        "max_tokens": 400,
        "sampling": {"seed": number},
    }
