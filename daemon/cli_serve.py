"""`pushkin serve`: the daemon in the foreground."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Unpack

import click

from daemon.cli_options import json_option, port_option
from daemon.errors import DaemonError

if TYPE_CHECKING:
    from typing import TypedDict

    class Given(TypedDict):
        """The options below; None means not given."""

        port: int | None
        model: str | None
        engine: str | None
        no_auth: bool
        editor_compat: bool
        trace_file: Path | None
        launchd: bool
        as_json: bool


EDITOR_PORT = 8080  # compiled into the shipped editor


@click.command()
@port_option
@click.option("--model", metavar="NAME", help="A model of `pushkin models list`, or a path.")
@click.option("--engine", metavar="NAME", help="auto, mlx, onnx, torch, executorch or scripted.")
@click.option("--no-auth", is_flag=True, help="Let requests without a token write (loopback only).")
@click.option(
    "--editor-compat",
    is_flag=True,
    help=f"Also answer the shipped editor on port {EDITOR_PORT}, without a token (loopback only).",
)
@click.option(
    "--trace",
    "trace_file",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write at the end (and at SIGUSR2) what ran when, for chrome://tracing; without any text.",
)
@click.option("--launchd", is_flag=True, hidden=True, help="Started by launchd.")
@json_option
def serve(**given: Unpack[Given]) -> None:
    """Run the daemon on 127.0.0.1 and ::1 until Ctrl-C or SIGTERM."""
    from daemon.announce import choose_announcer
    from daemon.config import load, locate
    from daemon.lifecycle import Serving, refuse_under_launchd
    from daemon.lifecycle import serve as run_daemon

    flags = {
        "server.port": given["port"],
        "server.auth": False if given["no_auth"] else None,
        "server.editor_port": EDITOR_PORT if given["editor_compat"] else None,
        "runtime.model": given["model"],
        "runtime.engine": given["engine"],
    }
    under_launchd = given["launchd"]
    try:
        loaded = load(flags)
        announcer = choose_announcer(loaded, as_json=given["as_json"], under_launchd=under_launchd)
        run_daemon(
            Serving(
                loaded=loaded,
                announcer=announcer,
                under_launchd=under_launchd,
                trace_file=given["trace_file"],
            )
        )
    except (DaemonError, OSError) as error:
        if not under_launchd:
            raise
        refuse_under_launchd(locate()[0], error)
