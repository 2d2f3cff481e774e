"""No sample is lost or doubled unnoticed, and lost ones are noticed by the clock alone."""

from __future__ import annotations

import threading

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from audio.clock import CONFIRM_S, AudioClock
from audio.ring import Ring

RATE = 16_000
steps = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.integers(0, 300)),
        st.tuples(st.just("read"), st.integers(1, 300)),
        st.tuples(st.just("skip"), st.integers(1, 50)),
    ),
    max_size=60,
)


@given(steps)
def test_what_is_read_is_what_was_written_with_the_gaps_in_their_places(steps) -> None:
    ring = Ring(256)
    expected: list[int | None] = []  # None is a lost sample
    heard: list[int | None] = []
    position = 0
    for action, n in steps:
        if action == "write":
            block = np.arange(position, position + n, dtype=np.int16)
            taken = ring.write(block)
            expected += [*block[:taken].tolist(), *[None] * (n - taken)]
            position += n
        elif action == "skip":
            ring.skip(n)
            expected += [None] * n
        else:
            lost, block = ring.read(n, 0)
            heard += [*[None] * lost, *block.tolist()]
    ring.end()
    while not ring.is_over:
        lost, block = ring.read(1000, 0)
        heard += [*[None] * lost, *block.tolist()]

    assert heard == expected


def test_a_ring_nobody_reads_counts_what_it_drops_and_does_not_grow() -> None:
    ring = Ring(1024)
    for _ in range(1000):
        ring.write(np.ones(100, np.int16))

    assert ring.n_dropped == 1000 * 100 - 1024
    lost, block = ring.read(10_000, 0)
    assert (lost, len(block)) == (0, 1024)
    ring.end()
    assert ring.read(10_000, 0)[0] == ring.n_dropped


def test_two_threads_share_a_ring() -> None:
    ring, n = Ring(2048), 200_000

    def write() -> None:
        sent = 0
        while sent < n:
            sent += ring.write(
                (np.arange(sent, min(n, sent + 321, sent + ring.n_free)) % 30_000).astype(np.int16)
            )
        ring.end()

    writer = threading.Thread(target=write)
    writer.start()
    parts = []
    while not ring.is_over:
        parts.append(ring.read(500, 1)[1])
    writer.join()

    assert np.array_equal(np.concatenate(parts), np.arange(n) % 30_000)


def run_clock(arrivals: list[tuple[float, int]]) -> int:
    clock = AudioClock(RATE)
    return sum(clock.deliver(n, when) for when, n in arrivals)


@settings(max_examples=30, deadline=None)
@given(st.floats(-400e-6, 400e-6), st.floats(0, 0.04), st.integers(0, 2**32 - 1))
def test_drift_and_jitter_are_no_loss(drift: float, jitter: float, seed: int) -> None:
    late = np.random.default_rng(seed).uniform(0, jitter, 30_000)
    arrivals = [(i * 0.02 * (1 + drift) + late[i], 320) for i in range(30_000)]  # ten minutes

    assert run_clock(arrivals) == 0


@given(st.floats(0.2, 1.0))
def test_a_stall_whose_sound_was_kept_is_no_loss(stall: float) -> None:
    arrivals = [(i * 0.02, 320) for i in range(100)]
    resumed = arrivals[-1][0] + stall
    kept = round(stall / 0.02)
    arrivals += [(resumed + i * 0.002, 320) for i in range(kept)]
    arrivals += [(max(resumed + kept * 0.002, (100 + kept + i) * 0.02), 320) for i in range(200)]

    assert run_clock(arrivals) == 0


@given(st.floats(0.15, 5.0), st.integers(0, 2**32 - 1))
def test_a_loss_is_found_within_a_second_and_measured_to_a_block(loss: float, seed: int) -> None:
    jitter = np.random.default_rng(seed).uniform(0, 0.01, 400)
    clock = AudioClock(RATE)
    for i in range(200):
        clock.deliver(320, i * 0.02 + jitter[i])
    found, found_after = 0, 0.0
    for i in range(200, 400):
        when = loss + i * 0.02 + jitter[i]
        if lost := clock.deliver(320, when):
            found += lost
            found_after = found_after or when - loss - 4.0

    assert abs(found / RATE - loss) <= 0.03
    assert found_after <= CONFIRM_S + 0.1


def test_a_callback_that_is_too_slow_loses_a_third_and_the_clock_knows() -> None:
    """32 ms blocks, of which a callback of 50 ms lets every third or so go by: no flag tells."""
    arrivals = [(i * 0.05, 512) for i in range(400)]
    true_loss = 400 * (0.05 - 0.032)

    assert abs(run_clock(arrivals) / RATE - true_loss) < 0.7


def test_a_clock_that_hears_nothing_is_stalled() -> None:
    clock = AudioClock(RATE)
    assert not clock.is_stalled(100.0)
    clock.deliver(320, 0.02)
    assert not clock.is_stalled(0.9)
    assert clock.is_stalled(1.1)
