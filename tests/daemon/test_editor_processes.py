"""The shipped editor against real processes: its flags, its scripts' requests, its ways of dying."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from daemon.editor_port import with_editor_port
from daemon.errors import InputError
from daemon.llama_server import LISTENING, editor_port
from pushkin_runtime.engines.scripted_engine import BASE
from tests.daemon.conftest import PATIENCE_S, environment

SCRIPT = [sys.executable, "-m", "daemon.llama_server"]
GONE_S = 10.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def flags(port: int) -> list[str]:
    """As LLMEngine.swift starts it."""
    return [
        *("-m", "/models/gemma/gemma-3-4b-pt-q4_0.gguf", "--port", str(port), "--host", "localhost"),
        *("--n-gpu-layers", "1", "--embedding", "--lora-init-without-apply"),
        *("--lora", "/models/lora/autocomplete_lora.gguf"),
    ]  # fmt: skip


@contextlib.contextmanager
def running(command: list[str], home: Path, **env: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        command,
        env=environment(home, **env),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        assert process.stderr is not None
        process.stderr.close()


def await_line(process: subprocess.Popen[str], wanted: str = LISTENING) -> None:
    """LLMEngine.swift looks for the phrase in what comes on stderr."""
    assert process.stderr is not None
    for line in process.stderr:
        if line == wanted + "\n":
            return
    pytest.fail(f"it ended without saying {wanted!r}")


def wait_for_server(server_url: str) -> bool:
    """Resources/autocomplete.py: a read timeout is not caught, and would end the script."""
    give_up_at = time.monotonic() + PATIENCE_S + 60  # 30 for the script
    while time.monotonic() < give_up_at:
        try:
            if requests.get(f"{server_url}/health", timeout=2).status_code == 200:
                return True
        except requests.exceptions.ConnectionError:
            pass
        threading.Event().wait(0.2)  # the script waits a second
    return False


def suggestions(server_url: str, prompt: str) -> list[str]:
    """Resources/main_llm.py and autocomplete.py: one suggestion, as its pieces are printed."""
    payload = {
        "prompt": prompt, "max_tokens": 10, "temperature": 0.8, "min_p": 0.1, "stream": True,
        "lora_adapters": [{"path": "lora/autocomplete_lora.gguf", "scale": 1.0}],
    }  # fmt: skip
    response = requests.post(
        f"{server_url}/completion", json=payload, stream=True, timeout=PATIENCE_S
    )
    response.raise_for_status()
    shown, buffer = [], ""
    for line_bytes in response.iter_lines(decode_unicode=False):
        line = line_bytes.decode("utf-8")
        if line.startswith("data: "):
            buffer += line[6:]
            data = json.loads(buffer)
            buffer = ""
            if data.get("content"):
                if data["content"].strip():
                    shown.append(data["content"])
                if data.get("stop", False):
                    break
    return shown


def is_refused(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def until_gone(pid: int) -> None:
    give_up_at = time.monotonic() + GONE_S
    while time.monotonic() < give_up_at:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
    pytest.fail(f"process {pid} is still there")


@pytest.fixture
def adapted_home(home: Path, write_adapter) -> Path:
    write_adapter(home / "adapters", "autocomplete_lora", BASE, seed=1)
    return home


def test_the_editors_whole_session_works_through_the_executable(adapted_home: Path) -> None:
    port = free_port()
    url = f"http://localhost:{port}"
    with running([*SCRIPT, *flags(port)], adapted_home) as shim:
        assert wait_for_server(url)
        await_line(shim)
        adapters = {"adapters": [{"path": "lora/autocomplete_lora.gguf", "scale": 1.0}]}
        assert requests.post(f"{url}/lora-adapters", json=adapters, timeout=5).status_code == 200
        pieces = suggestions(url, "Once upon a time")
        vector = requests.post(f"{url}/embedding", json={"text": "Once"}, timeout=5).json()
        health_s = requests.get(f"{url}/health", timeout=1).elapsed.total_seconds()
        shim.send_signal(signal.SIGTERM)
        code = shim.wait(PATIENCE_S)

    assert len("".join(pieces)) > 0
    assert len(vector["embedding"]) == 256
    assert health_s < 1
    assert code == 0
    assert is_refused(port)


def test_a_real_model_answers_the_health_loop_from_the_first_moment(home: Path) -> None:
    """Refused connections are asked again; an answer that does not come ends the editor's script."""
    port = free_port()
    env = {"PUSHKIN_ENGINE": "auto", "PUSHKIN_MODEL": "pushkin-mini"}
    with running([*SCRIPT, *flags(port)], home, **env) as shim:
        assert wait_for_server(f"http://localhost:{port}")
        await_line(shim)
        assert suggestions(f"http://localhost:{port}", "It was a bright cold day in")


def test_it_stays_beside_a_daemon_and_ends_with_it(adapted_home: Path) -> None:
    port = free_port()
    serve = [sys.executable, "-m", "daemon", "serve", "--json"]
    with running(serve, adapted_home, PUSHKIN_EDITOR_PORT=str(port)) as daemon:
        assert wait_for_server(f"http://127.0.0.1:{port}")
        with running([*SCRIPT, *flags(port)], adapted_home) as leaving:
            await_line(leaving)
            leaving.send_signal(signal.SIGTERM)
            assert leaving.wait(PATIENCE_S) == 0
        assert daemon.poll() is None
        with running([*SCRIPT, *flags(port)], adapted_home) as staying:
            await_line(staying)
            assert suggestions(f"http://127.0.0.1:{port}", "Once")
            daemon.send_signal(signal.SIGTERM)
            assert daemon.wait(PATIENCE_S) == 0
            assert staying.wait(PATIENCE_S) == 0


def test_a_daemon_without_the_editors_port_is_said_to_be_one(home: Path, start_daemon) -> None:
    start_daemon(home)
    result = subprocess.run(
        [*SCRIPT, *flags(free_port())],
        env=environment(home), capture_output=True, text=True, timeout=PATIENCE_S, check=False,
    )  # fmt: skip

    assert result.returncode == 3
    assert "editor_port" in result.stderr
    assert LISTENING not in result.stderr


def test_it_dies_with_the_editor_however_that_dies(home: Path) -> None:
    """The editor is killed; what it started must not stay behind."""
    port = free_port()
    program = (
        "import subprocess, sys, time\n"
        "p = subprocess.Popen(sys.argv[1:], stderr=sys.stderr)\n"
        "print(p.pid, flush=True, file=sys.stderr)\n"
        "time.sleep(60)\n"
    )
    command = [sys.executable, "-c", program, *SCRIPT, *flags(port)]
    with running(command, home) as editor:
        assert editor.stderr is not None
        pid = int(editor.stderr.readline())
        await_line(editor)
        editor.kill()
        editor.wait()
        until_gone(pid)

    assert is_refused(port)


def test_a_taken_port_names_its_owner(home: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        result = subprocess.run(
            [*SCRIPT, *flags(port)],
            env=environment(home), capture_output=True, text=True, timeout=PATIENCE_S, check=False,
        )  # fmt: skip

    assert result.returncode == 1
    assert f"Port {port} is taken by" in result.stderr
    assert str(os.getpid()) in result.stderr


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], 8080),
        (["--port", "9931"], 9931),
        (["--port=9931", "--unheard-of", "--flash-attn", "on"], 9931),
        (["--host", "127.0.0.1", "-c", "4096"], 8080),
        (["--host", "0.0.0.0"], InputError),
        (["--port", "0"], InputError),
        (["--port", "99999999999999"], InputError),
        (["--port", "-1"], InputError),
    ],
)
def test_any_command_line_of_upstream_is_taken(arguments, expected) -> None:
    if expected is InputError:
        with pytest.raises(InputError):
            editor_port(arguments)
    else:
        assert editor_port(arguments) == expected


def test_without_an_editor_port_nothing_is_added() -> None:
    app = object()

    assert with_editor_port(app, None) is app
