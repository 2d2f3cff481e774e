"""`pushkin diagnose`: is this machine all right, and a bundle for whoever is to find a fault."""

from __future__ import annotations

import time
from pathlib import Path

import click

from daemon.cli_options import json_option, load_config
from daemon.terminal import print_json, print_note, print_table


@click.command()
@click.option("--check", is_flag=True, help="Only check; exit code 1 if something is wrong.")
@click.option("--show", is_flag=True, help="Print everything that the bundle would hold.")
@click.option("--yes", is_flag=True, help="Write the bundle without asking.")
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Where to; a name with the time, here, by default.",
)
@json_option
def diagnose(*, check: bool, show: bool, yes: bool, output: Path | None, as_json: bool) -> int:
    """Check this machine, and pack what is needed to find a fault: no text, no token, no name of a document.

    You see what is inside before anything is written, and nothing is sent anywhere.
    """
    from dataclasses import asdict

    from daemon.diagnosis import gather, packed
    from daemon.doctor import run_checks
    from daemon.paths import replace_private

    loaded = load_config()
    checks = run_checks(loaded)
    is_well = all(one.ok is not False for one in checks)
    if as_json:
        print_json([asdict(one) for one in checks])
        return 0 if is_well else 1
    marks = {True: "ok", False: "wrong", None: "–"}
    rows: list[tuple[object, ...]] = [
        (one.name, marks[one.ok], one.found, one.remedy) for one in checks
    ]
    print_table(("check", "", "found", "what to do"), rows)
    if check:
        return 0 if is_well else 1
    parts = gather(loaded)
    if show:
        for part in parts:
            click.echo(f"\n== {part.name}\n{part.content}", nl=False)
        return 0
    click.echo()
    print_table(("file", "characters"), [(part.name, len(part.content)) for part in parts])
    print_note("`pushkin diagnose --show` prints all of it.")
    file = output or Path(time.strftime("pushkin-diagnosis-%Y%m%dT%H%M%S.zip"))
    if not yes:
        click.confirm(f"Write {file}?", abort=True, err=True)
    replace_private(file, packed(parts))
    print_note(f"{file}: written. Nobody else can read it; give it to whom you like.")
    return 0
