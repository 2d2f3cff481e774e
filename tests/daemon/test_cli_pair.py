"""`pushkin pair` from both ends: the person at the terminal and the editor with six digits."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import httpx
import pytest

from tests.daemon.conftest import environment

Pushkin = Callable[..., subprocess.CompletedProcess[bytes]]


@pytest.fixture(scope="module")
def daemon(start_daemon, tmp_path_factory):
    return start_daemon(tmp_path_factory.mktemp("pair") / "home")


@contextmanager
def pairing(daemon) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`pushkin pair --json` at work, and its code."""
    command = [sys.executable, "-m", "daemon", "pair", "--json"]
    with subprocess.Popen(
        command,
        env=environment(daemon.home),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        assert process.stdout is not None
        yield process, json.loads(process.stdout.readline())["code"]


def redeem(daemon, code: str, client: str = "Killah") -> httpx.Response:
    url = f"http://127.0.0.1:{daemon.port}/v1/pair"
    return httpx.post(url, json={"code": code, "client": client}, trust_env=False)


def status_with(daemon, token: str, path: str = "/v1/models") -> int:
    url = f"http://127.0.0.1:{daemon.port}{path}"
    return httpx.get(url, headers={"X-Api-Key": token}, trust_env=False).status_code


def test_an_editor_is_paired_listed_and_revoked(daemon, pushkin: Pushkin) -> None:
    with pairing(daemon) as (process, code):
        answer = redeem(daemon, code)
        assert process.wait(10) == 0
        last = json.loads(process.stdout.readlines()[-1])

    token = answer.json()["token"]
    listed = json.loads(pushkin("pair", "list", "--json", home=daemon.home).stdout)
    file = daemon.home / "clients" / "Killah.json"
    assert last == {"event": "paired", "client": "Killah"}
    assert [(client["client"], client["scope"]) for client in listed] == [("Killah", "editor")]
    assert token not in file.read_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert [status_with(daemon, token), status_with(daemon, token, "/v1/persona/export")] == [
        200,
        403,
    ]

    revoked = pushkin("pair", "revoke", "Killah", home=daemon.home)
    assert revoked.returncode == 0
    assert status_with(daemon, token) == 401
    assert pushkin("pair", "revoke", "Killah", home=daemon.home).returncode == 2
    assert pushkin("pair", "revoke", "../token", home=daemon.home).returncode == 2


def test_five_wrong_tries_end_the_command_with_a_warning(daemon) -> None:
    with pairing(daemon) as (process, code):
        wrong = f"{(int(code) + 1) % 10**6:06}"
        codes = [redeem(daemon, wrong).status_code for _ in range(5)]
        assert process.wait(10) == 1
        assert "guessing" in process.stderr.read()

    assert codes == [403] * 5
    assert redeem(daemon, code).status_code == 403


def test_ctrl_c_ends_the_code(daemon) -> None:
    with pairing(daemon) as (process, code):
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 130

    assert redeem(daemon, code).status_code == 403


def test_a_second_command_ends_the_first(daemon) -> None:
    with pairing(daemon) as (first, _), pairing(daemon) as (second, code):
        assert first.wait(10) == 1
        assert redeem(daemon, code, "Second").status_code == 200
        assert second.wait(10) == 0


def test_a_pairing_outlives_the_daemon(start_daemon, home) -> None:
    daemon = start_daemon(home)
    with pairing(daemon) as (process, code):
        token = redeem(daemon, code).json()["token"]
        assert process.wait(10) == 0
    assert daemon.stop() == 0

    assert status_with(start_daemon(home), token) == 200


def test_clients_in_a_file_that_others_can_write_are_nobody(daemon, pushkin: Pushkin) -> None:
    with pairing(daemon) as (process, code):
        token = redeem(daemon, code, "Loose").json()["token"]
        assert process.wait(10) == 0
    file = daemon.home / "clients" / "Loose.json"
    file.chmod(0o666)
    os.utime(file.parent)  # as any change in the folder would

    assert status_with(daemon, token) == 401
    assert pushkin("pair", "list", home=daemon.home).returncode == 4
    file.chmod(0o600)
    os.utime(file.parent)
    assert status_with(daemon, token) == 200


def test_without_a_daemon_pairing_says_so(pushkin: Pushkin) -> None:
    result = pushkin("pair")

    assert result.returncode == 3
    assert b"pushkin serve" in result.stderr
