"""`pushkin service`: the daemon as a launchd agent that starts at login. macOS only."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from daemon.cli_options import json_option, load_config, port_option
from daemon.errors import ServiceError
from daemon.terminal import print_facts, print_json

if TYPE_CHECKING:
    from collections.abc import Callable

    from daemon.config import Loaded


@click.group()
def service() -> None:
    """Run the daemon at every login (macOS, launchd)."""


@service.command()
@port_option
def install(port: int | None) -> None:
    """Install or update the agent, start it, and wait until it answers."""
    from daemon.instance import find_daemon
    from daemon.launchd import Job, current_interpreter
    from daemon.service import Mac, status
    from daemon.service import install as install_agent

    loaded, mac = load_config(port), Mac()
    job = Job(
        interpreter=current_interpreter(),
        port=loaded.config.server.port,
        home=loaded.paths.home,
        logs=loaded.paths.logs,
        custom_home=loaded.home_origin == "PUSHKIN_HOME",
    )
    foreground = find_daemon(loaded.paths)
    if not status(mac).loaded and foreground:
        raise ServiceError(
            f"A daemon is running in the foreground (pid {foreground.pid}). Stop it first."
        )
    install_agent(job, loaded.paths, mac, _health_check(loaded))
    click.echo(f"Installed: the daemon answers on port {job.port} and starts at every login.")


@service.command()
@click.option(
    "--purge",
    is_flag=True,
    help="Also remove tokens, pairings, the index of documents, usage and logs; works everywhere.",
)
@click.option("--yes", "is_sure", is_flag=True, help="Do not ask before removing.")
def uninstall(purge: bool, is_sure: bool) -> None:
    """Stop the agent and remove it. Settings, token, models and logs stay."""
    from daemon.service import Mac
    from daemon.service import uninstall as uninstall_agent

    mac = Mac()
    if purge:
        question = "Remove tokens, pairings, the index of your documents, usage and logs?"
        if not is_sure:
            click.confirm(question, abort=True)
    if not purge or mac.platform == "darwin":
        was_there = uninstall_agent(mac)
        click.echo("Uninstalled." if was_there else "It was not installed.")
    if purge:
        from daemon.purge import purge as purge_home

        paths = load_config().paths
        for path in purge_home(paths):
            click.echo(f"Removed {path}")
        click.echo(f"Models, adapters and config.toml in {paths.home} are still there.")


@service.command()
def restart() -> None:
    """Stop the running daemon and start it again."""
    from daemon.service import Mac
    from daemon.service import restart as restart_agent

    restart_agent(Mac(), _health_check(load_config()))
    click.echo("Restarted: the daemon answers.")


@service.command("status")
@json_option
def service_status(as_json: bool) -> int:
    """Say what launchd knows about the agent. Exit code 3: it is not loaded."""
    from daemon.instance import read_refusal
    from daemon.service import Mac, status

    found = status(Mac())
    refusal = read_refusal(load_config().paths)
    facts: dict[str, object] = {"installed": found.installed, "loaded": found.loaded}
    facts |= {name.replace(" ", "_"): value for name, value in found.launchd.items()}
    facts["last_refusal"] = refusal
    if as_json:
        print_json(facts)
    else:
        print_facts(facts)
    return 0 if found.loaded else 3


def _health_check(loaded: Loaded) -> Callable[[], bool]:
    from daemon.client import DaemonClient
    from daemon.instance import find_daemon

    def is_healthy() -> bool:
        endpoint = find_daemon(loaded.paths)
        if endpoint is None:
            return False
        with DaemonClient(loaded, endpoint) as client:
            return client.is_healthy()

    return is_healthy
