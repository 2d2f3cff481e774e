"""What `pushkin serve` tells the one who started it: a person, a script, or launchd."""

from __future__ import annotations

import json
import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from daemon.terminal import Spinner, print_json_line

if TYPE_CHECKING:
    from daemon.config import Loaded
    from daemon.instance import Endpoint
    from daemon.lifecycle import Announcer
    from daemon.sockets import Listeners

_SAMPLE = {"text": "It was a bright cold day in April, and", "max_tokens": 40}


def choose_announcer(loaded: Loaded, *, as_json: bool, under_launchd: bool) -> Announcer:
    """Return the announcer that fits how the daemon was started."""
    if under_launchd:
        return SilentAnnouncer()
    return JsonAnnouncer() if as_json else TerminalAnnouncer(loaded)


class SilentAnnouncer:
    """Under launchd, output goes to a file: nothing to say, and above all no token."""

    def listening(self, listeners: Listeners) -> None: ...

    def ready(self, endpoint: Endpoint, token: str | None, token_file: Path) -> None: ...

    def stopping(self) -> None: ...


class JsonAnnouncer:
    """One JSON object a line on stdout; where the token is, not the token."""

    def listening(self, listeners: Listeners) -> None:
        print_json_line({"event": "listening", "addresses": listeners.addresses})

    def ready(self, endpoint: Endpoint, token: str | None, token_file: Path) -> None:
        where = None if token is None else str(token_file)
        print_json_line({"event": "ready", **asdict(endpoint), "token_file": where})

    def stopping(self) -> None:
        print_json_line({"event": "stopping"})


class TerminalAnnouncer:
    """Colours and a spinner on stderr; the finished `curl` holds the token only on a terminal."""

    def __init__(self, loaded: Loaded) -> None:
        self._loaded = loaded
        self._spinner: Spinner | None = None

    def listening(self, listeners: Listeners) -> None:
        addresses = " and ".join(f"http://{address}" for address in listeners.addresses)
        click.secho(f"pushkin listens on {addresses}", err=True, bold=True)
        if listeners.unix_path is not None:
            click.secho(f"and on {listeners.unix_path}", err=True, bold=True)
        if listeners.editor is not None:
            editor = " and ".join(f"http://{address}" for address in listeners.editor.addresses)
            click.secho(f"and for the editor, without a token, on {editor}", err=True, bold=True)
        for note in listeners.notes:
            click.secho(note, fg="yellow", err=True)
        if not self._loaded.config.server.auth:
            click.secho(
                "Writing asks for no token: any program here may use it.", fg="yellow", err=True
            )
        self._spinner = Spinner("loading the model")

    def ready(self, endpoint: Endpoint, token: str | None, token_file: Path) -> None:
        self._end_spinner()
        click.echo("The model is ready. Try it:\n", err=True)
        click.secho(sample_curl(endpoint.port, token, token_file), fg="green", err=True)
        click.echo("\nCtrl-C stops it.", err=True)

    def stopping(self) -> None:
        self._end_spinner()
        click.echo("stopping", err=True)

    def _end_spinner(self) -> None:
        if self._spinner:
            self._spinner.stop()


def sample_curl(port: int, token: str | None, token_file: Path) -> str:
    """A command that can be pasted. Where output is kept, the token is read from its file instead."""
    lines = [f"curl -s http://127.0.0.1:{port}/v1/continue"]
    if token is not None and sys.stderr.isatty():
        lines.append(f"-H 'Authorization: Bearer {token}'")
    elif token is not None:
        lines.append(f'-H "Authorization: Bearer $(cat {shlex.quote(str(token_file))})"')
    lines += ["-H 'Content-Type: application/json'", f"-d '{json.dumps(_SAMPLE)}'"]
    return " \\\n  ".join(lines)
