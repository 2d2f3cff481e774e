"""The service commands against a fake `launchctl` on PATH that replays exit codes, and a fake clock."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from daemon.errors import NotOnThisSystem, ServiceError
from daemon.launchd import LABEL, Job, agent_file
from daemon.paths import Paths
from daemon.plist_lint import lint
from daemon.service import Mac, install, restart, status, uninstall

# Answers the n-th call of a verb with the n-th line of codes.<verb>, the last one for ever.
FAKE_LAUNCHCTL = """#!/bin/sh
cd "{folder}"
key=$1
eval target=\\${{$#}}
case "$key $target" in "print gui/501") key=print-domain ;; esac
echo "$key $*" >> calls
n=0
while read -r line; do case "$line" in "$key "*) n=$((n + 1)) ;; esac; done < calls
code=0
if [ -f "codes.$key" ]; then
  while [ "$n" -gt 0 ] && read -r next; do code=$next; n=$((n - 1)); done < "codes.$key"
fi
if [ "$key $code" = "print 0" ]; then
  while IFS= read -r line; do echo "$line"; done < printed
fi
if [ "$code" != 0 ]; then echo "Failed: $code: said launchctl" >&2; fi
exit "$code"
"""
PRINTED = """gui/501/com.pushkin.daemon = {
\tstate = running
\tprogram = /Users/you/python
\tpid = 4242
\tspawn type = interactive (4)
\tsockets = {
\t\tstate = idle
\t}
\tlast exit code = 0
}"""
GONE = 113


class World:
    """A Mac made of a folder, a script and a clock that only moves when somebody sleeps."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.now = 0.0
        self.sleeps: list[float] = []
        self.user_home = folder / "you"
        home = self.user_home / "Library" / "Application Support" / "Pushkin"
        self.paths = Paths(home, self.user_home / "Library" / "Logs" / "Pushkin")
        self.plist = agent_file(self.user_home)
        program = folder / "bin" / "launchctl"
        program.parent.mkdir()
        program.write_text(FAKE_LAUNCHCTL.format(folder=folder))
        (folder / "printed").write_text(PRINTED + "\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", str(program.parent))
        self.mac = Mac(
            platform="darwin",
            uid=501,
            user_home=self.user_home,
            sleep=self.sleep,
            monotonic=lambda: self.now,
        )

    def sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        self.now += seconds

    def answer(self, codes: Mapping[str, list[int]]) -> None:
        for verb, replayed in codes.items():
            lines = "".join(f"{code}\n" for code in replayed)
            (self.folder / f"codes.{verb}").write_text(lines)

    def verbs(self) -> list[str]:
        lines = (self.folder / "calls").read_text().splitlines()
        return [line.split()[0] for line in lines]

    def job(self, interpreter: Path | None = None) -> Job:
        library = Path("/Users/you/Library")  # the lint refuses logs below /tmp
        return Job(
            interpreter=interpreter or Path("/Users/you/Pushkin/.venv/bin/python"),
            port=1799,
            home=library / "Application Support" / "Pushkin",
            logs=library / "Logs" / "Pushkin",
        )

    def install(self, *, healthy: bool = True) -> None:
        install(self.job(), self.paths, self.mac, lambda: healthy)


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    return World(tmp_path, monkeypatch)


def test_the_first_install_writes_a_sound_plist_and_bootstraps_it(world: World) -> None:
    world.answer({"bootout": [3], "print": [GONE]})

    world.install()

    assert world.verbs() == ["print-domain", "enable", "bootout", "print", "bootstrap"]
    assert lint(world.plist.read_bytes(), world.plist.name) == []
    assert world.plist.stat().st_mode & 0o777 == 0o644
    assert world.paths.logs.stat().st_mode & 0o777 == 0o700
    assert world.sleeps == []


def test_an_upgrade_waits_until_the_old_job_is_really_gone(world: World) -> None:
    world.answer({"bootout": [0], "print": [0, 0, 0, GONE]})

    world.install()

    assert world.verbs()[2:] == ["bootout", "print", "print", "print", "print", "bootstrap"]
    assert len(world.sleeps) == 3


def test_a_job_that_never_goes_is_reported_after_its_time(world: World) -> None:
    world.answer({"bootout": [0], "print": [0]})

    with pytest.raises(ServiceError, match="20 s after bootout"):
        world.install()

    assert 20 <= world.now < 21
    assert "bootstrap" not in world.verbs()


def test_bootstrap_is_tried_again_while_launchd_says_input_output_error(world: World) -> None:
    world.answer({"bootout": [113], "print": [GONE], "bootstrap": [5, 5, 0]})

    world.install()

    assert world.sleeps == [1, 2]


def test_bootstrap_gives_up_after_five_tries_with_what_launchd_said(world: World) -> None:
    world.answer({"bootout": [113], "print": [GONE], "bootstrap": [5]})

    with pytest.raises(ServiceError, match="bootstrap failed with 5: Failed: 5: said launchctl"):
        world.install()

    assert world.sleeps == [1, 2, 4, 8]
    assert world.verbs().count("bootstrap") == 5


@pytest.mark.parametrize("code", [37, 119])
def test_a_disabled_job_is_enabled_and_tried_again(world: World, code: int) -> None:
    world.answer({"bootout": [113], "print": [GONE], "bootstrap": [code, 0]})

    world.install()

    assert world.verbs()[-3:] == ["bootstrap", "enable", "bootstrap"]


def test_another_failure_of_bootstrap_is_not_repeated(world: World) -> None:
    world.answer({"bootout": [113], "print": [GONE], "bootstrap": [125]})

    with pytest.raises(ServiceError, match="125"):
        world.install()

    assert world.verbs().count("bootstrap") == 1


def test_a_daemon_that_does_not_answer_is_reported(world: World) -> None:
    world.answer({"bootout": [113], "print": [GONE]})

    with pytest.raises(ServiceError, match="did not get ready in 20 s"):
        world.install(healthy=False)

    assert 20 <= world.now < 21


def test_without_a_login_session_nothing_is_written(world: World) -> None:
    world.answer({"print-domain": [125]})

    with pytest.raises(ServiceError, match="Log in once at the screen"):
        world.install()

    assert not world.plist.exists()


def test_a_venv_where_macos_keeps_background_programs_out_is_refused(world: World) -> None:
    job = world.job(world.user_home / "Documents" / "lil" / ".venv" / "bin" / "python")

    with pytest.raises(ServiceError, match="Move the folder"):
        install(job, world.paths, world.mac, lambda: True)

    assert not world.plist.exists()


def test_uninstall_removes_the_plist_and_keeps_the_state(world: World) -> None:
    world.answer({"bootout": [113, 0], "print": [GONE, GONE, 0, GONE]})
    world.install()

    assert uninstall(world.mac)

    assert not world.plist.exists()
    assert world.paths.home.is_dir()
    assert "disable" not in world.verbs()  # it would leave a residue in launchd's own database


def test_uninstalling_nothing_is_not_an_error(world: World) -> None:
    world.answer({"bootout": [3], "print": [GONE]})

    assert not uninstall(world.mac)


def test_restart_kicks_the_loaded_job(world: World) -> None:
    restart(world.mac, lambda: True)

    calls = (world.folder / "calls").read_text()
    assert f"kickstart -k gui/501/{LABEL}" in calls


def test_restart_of_nothing_says_how_to_install(world: World) -> None:
    world.answer({"print": [GONE]})

    with pytest.raises(ServiceError, match="pushkin service install"):
        restart(world.mac, lambda: True)


def test_status_reads_only_the_fields_it_understands(world: World) -> None:
    found = status(world.mac)

    assert found.loaded
    assert not found.installed
    assert found.launchd == {
        "state": "running",
        "pid": "4242",
        "spawn type": "interactive (4)",
        "last exit code": "0",
    }


def test_elsewhere_the_commands_say_they_are_for_macos(world: World) -> None:
    linux = Mac(platform="linux")

    for command in (status, uninstall):
        with pytest.raises(NotOnThisSystem, match="for macOS"):
            command(linux)
    assert not (world.folder / "calls").exists()
