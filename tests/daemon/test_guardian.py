"""Who watches over the watchdog: it counts what it saw, not what a clock says."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys

import pytest

from daemon.guardian import BEAT, LOOK_S, REST, Guardian, is_held, watch

SILENCE = None
GUARD_S = 20.0


def verdict(heard: list[bytes | None], held: list[bool] | None = None) -> bool:
    """What a guardian with a patience of three looks makes of what it hears; the other side has gone at the end."""
    coming, states = itertools.chain(heard), iter(held or [])

    def hear(timeout_s: float | None) -> bytes:
        what = next(coming, b"")
        if what is SILENCE:
            assert timeout_s == LOOK_S  # for ever, and nobody would have woken up
            raise TimeoutError
        return what

    return watch(hear, 3, lambda: next(states, False))


def test_silence_with_work_to_do_is_the_end_after_so_many_looks() -> None:
    assert verdict([BEAT, SILENCE, SILENCE, SILENCE])
    assert not verdict([BEAT, SILENCE, SILENCE])
    assert not verdict([BEAT, SILENCE, SILENCE, BEAT, SILENCE, SILENCE, BEAT])


def test_at_rest_nobody_looks() -> None:
    assert not verdict([BEAT, REST])
    assert not verdict([BEAT + REST, REST, BEAT, SILENCE, BEAT])


def test_what_is_stopped_or_debugged_is_given_its_time_again() -> None:
    stopped_for_long = [SILENCE] * 50
    held = [True] * 25  # asked at every second look

    assert not verdict([BEAT, *stopped_for_long, SILENCE, SILENCE, BEAT], held)
    assert verdict([BEAT, *stopped_for_long, SILENCE, SILENCE, SILENCE], held)


@pytest.fixture
def sleeper():
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    yield process
    process.kill()
    process.wait(GUARD_S)
    process.stdin.close()


def test_a_stopped_process_is_known_for_one(sleeper) -> None:
    assert not is_held(sleeper.pid)

    sleeper.send_signal(signal.SIGSTOP)
    os.waitpid(sleeper.pid, os.WUNTRACED)

    assert is_held(sleeper.pid)


def test_it_ends_with_the_one_it_watches_over() -> None:
    guardian = Guardian(patience_s=60)
    guardian.beat()

    guardian.close()

    assert guardian._process.returncode == 0
    guardian.beat()  # and nobody minds
