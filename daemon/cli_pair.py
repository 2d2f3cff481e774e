"""`pushkin pair`: hand a token to an editor whose sandbox keeps it from reading ours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from daemon.cli_options import json_option, load_config
from daemon.errors import InputError, RequestFailed
from daemon.terminal import print_json, print_json_line, print_note, print_table

if TYPE_CHECKING:
    from daemon.client import DaemonClient

_WHY = {
    "ended": "Nobody used the code in time, or another one was made. `pushkin pair` makes a new one.",
    "refused": "The code died of too many wrong tries. If it was not you who mistyped it, some program on "
    "this machine is guessing. `pushkin pair` makes a new one.",
}


@click.group("pair", invoke_without_command=True)
@json_option
@click.pass_context
def pair_group(context: click.Context, as_json: bool) -> int | None:
    """Show a code to type into an editor, and wait until it has been used.

    It works once, for two minutes, and dies at the fifth wrong try. Ctrl-C ends it.
    """
    if context.invoked_subcommand is not None:
        return None
    from daemon.client import DaemonClient, require_daemon

    loaded = load_config()
    with (
        DaemonClient(loaded, require_daemon(loaded)) as client,
        client.events() as events,
        _open_code(client) as offer,
    ):
        if as_json:
            print_json_line({"event": "code", **offer})
        else:
            shown = f"{offer['code'][:3]} {offer['code'][3:]}"
            click.echo(f"Type this code into the editor within two minutes: {shown}")
        end = _end_of(offer, events)
    if as_json:
        print_json_line({"event": end["state"], "client": end["client"]})
    if end["state"] != "paired":
        raise RequestFailed(_WHY[end["state"]])
    if not as_json:
        click.echo(f"Paired with {end['client']}.")
    return 0


@pair_group.command("list")
@json_option
def pair_list(as_json: bool) -> None:
    """List the paired clients."""
    from daemon.paired_clients import PairedClients

    clients = list(PairedClients(load_config().paths.clients).list())
    if as_json:
        print_json(
            [{"client": c.name, "scope": "editor", "paired_at": c.paired_at} for c in clients]
        )
        return
    print_table(("client", "paired at"), [(c.name, c.paired_at) for c in clients])
    if not clients:
        print_note("No client is paired; `pushkin pair` shows a code for one.")


@pair_group.command("revoke")
@click.argument("client")
def pair_revoke(client: str) -> None:
    """End a client's token, at once."""
    from daemon.paired_clients import PairedClients

    if not PairedClients(load_config().paths.clients).revoke(client):
        raise InputError("No client of this name is paired; see `pushkin pair list`.")
    click.echo(f"{client} has no access any more.")


@contextmanager
def _open_code(client: DaemonClient) -> Iterator[dict[str, Any]]:
    """A code that ends with the block, whatever ends it."""
    offer = client.send("POST", "/v1/pairings", json={})
    try:
        yield offer
    finally:
        client.delete(f"/v1/pairings/{offer['id']}")


def _end_of(offer: dict[str, Any], events: Iterator[tuple[str, dict[str, Any]]]) -> dict[str, Any]:
    for name, event in events:
        if name == "pairing" and event["id"] == offer["id"]:
            return event
    raise RequestFailed("The daemon stopped before the code was used.")
