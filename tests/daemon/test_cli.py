"""The command line without a daemon: help, refusals, exit codes, and writing in this process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from daemon import __version__
from daemon.cli import run

REPOSITORY = Path(__file__).resolve().parents[2]
SCRIPTED = " The scripted engine writes this sentence again and again, без модели."
Pushkin = Callable[..., subprocess.CompletedProcess[bytes]]
Output = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _own_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("PUSHKIN_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PUSHKIN_HOME", str(home))


def test_help_imports_nothing_heavy() -> None:
    heavy = [
        "fastapi",
        "httpx",
        "mlx",
        "numpy",
        "pydantic",
        "rich",
        "tokenizers",
        "torch",
        "uvicorn",
    ]
    program = (
        "import sys; from daemon.cli import run; code = run(['--help']);"
        f"print(code, [name for name in {heavy} if name in sys.modules])"
    )

    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=REPOSITORY, check=True
    )

    assert result.stdout.splitlines()[-1] == "0 []"


def test_every_command_has_help(capsys: Output) -> None:
    commands = ["serve", "status", "continue", "rephrase", "story", "token", "config show"]
    commands += ["models list", "version", "completion", "logs", "stats show", "diagnose"]
    commands += [f"service {verb}" for verb in ("install", "uninstall", "status", "restart")]

    for command in commands:
        assert run([*command.split(), "--help"]) == 0
        assert f"Usage: pushkin {command}" in capsys.readouterr().out


def test_the_version_is_the_one_of_the_package(capsys: Output) -> None:
    import tomllib

    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    if "version" not in project.get("dynamic", []):
        assert project["version"] == __version__
    assert run(["version", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["pushkin"] == __version__


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["contine", "x"], 2, "No such command"),
        (["continue", "x", "--max-tokens", "0"], 2, "--max-tokens"),
        (["continue", "x", "--n", "6"], 2, "--n"),
        (["continue", "x", "--temperature", "-1"], 2, "--temperature"),
        (["continue", "x", "--temperature", "nan"], 2, "--temperature"),
        (["continue", ""], 2, "text is empty"),
        (["continue", "x", "--file", "y"], 2, "give one of them"),
        (["continue", "--file", "/no/such/file"], 2, "cannot be read"),
        (["continue", "a\udcff"], 2, "not valid UTF-8"),
        (["continue", "x", "--stop", "\udcff"], 2, "not valid UTF-8"),
        (["status"], 3, "pushkin serve"),
        (["serve", "--engine", "cuda"], 2, "expected one of auto, mlx, onnx, torch, scripted"),
    ],
)
def test_a_wrong_call_ends_with_its_code_and_a_hint(
    arguments: list[str], code: int, said: str, capsys: Output
) -> None:
    assert run(arguments) == code

    captured = capsys.readouterr()
    assert said in captured.err
    assert captured.out == ""
    assert "Traceback" not in captured.err


@pytest.mark.skipif(sys.platform == "darwin", reason="launchd is there")
@pytest.mark.parametrize("verb", ["install", "uninstall", "status", "restart"])
def test_service_commands_say_they_need_macos(verb: str, capsys: Output) -> None:
    assert run(["service", verb]) == 69
    assert "for macOS" in capsys.readouterr().err


def test_status_tells_scripts_that_nothing_runs(capsys: Output) -> None:
    assert run(["status", "--json"]) == 3
    assert json.loads(capsys.readouterr().out)["running"] is False


def test_the_token_is_printed_the_same_until_rotated(home: Path, capsys: Output) -> None:
    printed = []
    for arguments in (["token"], ["token"], ["token", "--rotate"]):
        assert run(arguments) == 0
        printed.append(capsys.readouterr().out.strip())

    assert printed[0] == printed[1] != printed[2]
    assert (home / "token").read_text().strip() == printed[2]


def test_config_show_says_where_each_value_comes_from(
    home: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PUSHKIN_THREADS", "2")

    assert run(["config", "show", "--json", "--port", "1800"]) == 0

    shown = json.loads(capsys.readouterr().out)
    assert shown["server.port"] == {"value": 1800, "origin": "--port"}
    assert shown["runtime.threads"] == {"value": 2, "origin": "PUSHKIN_THREADS"}
    assert shown["home"] == {"value": str(home), "origin": "PUSHKIN_HOME"}


def test_models_on_disk_are_listed_and_the_configured_one_is_marked(
    home: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, content in (("mine", "{}"), ("not-a-model", "")):
        (home / "models" / name).mkdir(parents=True)
        (home / "models" / name / ("config.json" if content else "readme")).write_text(content)
    monkeypatch.setenv("PUSHKIN_MODEL", "mine")

    assert run(["models", "list", "--json"]) == 0

    listed = {model["name"]: model for model in json.loads(capsys.readouterr().out)}
    assert listed["mine"]["configured"]
    assert listed["mine"]["n_bytes"] == 2
    assert "not-a-model" not in listed


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_completion_scripts_call_the_program_back(shell: str, capsys: Output) -> None:
    assert run(["completion", shell]) == 0
    assert f"_PUSHKIN_COMPLETE={shell}_complete" in capsys.readouterr().out


def test_text_goes_through_this_process_verbatim_when_no_daemon_runs(pushkin: Pushkin) -> None:
    n_tokens = len(SCRIPTED.encode())

    result = pushkin("continue", "--max-tokens", str(n_tokens), stdin=b"  Once,\r\n\n ")

    assert result.returncode == 0
    assert result.stdout == SCRIPTED.encode()
    assert b"pushkin serve" in result.stderr


def test_the_answer_as_json_is_the_one_of_the_api(pushkin: Pushkin) -> None:
    result = pushkin("rephrase", "--json", "--max-tokens", "4", "--instruction", "shorter", "text")

    answer = json.loads(result.stdout)
    assert answer["choices"][0]["finish_reason"] == "length"
    assert set(answer["usage"]) == {"prompt_tokens", "cached_tokens", "completion_tokens"}


def test_alternatives_are_printed_apart(pushkin: Pushkin) -> None:
    result = pushkin("continue", "x", "--n", "3", "--max-tokens", "4", "--json")

    choices = json.loads(result.stdout)["choices"]
    assert 1 <= len(choices) <= 3  # near-duplicates are dropped


def test_a_refusal_of_the_api_is_a_usage_error_here_too(pushkin: Pushkin) -> None:
    result = pushkin("continue", "x", "--stop", "")

    assert result.returncode == 2
    assert b"`stop[0]` needs at least 1 character" in result.stderr


def test_text_that_is_not_utf8_is_refused_with_a_way_out(pushkin: Pushkin) -> None:
    result = pushkin("continue", stdin="Привет".encode("cp1251"))

    assert result.returncode == 2
    assert b"iconv" in result.stderr
