"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from daemon.config import Loaded

Command = TypeVar("Command", bound=Callable[..., Any])


def port_option(command: Command) -> Command:
    """Add --port; None when not given."""
    option = click.option(
        "--port", type=click.IntRange(0, 65535), metavar="N", help="Port of the daemon."
    )
    return option(command)


def json_option(command: Command) -> Command:
    """Add --json."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts.")(command)


def load_config(port: int | None = None, **flags: object) -> Loaded:
    """Read the configuration with the flags of a command; names as in RuntimeConfig."""
    from daemon.config import load

    runtime = {f"runtime.{name}": value for name, value in flags.items()}
    return load({"server.port": port, **runtime})
