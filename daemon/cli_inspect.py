"""Commands that only look: `token`, `config show`, `version`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from daemon import __version__
from daemon.cli_options import json_option, load_config, port_option
from daemon.terminal import print_facts, print_json, print_table

if TYPE_CHECKING:
    from api.scopes import TokenScope


@click.command()
@click.option(
    "--scope",
    type=click.Choice(("menubar", "editor", "admin")),
    default="admin",
    show_default=True,
    help="What its owner may do: see the state; write; everything.",
)
@click.option("--rotate", is_flag=True, help="Make a new one; the old one ends at once.")
@json_option
def token(scope: TokenScope, rotate: bool, as_json: bool) -> None:
    """Print the token that requests must carry: `Authorization: Bearer <token>`."""
    from daemon.auth_token import ensure_token, rotate_token
    from daemon.paths import prepare

    loaded = load_config()
    prepare(loaded.paths)
    path = loaded.paths.token_file_of(scope)
    value = rotate_token(path) if rotate else ensure_token(path)
    if as_json:
        print_json({"token": value, "scope": scope, "file": str(path)})
    else:
        click.echo(value)


@click.group("config")
def config_group() -> None:
    """Look at the configuration."""


@config_group.command("show")
@json_option
@port_option
def config_show(port: int | None, as_json: bool) -> None:
    """Print every setting, its value, and where the value comes from."""
    from daemon.config import leaves

    loaded = load_config(port)
    values: dict[str, tuple[object, str]] = {"home": (str(loaded.paths.home), loaded.home_origin)}
    for name, value in leaves(loaded.config).items():
        values[name] = (value, loaded.origins[name])
    if as_json:
        print_json({name: {"value": v, "origin": o} for name, (v, o) in values.items()})
    else:
        print_table(("setting", "value", "from"), [(name, *pair) for name, pair in values.items()])


@click.command()
@json_option
def version(as_json: bool) -> None:
    """Print the versions to name in a bug report."""
    import platform
    from importlib import metadata

    versions: dict[str, object] = {
        "pushkin": __version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
    }
    for name in ("mlx", "torch", "fastapi", "uvicorn"):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    if as_json:
        print_json(versions)
    else:
        print_facts(versions)
