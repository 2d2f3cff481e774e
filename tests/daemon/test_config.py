"""Configuration: precedence, provenance, and errors that name the nearest key."""

from __future__ import annotations

from pathlib import Path

import pytest

from daemon.config import leaves, load
from daemon.errors import ConfigError


def write_config(home: Path, text: str) -> dict[str, str]:
    home.mkdir()
    (home / "config.toml").write_text(text, encoding="utf-8")
    return {"PUSHKIN_HOME": str(home)}


def test_a_flag_beats_the_environment_beats_the_file_beats_the_default(home: Path) -> None:
    env = write_config(home, "[server]\nport = 1111\n[runtime]\nqueue_limit = 7\nthreads = 2\n")
    env |= {"PUSHKIN_PORT": "2222", "PUSHKIN_THREADS": "3"}

    loaded = load({"server.port": 3333, "runtime.model": None}, env=env)

    assert loaded.config.server.port == 3333
    assert loaded.config.runtime.threads == 3
    assert loaded.config.runtime.queue_limit == 7
    assert loaded.origins["server.port"] == "--port"
    assert loaded.origins["runtime.threads"] == "PUSHKIN_THREADS"
    assert loaded.origins["runtime.queue_limit"] == str(home / "config.toml")
    assert loaded.origins["runtime.model"] == "default"
    assert set(loaded.origins) == set(leaves(loaded.config))


@pytest.mark.parametrize(
    ("file", "env", "said"),
    [
        ("[server]\nprot = 1\n", {}, "did you mean server.port?"),
        ("[sever]\nport = 1\n", {}, "did you mean [server]?"),
        ("port = 1\n", {}, "unknown name [port]"),
        ("", {"PUSHKIN_PROT": "1"}, "did you mean PUSHKIN_PORT?"),
        ("[server]\nport = true\n", {}, "expected int, got True"),
        ("[server]\nport = '1799'\n", {}, "expected int, got '1799'"),
        ("", {"PUSHKIN_PORT": "many"}, "expected a whole number, got 'many'"),
        ("", {"PUSHKIN_PORT": "65536"}, "expected 0 to 65535, got 65536"),
        ("", {"PUSHKIN_AUTH": "perhaps"}, "expected true or false"),
        ("", {"PUSHKIN_ENGINE": "cuda"}, "expected one of auto, mlx, onnx, torch, scripted"),
        ("", {"PUSHKIN_MODEL": "../secrets"}, "expected a name in the models folder"),
        ("", {"PUSHKIN_MODEL": ".."}, "expected a name in the models folder"),
        ("[server\n", {}, "cannot be read"),
    ],
)
def test_a_wrong_setting_is_named(home: Path, file: str, env: dict[str, str], said: str) -> None:
    env = write_config(home, file) | env

    with pytest.raises(ConfigError) as caught:
        load(env=env)

    assert said in str(caught.value)


def test_all_problems_are_reported_together(home: Path) -> None:
    env = write_config(home, "[server]\nprot = 1\n[log]\nlog_level = 'loud'\n")

    with pytest.raises(ConfigError) as caught:
        load(env=env | {"PUSHKIN_THREADS": "0"})

    assert len(caught.value.problems) == 3


@pytest.mark.parametrize(
    ("platform", "env", "home", "logs"),
    [
        ("darwin", {}, "Library/Application Support/Pushkin", "Library/Logs/Pushkin"),
        ("linux", {}, ".local/share/pushkin", ".local/share/pushkin/logs"),
    ],
)
def test_state_lives_where_the_platform_keeps_it(
    platform: str, env: dict[str, str], home: str, logs: str
) -> None:
    loaded = load(env=env, platform=platform)

    assert loaded.paths.home == Path.home() / home
    assert loaded.paths.logs == Path.home() / logs
    assert loaded.home_origin == "default"


@pytest.mark.parametrize("platform", ["darwin", "linux"])
def test_pushkin_home_moves_every_path_into_one_folder(home: Path, platform: str) -> None:
    paths = load(env={"PUSHKIN_HOME": str(home)}, platform=platform).paths

    written = (paths.config_file, paths.token_file, paths.models, paths.log_file, paths.lock_file)
    assert all(path.is_relative_to(home) for path in written)
