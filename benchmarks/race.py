"""One server through the whole race: typing on a long document, adapters, decode and prefill, memory, length."""

from __future__ import annotations

import contextlib
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil

from benchmarks.harness import say
from benchmarks.machine_limits import MachineLimits
from benchmarks.peers import BARE, documents
from benchmarks.peers_servers import AdapterSet, Peer
from benchmarks.race_trace import LongDocument, TraceOptions, as_prompt, long_document
from benchmarks.true_shape import Rig

INTERVAL_S = 0.15  # between keystrokes: 80 words a minute
MAX_TOKENS = 8  # of a suggestion that the next keystroke ends
PATIENCE_S = 1.0  # after which a person who switched by mistake goes back
SHORT_TOKENS = 128  # context that decoding is measured at
LENGTHS = (128, 256, 512, 1024, 2048, 4096, 8192)


@dataclass(frozen=True, slots=True, kw_only=True)
class RacePlan:
    """trace: the long document. is_patient: whether the switched-to adapter's whole prefill is waited for.

    prefill_tokens, decode_tokens, repeats: of the speeds. lengths: contexts of the curve, () for none.
    budget_s: after which what is left is left out; None: no end.
    """

    trace: TraceOptions
    is_patient: bool
    prefill_tokens: int
    decode_tokens: int
    repeats: int
    lengths: tuple[int, ...] = ()
    budget_s: float | None = None

    @property
    def longest(self) -> int:
        """Tokens a server must have room for."""
        return max(self.trace.n_tokens + self.trace.n_keys, *self.lengths, 0) + 64


@dataclass(frozen=True, slots=True)
class LengthPoint:
    """What one more token costs after `n_tokens`: to the first token of the answer, and for each one after it."""

    n_tokens: int
    ttft_ms: float
    decode_ms: float


@dataclass(slots=True, kw_only=True)
class RaceSamples:
    """What one server did. limits: of the machine just before. speeds: tokens a second by what was measured.
    left_out: for want of time."""

    name: str
    ready_s: float
    limits: MachineLimits | None = None
    ttft_ms: dict[str, list[float]] = field(default_factory=dict)
    speeds: dict[str, list[float]] = field(default_factory=dict)
    by_length: list[LengthPoint] = field(default_factory=list)
    rss_bytes: dict[str, int] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    prompt_tokens: int = 0

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> RaceSamples:
        points = [LengthPoint(**point) for point in content["by_length"]]
        limits = content["limits"] and MachineLimits(**content["limits"])
        return cls(**(content | {"by_length": points, "limits": limits}))


class Race:
    """Drives one running server; the cost of reading the long document, once known, says what there is time for."""

    def __init__(self, peer: Peer, rig: Rig, plan: RacePlan) -> None:
        self._peer, self._rig, self._plan = peer, rig, plan
        self._adapter: AdapterSet = ((next(iter(rig.adapters)), 1.0),)
        self._started = time.monotonic()
        self.samples = RaceSamples(name=peer.name, ready_s=peer.ready_s)

    def run(self) -> RaceSamples:
        """Everything there is time for, what matters most first."""
        self._note_rss("idle_loaded")
        self._peer.write(as_prompt("A first request is no measurement."), BARE)
        if self._plan.trace.n_tokens:
            document = long_document(self._rig, self._plan.trace)
            self._type(document)
            self._switch(document)
            self._edit_in_the_middle(document)
            self._edit_far_back(document)
        if self._plan.decode_tokens:
            self._measure_speeds()
        self._measure_lengths()
        self._note_rss("idle_after")
        self.samples.rss_bytes["peak"] = peak_rss_bytes(self._peer.pid)
        return self.samples

    # -- the long document --------------------------------------------------------------------

    def _type(self, document: LongDocument) -> None:
        opened = self._peer.write(as_prompt(document.opened), BARE)
        self._add("open", opened.ttft_ms)
        self.samples.prompt_tokens = opened.prompt_tokens
        self._speed("prefill_long", opened.prompt_tokens / opened.ttft_ms * 1000)
        for text in document.typed:
            self._add("type", self._keystroke(text))
        self._say("type")

    def _edit_in_the_middle(self, document: LongDocument) -> None:
        for text in document.deleted:
            self._add("delete_word", self._keystroke(text))
        self._say("delete_word")
        if self._has_time("return", 0.6):
            self._add("return", self._keystroke(document.typed[-1]))
            self._say("return")

    def _switch(self, document: LongDocument) -> None:
        """The state before is the document's end, without adapters."""
        if not self._has_time("switch, back", 2.1 if self._plan.is_patient else 1.3):
            return
        at_end = document.typed[-1]
        if self._plan.is_patient:
            self._add("switch", self._keystroke(at_end, self._adapter))
        else:
            self._peer.leave(as_prompt(at_end), self._adapter, PATIENCE_S)
        self._add("back", self._keystroke(at_end))
        self._say("back")

    def _edit_far_back(self, document: LongDocument) -> None:
        share = self._plan.trace.tail_tokens / self._plan.trace.n_tokens
        if self._has_time("edited_end", 1.2 * share):
            self._add("edited_end", self._keystroke(document.edited))
            self._say("edited_end")

    def _keystroke(self, text: str, adapters: AdapterSet = BARE) -> float:
        """Time to the first text; the rest is read until the next key would come, then left."""
        started = time.monotonic()
        first_ms: float | None = None
        pieces = self._peer.stream(as_prompt(text), adapters, MAX_TOKENS)
        with contextlib.closing(pieces):
            for piece in pieces:
                if first_ms is None and piece.text:
                    first_ms = piece.at_ms
                if first_ms is not None and time.monotonic() - started >= INTERVAL_S:
                    break
        if first_ms is None:
            raise RuntimeError(f"{self._peer.name}: an answer without text")
        time.sleep(max(0.0, started + INTERVAL_S - time.monotonic()))
        return first_ms

    # -- speeds -------------------------------------------------------------------------------

    def _measure_speeds(self) -> None:
        """Bare and with the adapter in turn, each prefill on a document that nobody has read."""
        plan = self._plan
        fresh = iter(documents(self._rig, plan.prefill_tokens, 2 * plan.repeats + 1)[1:])
        (short,) = documents(self._rig, SHORT_TOKENS, 1)
        sets: dict[str, AdapterSet] = {"bare": BARE, "adapter": self._adapter}
        for adapters in sets.values():
            self._peer.write(short, adapters)  # cached from here on
        for number in range(plan.repeats):
            cost = 3 * plan.prefill_tokens / max(plan.trace.n_tokens, 1)
            if number and not self._has_time(f"speeds, repeat {number + 1}", cost):
                return
            order = sets.items() if number % 2 == 0 else reversed(sets.items())
            for name, adapters in order:
                read = self._peer.write(next(fresh), adapters)
                self._speed(f"prefill_{name}", read.prompt_tokens / read.ttft_ms * 1000)
                self._peer.write(short, adapters)
                decoded = self._peer.write(short, adapters, plan.decode_tokens)
                self._speed(f"decode_{name}", decoded.tokens_per_second)
        last = {name: round(of[-1], 2) for name, of in self.samples.speeds.items()}
        say(f"{self._peer.name}: {last} tokens/s")

    def _measure_lengths(self) -> None:
        """One document read further and further; only what is new is prefilled each time."""
        if not self._plan.lengths:
            return
        for n_tokens in self._plan.lengths:
            cost = n_tokens / 2 / max(self._plan.trace.n_tokens, 1)
            if not self._has_time(f"length {n_tokens}", cost):
                continue
            before, longer = (
                as_prompt(documents(self._rig, n, 1)[0].text) for n in (n_tokens, n_tokens + 1)
            )
            self._peer.write(before, BARE)
            asked = self._peer.write(longer, BARE, MAX_TOKENS)
            point = LengthPoint(n_tokens, asked.ttft_ms, 1000 / asked.tokens_per_second)
            self.samples.by_length.append(point)
            say(f"{self._peer.name}: {point}")

    # -- book-keeping -------------------------------------------------------------------------

    def _has_time(self, what: str, cost: float) -> bool:
        """Whether `what` fits; cost: as a part of what reading the long document took."""
        if self._plan.budget_s is None:
            return True
        whole_s = self.samples.ttft_ms.get("open", [0.0])[0] / 1000
        left_s = self._plan.budget_s - (time.monotonic() - self._started)
        if cost * whole_s <= left_s:
            return True
        self.samples.left_out.append(what)
        say(f"{self._peer.name}: {what} left out, {left_s:.0f} s left")
        return False

    def _add(self, phase: str, ttft_ms: float) -> None:
        self.samples.ttft_ms.setdefault(phase, []).append(ttft_ms)

    def _speed(self, name: str, tok_s: float) -> None:
        self.samples.speeds.setdefault(name, []).append(tok_s)

    def _note_rss(self, when: str) -> None:
        self.samples.rss_bytes[when] = psutil.Process(self._peer.pid).memory_info().rss

    def _say(self, *phases: str) -> None:
        for phase in phases:
            found = sorted(self.samples.ttft_ms.get(phase, [0.0]))
            say(f"{self._peer.name}: {phase} {found[len(found) // 2]:.1f} ms (n {len(found)})")


def peak_rss_bytes(pid: int) -> int:
    """The most memory a process has had; where the system does not tell (macOS), what it has now."""
    status = Path(f"/proc/{pid}/status")
    if status.is_file():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return int(psutil.Process(pid).memory_info().rss)
