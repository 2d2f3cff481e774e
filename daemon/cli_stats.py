"""`pushkin stats`: how you use lil Pushkin, counted for you alone and only if you say so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from daemon.cli_options import json_option, load_config
from daemon.terminal import print_facts, print_json, print_note, print_table, write_text

_KINDS = {
    "all": "",
    "task": "task",
    "adapters": "adapters",
    "min_p": "min-p",
    "persona_strength": "persona strength",
}
_ABOUT_TEXTS = """\
This keeps, in a private file on this machine:
  the text before the caret of suggestions you took, edited or rejected, the suggestions, and what you made of them.
It is for training your own adapters (`pushkin stats export --pairs FILE`); nothing ever leaves this machine.
`pushkin stats off --texts` erases all of it.
Keep these texts?"""


@click.group("stats")
def stats_group() -> None:
    """Count what you use and which suggestions you take; off until you turn it on.

    On this machine only, without any text. Texts, for training your own adapters, are a second decision.
    """


@stats_group.command()
@click.option("--texts", is_flag=True, help="Keep texts as well; counts must be on already.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
def on(texts: bool, yes: bool, as_json: bool) -> None:
    """Begin to count; with --texts, begin to keep texts."""
    from daemon.stats_access import open_stats

    if texts and not yes:
        click.confirm(_ABOUT_TEXTS, abort=True, err=True)
    with open_stats(load_config()) as access:
        consent = access.decide({"texts": True} if texts else {"counts": True})
    _print_consent(consent, as_json=as_json)


@stats_group.command()
@click.option("--texts", is_flag=True, help="Only the texts; they are erased.")
@json_option
def off(texts: bool, as_json: bool) -> None:
    """Stop counting. What was counted stays until `forget`; texts are erased at once."""
    from daemon.stats_access import open_stats

    with open_stats(load_config()) as access:
        consent = access.decide({"texts": False} if texts else {"counts": False})
    _print_consent(consent, as_json=as_json)


@stats_group.command()
@json_option
def show(as_json: bool) -> None:
    """Print what was used, and how suggestions fared, with 95 % intervals."""
    from daemon.stats_access import open_stats

    with open_stats(load_config()) as access:
        report = access.report()
    if as_json:
        print_json(report)
        return
    _print_consent(report["consent"], as_json=False)
    print_facts(
        {
            "since": report["first_day"],
            "active days": report["active_days"],
            "texts kept": report["n_texts"],
            "preference pairs": report["n_pairs"],
        }
    )
    if report["features"]:
        print_table(("feature", "uses"), list(report["features"].items()))
    rows = [
        (_KINDS[kind], rate["value"], *_figures(rate))
        for kind, rates in report["suggestions"].items()
        for rate in rates
    ]
    if rows:
        headings = ("by", "", "shown", "accepted", "edited", "rejected", "rate", "95 %", "kept")
        print_table(headings, rows)
    if not report["consent"]["counts"]:
        print_note("Nothing is counted. `pushkin stats on` turns it on.")


@stats_group.command()
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
def forget(yes: bool, as_json: bool) -> None:
    """Erase the statistics: counts, texts and decisions."""
    from daemon.stats_access import open_stats

    if not yes:
        click.confirm("Forget the usage statistics, for good?", abort=True, err=True)
    with open_stats(load_config()) as access:
        erased = access.forget()
    print_json(erased) if as_json else print_facts(erased)


@stats_group.command()
@click.option(
    "--pairs",
    is_flag=True,
    help="Preference pairs with their texts, as TRL's DPOTrainer takes them, instead of counts.",
)
@click.argument(
    "file", required=False, type=click.Path(dir_okay=False, path_type=Path), metavar="[FILE]"
)
def export(pairs: bool, file: Path | None) -> None:
    """Write everything as JSON lines to FILE, which nobody else may read, or to standard output."""
    from daemon.paths import replace_private
    from daemon.stats_access import open_stats

    with open_stats(load_config()) as access:
        lines = access.pairs() if pairs else access.export()
    if file is None:
        write_text(lines)
        return
    replace_private(file, lines.encode())
    n_lines = lines.count("\n")
    print_note(f"{file}: {n_lines} lines.")
    if pairs and not n_lines:
        print_note("There are no pairs: `pushkin stats show` says whether texts are kept.")


def _print_consent(consent: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(consent)
    else:
        shown = {True: "on", False: "off"}
        print_facts({"counts": shown[consent["counts"]], "texts": shown[consent["texts"]]})


def _figures(rate: dict[str, Any]) -> tuple[object, ...]:
    def percent(share: float | None) -> str:
        return "–" if share is None else f"{100 * share:.0f} %"

    interval = f"{percent(rate['low'])} to {percent(rate['high'])}"
    counts = (rate["shown"], rate["accepted"], rate["edited"], rate["rejected"])
    return (*counts, percent(rate["rate"]), interval, percent(rate["kept_share"]))
