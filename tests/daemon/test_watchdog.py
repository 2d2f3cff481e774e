"""A daemon whose engine hangs says so, ends for launchd to restart it, and leaves nothing in the way."""

from __future__ import annotations

import itertools
import signal
import threading
from pathlib import Path

import httpx
import pytest

from daemon.watchdog import EXIT_DEAD, Watchdog

HANGING_DAEMON = Path(__file__).with_name("hanging_daemon.py")
SPEECHLESS_DAEMON = Path(__file__).with_name("speechless_daemon.py")
GUARD_S = 20.0
CANARY = "canary-Онегин-91c"


def test_an_engine_that_hangs_is_told_at_health_and_ends_the_process(
    start_daemon, home: Path
) -> None:
    daemon = start_daemon(
        home,
        program=HANGING_DAEMON,
        PUSHKIN_STALL_LIMIT_S="1",
        PUSHKIN_RESTART_AFTER_S="2",
    )
    with daemon.client() as client:
        assert client.get("/health").status_code == 200
        daemon.say("hang")
        body = {"text": CANARY, "max_tokens": 1024, "stream": True}
        with client.stream("POST", "/v1/continue", json=body) as response:
            assert response.status_code == 200
            with daemon.client() as other:
                ill = until_ill(other)
                refused = other.post("/v1/continue", json={"text": CANARY})

    assert ill.json()["reason"] == "work is queued but nothing moves"
    assert ill.json()["status"] == "failed"
    assert int(ill.headers["Retry-After"]) > 0
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "not_ready")
    assert daemon.process.wait(GUARD_S) == EXIT_DEAD
    faults = (home / "logs" / "faults.log").read_text()
    assert "hanging_daemon.py" in faults  # the very line that hangs
    assert "generation is dead" in (home / "logs" / "daemon.jsonl").read_text()
    assert all(CANARY not in path.read_text() for path in (home / "logs").iterdir())

    again = start_daemon(home, "--port", str(daemon.port))
    with again.client() as client:
        assert client.get("/health").status_code == 200
        assert client.post("/v1/continue", json={"text": "x", "max_tokens": 1}).status_code == 200
    assert again.stop() == 0


def test_an_engine_that_hangs_with_the_interpreter_locked_is_ended_from_outside(
    start_daemon, home: Path
) -> None:
    daemon = start_daemon(
        home, program=HANGING_DAEMON, PUSHKIN_STALL_LIMIT_S="1", PUSHKIN_RESTART_AFTER_S="1"
    )
    with daemon.client() as client:
        body = {"text": CANARY, "max_tokens": 1024, "stream": True}
        with client.stream("POST", "/v1/continue", json=body) as response:
            assert response.status_code == 200
            daemon.say("lock")
            with pytest.raises(httpx.HTTPError):
                list(response.iter_bytes())

    assert daemon.process.wait(GUARD_S) == -signal.SIGABRT  # which launchd starts again
    faults = (home / "logs" / "faults.log").read_text()
    assert "hanging_daemon.py" in faults
    assert CANARY not in faults


def test_a_daemon_that_breaks_in_its_start_does_not_live_on_unheard(
    start_daemon, home: Path
) -> None:
    daemon = start_daemon(home, program=SPEECHLESS_DAEMON, ready=False)

    assert daemon.process.wait(GUARD_S) == 1  # which launchd starts again
    assert not (home / "endpoint.json").exists()


def until_ill(client: httpx.Client) -> httpx.Response:
    """Ask until the answer is not 200: the daemon itself decides when."""
    for _ in range(10_000):
        answer = client.get("/health")
        if answer.status_code != 200:
            return answer
        threading.Event().wait(0.01)
    pytest.fail("the daemon stayed well")


class Patient:
    """A runtime by script: whether it is stalled at each look."""

    def __init__(self, looks: list[bool]) -> None:
        self.looks = itertools.chain(looks)
        self.is_over = threading.Event()

    def wait_for_work(self, timeout_s: float | None = None) -> bool:
        return True

    def is_stalled(self) -> bool:
        try:
            return next(self.looks)
        except StopIteration:
            self.is_over.set()
            return False


def ends(looks: list[bool]) -> bool:
    """Whether a watchdog with a grace of three looks ends that runtime."""
    patient, ended = Patient(looks), threading.Event()
    watchdog = Watchdog(patient, grace_s=0.003, end=ended.set, tick_s=0.001)
    watchdog.start()
    while not (patient.is_over.wait(0.001) or ended.is_set()):
        pass
    watchdog.stop()
    return ended.is_set()


def test_a_stall_that_ends_within_the_grace_ends_nothing() -> None:
    assert not ends([True, True, True, False] * 3)
    assert ends([False, True, True, True, True])


@pytest.mark.parametrize("grace_s", [0, 1])
def test_a_watchdog_that_is_stopped_or_has_endless_patience_ends_nothing(grace_s: float) -> None:
    patient, ended = Patient([True] * 1000), threading.Event()
    watchdog = Watchdog(patient, grace_s=grace_s, end=ended.set, tick_s=1)
    watchdog.start()
    watchdog.stop()
    if grace_s:
        watchdog._thread.join(GUARD_S)

    assert not ended.is_set()
    assert not watchdog._thread.is_alive()
