"""Output of the commands: JSON for scripts, tables and a spinner for people, bytes for text."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from rich.status import Status


def print_json(value: object) -> None:
    """Print one JSON document, readable and with a newline."""
    click.echo(json.dumps(value, ensure_ascii=False, indent=2))


def print_facts(facts: Mapping[str, object]) -> None:
    """Print names and values as two columns; plain when stdout is not a terminal."""
    if not sys.stdout.isatty():
        for name, value in facts.items():
            click.echo(f"{name}\t{shown(value)}")
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2))
    for name, value in facts.items():
        table.add_row(Text(name, style="cyan"), Text(shown(value)))
    Console().print(table)


def print_table(headings: tuple[str, ...], rows: list[tuple[object, ...]]) -> None:
    """Print rows under headings; tab-separated without headings when stdout is not a terminal."""
    if not sys.stdout.isatty():
        for row in rows:
            click.echo("\t".join(shown(cell) for cell in row))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, header_style="dim", pad_edge=False)
    for heading in headings:
        table.add_column(heading)
    for row in rows:
        table.add_row(*(Text(shown(cell)) for cell in row))
    Console().print(table)


def shown(value: object) -> str:
    """A value as people read it."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.1f}"
    return str(value)


def flat(value: object, prefix: str = "") -> dict[str, object]:
    """Nested objects as one level: {"model": {"id": …}} becomes {"model.id": …}."""
    if not isinstance(value, dict):
        return {prefix.rstrip("."): value}
    facts: dict[str, object] = {}
    for name, inner in value.items():
        facts |= flat(inner, f"{prefix}{name}.")
    return facts


def print_note(message: str) -> None:
    """Print a remark to stderr, where it does not get into the text."""
    click.secho(message, fg="yellow", err=True)


def print_error(message: str) -> None:
    """Print why a command failed to stderr."""
    click.echo(click.style("pushkin: ", fg="red", bold=True) + message, err=True)


def write_text(text: str) -> None:
    """Write text to stdout at once and verbatim: UTF-8, no newline added."""
    sys.stdout.buffer.write(text.encode())
    sys.stdout.buffer.flush()


def print_json_line(value: object) -> None:
    """Print one JSON document on a line of its own, at once; nobody has to read it."""
    try:
        click.echo(json.dumps(value, ensure_ascii=False))
    except BrokenPipeError:
        discard_stdout()


def discard_stdout() -> None:
    """Send the rest of the output nowhere: the reader has closed the pipe, and that is its right."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class Spinner:
    """A spinner with words on stderr, if that is a terminal, from its making until `stop`."""

    def __init__(self, what: str) -> None:
        self._status: Status | None = None
        if sys.stderr.isatty():
            from rich.console import Console

            self._status = Console(stderr=True).status(what)
            self._status.start()

    def say(self, what: str) -> None:
        """Change the words."""
        if self._status:
            self._status.update(what)

    def stop(self) -> None:
        """Remove it, before anything else is written; idempotent."""
        if self._status:
            self._status.stop()

    def __enter__(self) -> Spinner:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


@contextlib.contextmanager
def progress_bar(what: str, *, is_bytes: bool = False) -> Iterator[Callable[[int, int], None]]:
    """Yield `advance(n_done, n_total)`; a bar on stderr, if that is a terminal, until the end.

    is_bytes: what is counted, shown with its speed.
    """
    if not sys.stderr.isatty():
        yield lambda n_done, n_total: None
        return
    from rich.console import Console
    from rich.progress import DownloadColumn, Progress, TransferSpeedColumn

    columns = Progress.get_default_columns()
    if is_bytes:
        columns = (*columns, DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(what, total=None)
        yield lambda n_done, n_total: progress.update(task, completed=n_done, total=n_total)
