"""`pushkin diagnose`: what is checked, what is packed, and that a person sees it first."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest

from daemon.config import load
from daemon.diagnosis import gather, redactor
from daemon.doctor import run_checks

SECRET = "My Secret Novel"


@pytest.fixture
def loaded(home: Path):
    home.mkdir(mode=0o700)
    (home / "config.toml").write_text(
        f'[index]\nfolders = ["{home}/{SECRET}", "/elsewhere/{SECRET} 2"]\n'
        f'[adapters]\ncontinue_adapters = "ada-lovelace:0.5"\n[runtime]\nmodel = "{home}/my-model"\n'
    )
    return load(env={"PUSHKIN_HOME": str(home)})


def by_name(loaded) -> dict[str, tuple[bool | None, str, str]]:
    return {check.name: (check.ok, check.found, check.remedy) for check in run_checks(loaded)}


def test_checks_say_what_is_wrong_and_what_to_do(loaded, home):
    (home / "token").write_text("x")
    (home / "token").chmod(0o644)
    (home / "logs").mkdir()
    (home / "logs").chmod(0o755)
    (home / "logs" / "faults.log").write_text("Fatal Python error")

    found = by_name(loaded)

    assert found["token"] == (False, "mode 0644", f"chmod 600 {home / 'token'}")
    assert found["logs"][0] is False
    assert found["home"] == (True, "mode 0700", "")
    assert found["model"][0] is False
    assert found["crashes"] == (False, "18 bytes in faults.log", found["crashes"][2])
    assert found["daemon"][0] is None
    assert found["statistics"] == (None, "not there yet", "")


def test_a_symbolic_link_is_not_private(loaded, home, tmp_path):
    (tmp_path / "elsewhere").write_text("x")
    (home / "token").symlink_to(tmp_path / "elsewhere")

    assert by_name(loaded)["token"][0] is False


def test_settings_keep_their_shape_and_lose_their_names(loaded, home):
    parts = {part.name: part.content for part in gather(loaded)}

    settings = json.loads(parts["settings.json"])
    assert settings["index.folders"] == {"value": "<2 own>", "from": "config.toml"}
    assert settings["adapters.continue_adapters"]["value"] == "<own>"
    assert settings["adapters.story_adapters"] == {"value": "auto", "from": "default"}
    assert settings["runtime.model"]["value"] == "<own>"
    assert settings["server.port"]["value"] == 1799
    for content in parts.values():
        for name in (str(home), SECRET, "ada-lovelace", "my-model"):
            assert name not in content


def test_folders_logins_and_own_models_are_replaced_wherever_they_stand(loaded, home, monkeypatch):
    monkeypatch.setattr("getpass.getuser", lambda: "ada")
    monkeypatch.setattr("pathlib.Path.home", lambda: Path("/Users/ada"))

    redact = redactor(loaded)

    assert redact(f"{home}/token {home}/logs/x") == "<home>/token <logs>/x"
    assert (
        redact("/Users/ada/x, ada, ada's, adage, my-model")
        == "~/x, <user>, <user>'s, adage, <model>"
    )


def test_nothing_is_written_before_a_person_has_said_yes(pushkin, tmp_path):
    file = tmp_path / "bundle.zip"
    refused = pushkin("diagnose", "--output", str(file), stdin=b"n\n")
    assert refused.returncode == 130
    assert b"settings.json" in refused.stdout
    assert not file.exists()

    assert pushkin("diagnose", "--output", str(file), stdin=b"y\n").returncode == 0
    with zipfile.ZipFile(file) as bundle:
        names = bundle.namelist()
        shown = pushkin("diagnose", "--show").stdout.decode()
        assert all(f"== {name}" in shown for name in names)
        assert bundle.read("daemon.txt") == b"No daemon is running.\n"
    assert {"versions.json", "settings.json", "checks.json", "log.jsonl", "faults.txt"} <= set(
        names
    )


def test_checking_alone_tells_by_its_exit_code(pushkin, home):
    assert pushkin("diagnose", "--check").returncode == 0
    pushkin("token")
    (home / "token").chmod(0o666)
    result = pushkin("diagnose", "--check")

    assert result.returncode == 1
    assert b"chmod 600" in result.stdout
    assert json.loads(pushkin("diagnose", "--json").stdout)
