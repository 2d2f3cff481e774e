"""The daemon as a process: start, stream, stop, and everything that can be in the way."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from daemon.client import parse_sse
from daemon.instance import read_refusal
from daemon.paths import Paths

CANARY = "canary-Ленский-7f3a"
Pushkin = Callable[..., subprocess.CompletedProcess[bytes]]


@pytest.fixture(scope="module")
def daemon(start_daemon, tmp_path_factory):
    """One daemon for the tests that leave it running."""
    return start_daemon(tmp_path_factory.mktemp("shared") / "home")


def events(response: httpx.Response) -> Iterator[tuple[str, dict]]:
    return parse_sse(response.iter_bytes())


def _let_ctrl_c_through() -> None:
    """A shell starts background jobs with Ctrl-C ignored, and children inherit that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_it_answers_on_both_loopback_families_with_the_token_from_its_file(daemon) -> None:
    with daemon.client() as client:
        answer = client.post("/v1/continue", json={"text": "Once", "max_tokens": 4})
        assert answer.status_code == 200, answer.text
        assert answer.json()["usage"]["completion_tokens"] == 4
        assert client.get("/health").status_code == 200
    refused = httpx.post(f"http://127.0.0.1:{daemon.port}/v1/continue", json={}, trust_env=False)
    assert refused.status_code == 401
    with contextlib.suppress(httpx.ConnectError):  # no IPv6 loopback here
        health = httpx.get(f"http://[::1]:{daemon.port}/health", trust_env=False)
        assert health.status_code == 200


def test_without_a_token_every_other_guard_stays_on(start_daemon, home: Path) -> None:
    daemon = start_daemon(home, "--no-auth")
    url = f"http://127.0.0.1:{daemon.port}/v1/continue"
    body = {"text": "Once", "max_tokens": 1}
    with httpx.Client(trust_env=False) as client:
        codes = [
            client.post(url, json=body, headers=headers).status_code
            for headers in ({}, {"Origin": "https://evil.example"}, {"Host": "evil.example"})
        ]

        for_admins = client.delete(f"http://127.0.0.1:{daemon.port}/v1/persona").status_code

    assert codes == [200, 403, 421]
    assert for_admins == 403


def test_the_endpoint_file_says_where_it_listens_to_its_owner_only(daemon) -> None:
    path = daemon.home / "endpoint.json"
    endpoint = json.loads(path.read_text())

    assert endpoint["port"] == daemon.port
    assert endpoint["pid"] == daemon.process.pid
    assert endpoint["url"] == f"http://127.0.0.1:{daemon.port}"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_core_dumps_are_off(daemon) -> None:
    limits = Path(f"/proc/{daemon.process.pid}/limits")
    if not limits.exists():
        pytest.skip("needs /proc")
    (line,) = [x for x in limits.read_text().splitlines() if x.startswith("Max core file size")]

    assert line.split()[4:6] == ["0", "0"]


def test_commands_find_the_daemon_without_being_told_its_port(daemon, pushkin: Pushkin) -> None:
    status = pushkin("status", "--json", home=daemon.home)
    written = pushkin("continue", "--max-tokens", "4", "Once ", home=daemon.home)

    assert json.loads(status.stdout)["pid"] == daemon.process.pid
    assert (written.returncode, written.stdout, written.stderr) == (0, b" The", b"")


def test_a_port_that_is_not_the_daemons_is_said_to_be_wrong(daemon, pushkin: Pushkin) -> None:
    result = pushkin("status", "--port", "9", home=daemon.home)

    assert result.returncode == 3
    assert str(daemon.port).encode() in result.stderr


def test_a_rotated_token_counts_at_once_and_the_old_one_no_more(daemon, pushkin: Pushkin) -> None:
    with daemon.client() as with_the_old:
        assert with_the_old.get("/v1/status").status_code == 200
        assert pushkin("token", "--rotate", home=daemon.home).returncode == 0

        assert with_the_old.get("/v1/status").status_code == 401
    assert pushkin("status", home=daemon.home).returncode == 0


def test_a_token_of_a_scope_is_made_when_asked_for_and_ends_with_its_file(
    daemon, pushkin: Pushkin
) -> None:
    file = daemon.home / "token.menubar"
    assert not file.exists()
    token = pushkin("token", "--scope", "menubar", home=daemon.home).stdout.decode().strip()

    with httpx.Client(
        base_url=f"http://127.0.0.1:{daemon.port}",
        headers={"X-Api-Key": token},
        trust_env=False,
    ) as client:
        codes = [client.get("/v1/status").status_code, client.get("/v1/models").status_code]
        file.chmod(0o644)
        codes.append(client.get("/v1/status").status_code)
        file.chmod(0o600)
        codes.append(client.get("/v1/status").status_code)
        file.unlink()
        codes.append(client.get("/v1/status").status_code)

    assert codes == [200, 403, 401, 200, 401]


def test_a_reader_that_closes_the_pipe_is_not_a_failure(daemon, pushkin: Pushkin) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "daemon", "continue", "--max-tokens", "1024", "x"]
    from_conftest = {"PUSHKIN_HOME": str(daemon.home), "PYTHONPATH": str(Path(__file__).parents[2])}
    result = subprocess.run(
        command,
        stdout=writing,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        env={**os.environ, **from_conftest},
        check=False,
    )
    os.close(writing)

    assert (result.returncode, result.stderr) == (0, b"")


def test_a_second_daemon_of_the_same_home_is_refused(daemon, pushkin: Pushkin) -> None:
    result = pushkin("serve", home=daemon.home)

    assert result.returncode == 1
    assert f"pid {daemon.process.pid}, port {daemon.port}".encode() in result.stderr


def test_a_taken_port_is_reported_with_its_owner(daemon, pushkin: Pushkin, home: Path) -> None:
    port = str(daemon.port)

    by_hand = pushkin("serve", "--port", port)
    by_launchd = pushkin("serve", "--launchd", "--port", port)

    assert by_hand.returncode == 1
    assert f"another pushkin daemon (pid {daemon.process.pid})".encode() in by_hand.stderr
    assert (by_launchd.returncode, by_launchd.stdout) == (0, b"")
    assert str(port) in str(read_refusal(Paths(home, home / "logs")))


def test_a_bad_configuration_is_exit_0_under_launchd_with_the_reason_kept(
    pushkin: Pushkin, home: Path
) -> None:
    home.mkdir()
    (home / "config.toml").write_text("[server]\nprot = 1\n")

    assert pushkin("serve").returncode == 2
    assert pushkin("serve", "--launchd").returncode == 0
    assert "server.port" in str(read_refusal(Paths(home, home / "logs")))


def test_an_unusable_home_is_a_clear_error(pushkin: Pushkin, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    result = pushkin("serve", home=tmp_path / "file" / "home")

    assert result.returncode == 1
    assert b"Set PUSHKIN_HOME" in result.stderr
    assert b"Traceback" not in result.stderr


def test_a_model_that_cannot_be_loaded_ends_the_command(pushkin: Pushkin) -> None:
    result = pushkin("serve", PUSHKIN_MODEL="no-such-model", PUSHKIN_ENGINE="torch")

    assert result.returncode == 1
    assert b"no-such-model" in result.stderr
    assert b"Traceback" not in result.stderr


def test_sigterm_ends_an_open_stream_as_cancelled_and_the_process_with_0(
    start_daemon, home: Path
) -> None:
    daemon = start_daemon(home, paced=True)
    body = {"text": "Once", "max_tokens": 1024, "stream": True}

    with daemon.client() as client, client.stream("POST", "/v1/continue", json=body) as response:
        stream = events(response)
        while next(stream)[0] != "delta":
            pass
        daemon.wait_for("waiting")  # the engine is in the middle of a step

        daemon.process.terminate()
        stopped_at = time.monotonic()
        daemon.wait_for("stopping")
        with daemon.client() as other:
            refused = other.post("/v1/continue", json={"text": "More"})
        daemon.permit(8)
        last = dict(stream)["done"]

    assert refused.status_code == 503
    assert refused.json()["error"]["code"] == "draining"
    assert last["choices"][0]["finish_reason"] == "cancelled"
    assert daemon.process.wait(5) == 0
    assert time.monotonic() - stopped_at < 5
    assert not (home / "endpoint.json").exists()


def test_it_can_be_stopped_before_it_is_ready(start_daemon, home: Path) -> None:
    daemon = start_daemon(home, ready=False)
    daemon.wait_for("listening")

    assert daemon.stop() == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_ctrl_c_and_a_closed_terminal_stop_it_cleanly(
    start_daemon, home: Path, number: signal.Signals
) -> None:
    daemon = start_daemon(home, ready=False)
    daemon.wait_for("ready")
    daemon.process.stdout.close()  # nobody reads any more

    assert daemon.stop(number) == 0
    assert daemon.process.stderr.read() == ""
    assert not (home / "endpoint.json").exists()


@pytest.mark.slow
def test_an_engine_that_hangs_does_not_keep_the_process_past_5_s(start_daemon, home: Path) -> None:
    daemon = start_daemon(home, paced=True)
    body = {"text": "Once", "max_tokens": 1024, "stream": True}

    with daemon.client() as client, client.stream("POST", "/v1/continue", json=body) as response:
        assert response.status_code == 200
        stopped_at = time.monotonic()
        assert daemon.stop() == 0

    assert time.monotonic() - stopped_at < 5


def test_ctrl_c_cancels_the_command_and_leaves_the_daemon_idle(start_daemon, home: Path) -> None:
    daemon = start_daemon(home, paced=True)
    daemon.permit(20)
    command = [sys.executable, "-m", "daemon", "continue", "--max-tokens", "1024", "Once"]
    env = {**os.environ, "PUSHKIN_HOME": str(home), "PYTHONPATH": str(Path(__file__).parents[2])}

    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=env,
        preexec_fn=_let_ctrl_c_through,
    ) as writer:
        assert writer.stdout is not None
        assert writer.stdout.read(4) == b"word"
        writer.send_signal(signal.SIGINT)
        assert writer.wait(10) == 130
        assert writer.stderr is not None
        assert b"Traceback" not in writer.stderr.read()

    daemon.permit(2000)
    with daemon.client() as client:
        # Answered only after the turn of the cancelled generation has ended.
        client.post("/v1/continue", json={"text": "Next", "max_tokens": 1})
        status = client.get("/v1/status").json()
    assert status["queue"]["n_active"] == 0
    assert status["counts"]["tokens"] < 1000


def test_a_killed_daemon_leaves_nothing_in_the_way_of_the_next(start_daemon, home: Path) -> None:
    killed = start_daemon(home, paced=True)
    body = {"text": "Once", "max_tokens": 1024, "stream": True}
    with killed.client() as client, client.stream("POST", "/v1/continue", json=body) as response:
        killed.permit(20)
        assert next(events(response))[0] == "start"
        assert killed.stop(signal.SIGKILL) == -signal.SIGKILL
    assert (home / "endpoint.json").exists()

    again = start_daemon(home, "--port", str(killed.port))

    assert again.port == killed.port
    assert json.loads((home / "endpoint.json").read_text())["pid"] == again.process.pid
    assert again.stop() == 0
    assert not (home / "endpoint.json").exists()


def test_what_users_write_is_nowhere_under_the_home_afterwards(
    start_daemon, pushkin: Pushkin, home: Path, tmp_path: Path
) -> None:
    daemon = start_daemon(home)
    document = tmp_path / f"{CANARY}.txt"
    document.write_text(CANARY * 3, encoding="utf-8")
    with daemon.client() as client:
        client.post("/v1/continue", json={"text": CANARY, "stop": [CANARY], "max_tokens": 9})
        client.post("/v1/continue", json={"text": CANARY, CANARY: CANARY})
        client.post("/v1/rephrase", json={"text": CANARY, "instruction": CANARY, "n": CANARY})
        client.post("/v1/continue", content=f'{{"text": "{CANARY}'.encode())
        client.get(f"/v1/{CANARY}", params={"q": CANARY})
    pushkin("continue", "--file", str(document), home=home)
    with socket.create_connection(("127.0.0.1", daemon.port)) as raw:
        raw.sendall(f"GET /{CANARY} HTP\r\n\r\n".encode())
        raw.recv(100)
    assert daemon.stop() == 0

    written = {path: path.read_bytes() for path in home.rglob("*") if path.is_file()}
    assert b"request finished" in written[home / "logs" / "daemon.jsonl"]
    canaries = (CANARY.encode(), json.dumps(CANARY).strip('"').encode(), b"canary-")
    assert [path for path, content in written.items() if any(c in content for c in canaries)] == []
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in written)


def test_two_starts_at_the_same_time_leave_exactly_one(start_daemon, home: Path) -> None:
    daemons = [start_daemon(home, ready=False) for _ in range(2)]

    outcomes = [d.process.stdout.readlines(1) for d in daemons]

    listening = [d for d, lines in zip(daemons, outcomes, strict=True) if lines]
    assert len(listening) == 1
    listening[0].wait_for("ready")
    assert sorted(d.stop() if d in listening else d.process.wait() for d in daemons) == [0, 1]
