"""`pushkin status`: what the running daemon does, once or again and again."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from daemon.cli_options import json_option, load_config, port_option
from daemon.errors import DaemonError, NotRunning
from daemon.terminal import flat, print_error, print_facts, print_json, print_json_line

if TYPE_CHECKING:
    from rich.console import RenderableType

    from daemon.config import Loaded

    Seen = tuple[dict[str, Any], dict[str, Any], dict[str, Any]]

_WATCH_S = 2.0


@click.command()
@click.option(
    "--watch",
    "every_s",
    is_flag=False,
    flag_value=_WATCH_S,
    type=click.FloatRange(0.1, 3600),
    metavar="[SECONDS]",
    help=f"Look again and again, every {_WATCH_S:g} s by default, until Ctrl-C.",
)
@json_option
@port_option
def status(port: int | None, every_s: float | None, as_json: bool) -> int:
    """Say what the running daemon is doing. Exit code 3: none is running."""
    loaded = load_config(port)
    if every_s is not None:
        _watch(loaded, every_s, as_json=as_json)
    try:
        process, health, answer = _look(loaded)
    except NotRunning as error:
        if as_json:
            print_json({"running": False, "reason": str(error)})
        else:
            print_error(str(error))
        return error.exit_code
    if as_json:
        print_json({"running": True, **process, "health": health, **answer})
    elif sys.stdout.isatty():
        from rich.console import Console

        from daemon.status_view import status_table

        Console().print(status_table(process, health, answer))
    else:
        print_facts({"running": True, **process, **flat({"health": health, **answer})})
    return 0


def _look(loaded: Loaded) -> Seen:
    """The process, its health with the proof of it, and its status. Raises DaemonError."""
    from daemon.client import DaemonClient, require_daemon

    endpoint = require_daemon(loaded)
    with DaemonClient(loaded, endpoint) as client:
        process = {"pid": endpoint.pid, "port": endpoint.port}
        return process, client.health(), client.get("/v1/status")


def _watch(loaded: Loaded, every_s: float, *, as_json: bool) -> None:
    """Until Ctrl-C; a daemon that is stopped and comes back is seen again."""
    if as_json or not sys.stdout.isatty():
        for seen in _looks(loaded, every_s):
            print_json_line(_line(seen))
        return
    from rich.live import Live

    with Live(auto_refresh=False, screen=False) as live:
        for seen in _looks(loaded, every_s):
            live.update(_picture(seen), refresh=True)


def _looks(loaded: Loaded, every_s: float) -> Iterator[Seen | DaemonError]:
    while True:
        try:
            yield _look(loaded)
        except DaemonError as error:
            yield error
        time.sleep(every_s)


def _line(seen: Seen | DaemonError) -> dict[str, Any]:
    if isinstance(seen, DaemonError):
        return {"running": False, "reason": str(seen)}
    process, health, answer = seen
    return {"running": True, **process, "health": health, **answer}


def _picture(seen: Seen | DaemonError) -> RenderableType:
    from rich.text import Text

    from daemon.status_view import status_table

    return Text(str(seen), style="red") if isinstance(seen, DaemonError) else status_table(*seen)
