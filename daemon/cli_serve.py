"""`pushkin serve`: the daemon in the foreground."""

from __future__ import annotations

import click

from daemon.cli_options import json_option, port_option
from daemon.errors import DaemonError


@click.command()
@port_option
@click.option("--model", metavar="NAME", help="A model of `pushkin models list`, or a path.")
@click.option("--engine", metavar="NAME", help="auto, mlx, torch or scripted.")
@click.option("--no-auth", is_flag=True, help="Let requests without a token write (loopback only).")
@click.option("--launchd", is_flag=True, hidden=True, help="Started by launchd.")
@json_option
def serve(
    *,
    port: int | None,
    model: str | None,
    engine: str | None,
    no_auth: bool,
    launchd: bool,
    as_json: bool,
) -> None:
    """Run the daemon on 127.0.0.1 and ::1 until Ctrl-C or SIGTERM."""
    from daemon.announce import choose_announcer
    from daemon.config import load, locate
    from daemon.lifecycle import Serving, refuse_under_launchd
    from daemon.lifecycle import serve as run_daemon

    flags = {
        "server.port": port,
        "server.auth": False if no_auth else None,
        "runtime.model": model,
        "runtime.engine": engine,
    }
    try:
        loaded = load(flags)
        announcer = choose_announcer(loaded, as_json=as_json, under_launchd=launchd)
        run_daemon(Serving(loaded=loaded, announcer=announcer, under_launchd=launchd))
    except (DaemonError, OSError) as error:
        if not launchd:
            raise
        refuse_under_launchd(locate()[0], error)
