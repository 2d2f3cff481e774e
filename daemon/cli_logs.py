"""`pushkin logs`: what the daemon did, without any of your text."""

from __future__ import annotations

from collections import deque
from datetime import UTC, datetime

import click

from daemon.cli_options import json_option, load_config
from daemon.log_reader import LEVELS
from daemon.terminal import print_json_line, print_note


@click.command()
@click.option("-f", "--follow", "is_following", is_flag=True, help="Go on until Ctrl-C.")
@click.option("-n", "n_lines", type=click.IntRange(0), default=50, show_default=True)
@click.option("--level", type=click.Choice(LEVELS), default="debug", help="The lowest shown.")
@click.option("--since", metavar="TIME", help="10m, 2h, 3d, or a date and time.")
@click.option("--request", metavar="ID", help="Only of this request, by its `id`.")
@json_option
def logs(
    *,
    is_following: bool,
    n_lines: int,
    level: str,
    since: str | None,
    request: str | None,
    as_json: bool,
) -> None:
    """Print the newest events of the daemon's log, which has ids, counts and times only."""
    from daemon.log_ids import LogIds, ensure_log_key
    from daemon.log_reader import Wanted, entries, follow, parse_since, pretty

    paths = load_config().paths
    request_id = None
    if request is not None and paths.log_key_file.exists():
        request_id = LogIds(ensure_log_key(paths.log_key_file)).shown(request)
    wanted = Wanted(
        level=level,
        since=parse_since(since, datetime.now(UTC)) if since else "",
        request_id=request_id if request is not None else None,
    )
    shown = deque(entries(paths.log_file, wanted), maxlen=n_lines)
    if not shown and not is_following:
        print_note(f"{paths.log_file}: no such event.")
    for entry in shown:
        print_json_line(entry) if as_json else click.echo(pretty(entry))
    if is_following:
        for entry in follow(paths.log_file, wanted):
            print_json_line(entry) if as_json else click.echo(pretty(entry))
