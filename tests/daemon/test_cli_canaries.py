"""The command line leaves nothing of what it is given behind: not in the log, not in temporary files.

What a command prints belongs to the person who typed it; what it leaves on the disk is searched.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import click
import pytest

from daemon.cli import app
from tests.daemon.canary_requests import MARK
from tests.daemon.conftest import Daemon, environment

TEXT = f"{MARK} opened the door to a stranger, and {MARK} вышел на крыльцо."

# What each command is called with; {file} and {out} are paths whose names are canaries too.
CALLS: dict[str, list[list[str]]] = {
    "continue": [[TEXT], ["--file", "{file}"], [TEXT, "--adapter", MARK], ["--file", f"/{MARK}"],
                 [TEXT, "--stop", MARK, "--language", MARK, "--n", "2", "--json"]],
    "rephrase": [[TEXT, "--instruction", TEXT, "--before", TEXT, "--after", TEXT]],
    "story": [[TEXT, "--max-tokens", "4"]],
    "dictate": [["--file", "{file}", "--language", MARK], ["--device", MARK]],
    "status": [[], ["--json"]],
    "pair list": [[]],
    "pair revoke": [[MARK]],
    "models list": [[]],
    "models import": [["{file}"]],
    "models quantize": [["{file}", "{out}"]],
    "adapters list": [[], ["--base", MARK]],
    "adapters show": [[MARK]],
    "adapters verify": [[MARK]],
    "adapters import": [["{file}", "--name", MARK]],
    "adapters export": [[MARK, "--out", "{out}"]],
    "adapters merge": [[MARK, "--out", "{out}"]],
    "index consent": [["on"], ["--include", MARK], ["--exclude", f"{MARK}2"]],
    "index add": [["{file}"], ["{file}", "--id", MARK]],
    "index list": [[]],
    "index remove": [[f"{MARK}3"], ["{file}"]],
    "index rebuild": [[]],
    "index watch": [[MARK]],
    "index export": [["--output", "{out}.jsonl"]],
    "persona show": [[], ["--json"]],
    "stats on": [[], ["--texts", "--yes"]],
    "stats show": [[]],
    "stats export": [["{out}.counts"], ["--pairs", "{out}.pairs"]],
    "stats off": [["--texts"]],
    "stats forget": [["--yes"]],
    "logs": [["--request", MARK], ["--since", MARK]],
    "diagnose": [["--yes", "--output", "{out}.zip"]],
    "config show": [[]],
    "index forget": [["--yes"]],
}  # fmt: skip
TAKES_NO_TEXT = {
    "completion": "prints a script",
    "serve": "the daemon itself: test_canaries.py",
    "token": "prints the token",
    "pair": "waits for a code to be used",
    "service install": "macOS, no text",
    "service uninstall": "macOS, no text",
    "service restart": "macOS, no text",
    "service status": "macOS, no text",
    "version": "prints versions",
    "export executorch": "a model, no text",
    "models pull": "the name of a known model",
    **dict.fromkeys(
        (f"dictation {verb}" for verb in ("on", "off", "toggle", "cancel", "devices")),
        "a switch, and a list",
    ),
}


def commands(command: click.Command, names: tuple[str, ...] = ()) -> Iterator[str]:
    """Every command that does something, as it is typed."""
    if not isinstance(command, click.Group) or command.invoke_without_command:
        yield " ".join(names)
    if isinstance(command, click.Group):
        for name, inner in command.commands.items():
            yield from commands(inner, (*names, name))


def test_every_command_is_called_here_or_takes_no_text():
    known = set(CALLS) | set(TAKES_NO_TEXT)

    assert sorted(set(commands(app)) - known) == []
    assert sorted(known - set(commands(app))) == []


@pytest.fixture(scope="module", params=["with a daemon", "without a daemon"])
def left_behind(request, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Every file that is there after all commands, but those that hold what the user asked to be kept."""
    folder = tmp_path_factory.mktemp("commands")
    home, temporary, own = (folder / name for name in ("home", "tmp", "own"))
    temporary.mkdir()
    own.mkdir()
    file = own / f"{MARK}.txt"
    file.write_text((TEXT + "\n\n") * 3)
    env = environment(home, PUSHKIN_LOG_LEVEL="debug", TMPDIR=str(temporary))
    serve = [sys.executable, "-m", "daemon", "serve", "--json"]
    daemon = Daemon(serve, home, env) if request.param == "with a daemon" else None
    try:
        if daemon is not None:
            daemon.wait_for("ready")
        for name, calls in CALLS.items():
            for call in calls:
                filled = [part.format(file=file, out=own / f"{MARK}-out") for part in call]
                _run(name, filled, env)
        if daemon is not None:
            assert daemon.stop() == 0
    finally:
        if daemon is not None:
            daemon.close()
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for place in (home, temporary)
        for path in place.rglob("*")
        if path.is_file()
    }


def test_no_canary_is_left_behind(left_behind):
    leaks = [name for name, content in left_behind.items() if MARK.encode() in content]
    named = [name for name in left_behind if MARK in name]

    assert leaks == []
    assert named == []


def _run(name: str, arguments: list[str], env: dict[str, str]) -> None:
    command = [sys.executable, "-m", "daemon", *name.split(), *arguments]
    done = subprocess.run(
        command, env=env, stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=False
    )
    assert b"Traceback" not in done.stderr, (name, done.stderr.decode())
