"""S20: uninstalling with `--purge` leaves nothing of the user's, and nothing that is not ours is touched."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

Pushkin = Callable[..., subprocess.CompletedProcess[bytes]]
CANARY = "canary-writing-71"


def test_s20_nothing_of_the_user_is_left(start_daemon, pushkin: Pushkin, home: Path) -> None:
    daemon = start_daemon(home)
    with daemon.client() as client:
        assert client.put("/v1/consent", json={"global": "on"}).status_code == 200
        text = f"{CANARY} walked along the river. " * 20
        assert client.put("/v1/documents/d", json={"text": text}).status_code == 202
    assert pushkin("token", "--scope", "editor").returncode == 0
    assert pushkin("service", "uninstall", "--purge", "--yes").returncode == 1  # it is running
    assert daemon.stop() == 0
    (home / "config.toml").write_text("[server]\nport = 1799\n")
    (home / "novel.txt").write_text("somebody put this here")

    result = pushkin("service", "uninstall", "--purge", "--yes")

    assert result.returncode == 0, result.stderr
    assert {path.name for path in home.iterdir()} - {"models", "adapters"} == {
        "config.toml",
        "novel.txt",
    }
    assert b"token.editor" in result.stdout


def test_it_asks_first(pushkin: Pushkin, home: Path) -> None:
    assert pushkin("token").returncode == 0

    assert pushkin("service", "uninstall", "--purge", stdin=b"n\n").returncode == 130
    assert (home / "token").exists()


@pytest.mark.parametrize("name", ["logs", "clients"])
def test_a_link_goes_and_what_it_leads_to_stays(
    pushkin: Pushkin, home: Path, tmp_path: Path, name: str
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "novel.txt").write_text("mine")
    assert pushkin("token").returncode == 0
    if (home / name).exists():
        (home / name).rmdir()
    (home / name).symlink_to(elsewhere)

    assert pushkin("service", "uninstall", "--purge", "--yes").returncode == 0
    assert (elsewhere / "novel.txt").exists()
    assert not (home / name).is_symlink()


def test_where_there_is_nothing_nothing_is_made(pushkin: Pushkin, home: Path) -> None:
    assert pushkin("service", "uninstall", "--purge", "--yes").returncode == 0
    assert not home.exists()
