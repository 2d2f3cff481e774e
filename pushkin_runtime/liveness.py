"""Whether generation lives, judged by what the inference thread did and not by what it promises.

The thread marks the beginning and the end of every unit of work (a prefill chunk, a decode step) and every
token; at rest it marks nothing and nobody wakes up. Three clocks are kept apart:

- the stall clock counts only time in which somebody looked, so that a suspended machine, a stopped
  process or a debugger never looks like an engine that hangs;
- the age of the last token goes on while the machine sleeps: a proof from before the night is none;
- the difference of the two clocks of the machine tells of a sleep, after which no old token counts.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field

from pushkin_runtime.handle import GenerationHandle
from pushkin_runtime.sampling_types import SamplingOverrides
from pushkin_runtime.types import Event, Failed, GenerationRequest, Health

FRESH_S = 30.0  # a token this recent proves that generation works
SELF_TEST_S = 5.0  # how long a self-test token may take at least
STALL_S = 30.0  # how long a unit of work may take at least
SLACK = 10  # times the slowest unit of late may be exceeded
SLEPT_S = 1.0  # a sleep shorter than this is the clocks' own difference
GAP_S = 2.5  # the most that passes on the stall clock between two looks
RETRY_AFTER_S = 15  # by then the daemon has started again
_FORGETTING = 0.99  # of the slowest unit, by each one since: a hundred steps later a third is left


def _continuous() -> float:
    """Seconds that go on while the machine sleeps: CLOCK_BOOTTIME on Linux, CLOCK_MONOTONIC_RAW on macOS
    (which is `mach_continuous_time`; Linux's clock of that name stands still)."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC_RAW))


@dataclass(frozen=True, slots=True)
class Clocks:
    """Two clocks in seconds. awake: stands still while the machine sleeps, as `time.monotonic` does on both
    systems (`mach_absolute_time` on macOS). continuous: goes on."""

    awake: Callable[[], float] = field(default=time.monotonic)
    continuous: Callable[[], float] = field(default=_continuous)


class Liveness:
    """Kept by the inference thread (`begin`, `note`, `end`, `rest`), read by any other.

    stall_s: a unit of work may always take this long; a slow model earns itself more (`limit_s`).
    """

    def __init__(self, clocks: Clocks, *, prefill_chunk: int, stall_s: float = STALL_S) -> None:
        self.n_tokens = 0
        self._clocks = clocks
        self._prefill_chunk, self._stall_s = prefill_chunk, stall_s
        self._lock = threading.Lock()
        self._busy = threading.Event()
        self._has_ended = False
        # The machine slept or the engine broke and no token has come since; nor did the self-test's.
        self._is_doubted = self._has_failed = False
        self._looked_at = clocks.awake()
        self._stall_clock = self._moved_at = 0.0
        self._asleep_s = clocks.continuous() - clocks.awake()
        self._last_token_at: float | None = None  # continuous
        self._self_test_at: float | None = None  # stall clock
        self._unit_at = 0.0  # stall clock
        self._unit_ran = self._has_run = False  # in this unit, since the last token
        self._slowest_s = 0.0
        self._fastest_pass_s: float | None = None

    # -- inference thread -----------------------------------------------------------------------

    def begin(self) -> None:
        """A unit of work begins."""
        self._unit_at, self._unit_ran = self._advance(), False

    def note(self, n_tokens: int, ran_model: bool) -> None:
        """A part of the unit is done, with this many new tokens (0 for a prefill chunk), and the model ran for
        it or did not. Tokens from remembered logits alone prove nothing."""
        self._move()
        self.n_tokens += n_tokens
        self._unit_ran |= ran_model
        self._has_run |= ran_model
        if n_tokens and self._has_run:
            self._has_run = False
            self._last_token_at = self._clocks.continuous()
            self._self_test_at = None
            self._is_doubted = self._has_failed = False

    def end(self) -> None:
        """The unit is done, whether it did anything or not; how long it took says what the next may take."""
        self._move()
        took_s = self._moved_at - self._unit_at
        self._slowest_s = max(took_s, self._slowest_s * _FORGETTING)
        if self._unit_ran:
            self._fastest_pass_s = min(took_s, self._fastest_pass_s or took_s)

    def rest(self) -> None:
        """There is nothing to do: nobody needs to look before the next `work`, unless a proof is wanted."""
        if not self._is_doubted and not self._has_failed:
            self._busy.clear()

    def doubt(self) -> None:
        """The engine broke: whoever watches asks for a self-test."""
        self._is_doubted = True
        self._busy.set()

    def stop(self) -> None:
        """The thread ends."""
        self._has_ended = True
        self._busy.set()

    def _hear_self_test(self, event: Event) -> None:
        if isinstance(event, Failed):  # another may still succeed
            self._has_failed = True
            self._self_test_at = None
            self._busy.set()

    # -- any thread -----------------------------------------------------------------------------

    def work(self) -> None:
        """There is something to do; after a rest its time begins now."""
        if not self._busy.is_set():
            self._move()
            self._busy.set()

    def wait_for_work(self, timeout_s: float | None = None) -> bool:
        """Wait until there is something to do (or the thread has ended), which is when looking makes sense."""
        return self._busy.wait(timeout_s)

    def token_age_s(self) -> float | None:
        """Seconds since the last token, sleep included; None before the first."""
        at = self._last_token_at
        return None if at is None else self._clocks.continuous() - at

    def heartbeat_age_s(self) -> float:
        """Seconds on the stall clock since anything moved; 0 at rest, when nothing has to."""
        return self._still_s() if self._busy.is_set() else 0.0

    @property
    def limit_s(self) -> float:
        """How long a unit of work may take before it counts as hanging.

        A chunk of the prompt takes at most as long as its tokens would one by one, and a pass over one token at most
        as long as any pass, which is known from the first on; a long prefill is therefore never a stall, on no machine.
        """
        chunk_s = self._prefill_chunk * (self._fastest_pass_s or 0.0)
        return max(self._stall_s, SLACK * self._slowest_s, chunk_s)

    @property
    def is_stalled(self) -> bool:
        """Whether something has to be done and nothing moves, or never will."""
        if self._has_ended or self._has_failed:
            return True
        return self._busy.is_set() and self._still_s() > self.limit_s

    @property
    def wants_self_test(self) -> bool:
        """Whether only a self-test can tell, and none is on its way."""
        return (self._is_doubted or self._has_failed) and self._self_test_at is None

    def self_test(self, wake: Callable[[], None]) -> GenerationHandle:
        """Return a generation of one token; what becomes of it is known here."""
        return GenerationHandle(
            _self_test_request(), self._hear_self_test, wake=wake, on_end=lambda _: None
        )

    def look(self, start_self_test: Callable[[], None]) -> Health:
        """Judge. At rest without a recent token, `start_self_test` is called and trusted for a while.

        The loading of the model is none of this class's business.
        """
        if self._has_ended:
            return _dead("the inference thread has ended")
        still_s = self._still_s()
        is_tested = self._self_test_at is not None
        if self._busy.is_set():
            if is_tested and still_s > max(SELF_TEST_S, SLACK * self._slowest_s):
                return _dead("the self-test token did not come")
            if still_s > self.limit_s:
                return _dead("work is queued but nothing moves")
        self._is_doubted |= self._has_slept()
        age_s = self.token_age_s()
        if self.wants_self_test or not (self._busy.is_set() or self._is_fresh(age_s) or is_tested):
            self._self_test_at = self._stall_clock
            start_self_test()
            is_tested = True
        if self._has_failed:
            return _dead("the self-test failed")
        if self._is_fresh(age_s):
            return _alive("a token was produced recently")
        if is_tested:
            return _alive("idle; a self-test token is on its way")
        return _alive("work is making progress")

    # -- helpers --------------------------------------------------------------------------------

    def _is_fresh(self, age_s: float | None) -> bool:
        return age_s is not None and age_s < FRESH_S and not self._is_doubted

    def _move(self) -> None:
        self._moved_at = self._advance()

    def _still_s(self) -> float:
        return self._advance() - self._moved_at

    def _advance(self) -> float:
        """Read the stall clock: what passed while nobody looked counts for GAP_S at most."""
        with self._lock:
            now = self._clocks.awake()
            self._stall_clock += min(now - self._looked_at, GAP_S)
            self._looked_at = now
            return self._stall_clock

    def _has_slept(self) -> bool:
        """Whether the machine was asleep since the last look."""
        asleep_s = self._clocks.continuous() - self._clocks.awake()
        slept_s, self._asleep_s = asleep_s - self._asleep_s, asleep_s
        return slept_s > SLEPT_S


def _self_test_request() -> GenerationRequest:
    """The smallest request that goes through everything: prompt, cache, prefill, one greedy token."""
    return GenerationRequest(
        request_id=f"self-test-{uuid.uuid4().hex}",
        task="continue",
        text="A",
        max_tokens=1,
        sampling=SamplingOverrides(temperature=0.0),
        reuse_cache=False,  # a remembered token would prove nothing
    )


def _alive(reason: str) -> Health:
    return Health(ok=True, state="ready", reason=reason)


def _dead(reason: str) -> Health:
    return Health(ok=False, state="ready", reason=reason, retry_after_s=RETRY_AFTER_S)
