"""`pushkin adapters`: what LoRA adapters are installed, and getting them in and out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import click

from daemon.adapter_shelf import name_from, open_shelf, problem_of, translated
from daemon.cli_options import Command, json_option
from daemon.errors import InputError
from daemon.terminal import Spinner, print_error, print_facts, print_json, print_note, print_table

if TYPE_CHECKING:
    from adapters.importers import Format
    from adapters.registry import Listed

_MUCH_NOISE = 0.3  # beside the update
_TASKS = ["continue", "rephrase", "story", "persona", "audio"]


def _base_option(command: Command) -> Command:
    option = click.option(
        "--base", metavar="MODEL", help="The model they are for; the configured one if not given."
    )
    return option(command)


@click.group("adapters")
def adapters_group() -> None:
    """Install, check and merge LoRA adapters."""


@adapters_group.command("list")
@_base_option
@json_option
def adapters_list(base: str | None, as_json: bool) -> None:
    """List the adapters of a model, broken ones with what is wrong with them."""
    shelf = open_shelf(base)
    found = shelf.registry.list()
    if as_json:
        print_json(
            [
                {"name": one.name, "problem": one.problem}
                | (shelf.describe(one.spec) if one.spec else {"origin": shelf.origin(one.root)})
                for one in found
            ]
        )
        return
    rows = [(*_row(one), shelf.origin(one.root)) for one in found]
    print_table(("adapter", "task", "rank", "scale", "languages", "size", "from"), rows)
    for one in found:
        if one.problem:
            print_note(one.problem)
    if not found:
        print_note(f"No adapter for {shelf.model.id} is installed ({shelf.own}).")


def _row(one: Listed) -> tuple[object, ...]:
    if one.spec is None:
        return (one.name, "broken", None, None, None, None)
    manifest = one.spec.manifest
    return (
        manifest.name,
        manifest.task or None,
        manifest.rank,
        f"{manifest.scale:g}",
        ", ".join(manifest.languages) or None,
        f"{manifest.n_bytes / 1e6:.1f} MB",
    )


@adapters_group.command("show")
@click.argument("name")
@_base_option
@json_option
def adapters_show(name: str, base: str | None, as_json: bool) -> None:
    """Print everything that is known about one adapter."""
    shelf = open_shelf(base)
    with translated():
        described = shelf.describe(shelf.registry.find(name))
    if as_json:
        print_json(described)
        return
    training = described.pop("training")
    print_facts(
        {key: _shown(value) for key, value in described.items()}
        | {f"training.{key}": _shown(value) for key, value in training.items()}
    )


def _shown(value: object) -> object:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or None
    return f"{value:g}" if isinstance(value, float) else value if value != "" else None


@adapters_group.command("verify")
@click.argument("name", required=False)
@_base_option
@json_option
def adapters_verify(name: str | None, base: str | None, as_json: bool) -> int:
    """Read every byte of NAME, or of all, and compare it with its manifest. Exit code 1: a problem."""
    shelf = open_shelf(base)
    if name is not None:
        with translated():
            problems = {name: problem_of(shelf.registry.find(name))}
    else:
        problems = {
            one.name: problem_of(one.spec) if one.spec else one.problem
            for one in shelf.registry.list()
        }
    if as_json:
        print_json([{"name": name, "problem": problem} for name, problem in problems.items()])
    else:
        print_table(
            ("adapter", "state"), [(n, "broken" if p else "intact") for n, p in problems.items()]
        )
        for problem in filter(None, problems.values()):
            print_error(problem)
    return int(any(problems.values()))


def _check_name(_: click.Context, __: click.Parameter, value: str | None) -> str | None:
    from adapters.format import is_name

    if value is not None and not is_name(value):
        raise click.BadParameter("names are 1 to 64 of a-z, 0-9, '.', '_', '-'.")
    return value


def _import_options(command: Command) -> Command:
    decorators: list[Callable[[Command], Command]] = [
        click.argument("source", type=click.Path(path_type=Path)),
        click.option("--name", callback=_check_name, help="The source's own name if not given."),
        click.option("--task", type=click.Choice(_TASKS), help="What it is for."),
        click.option("--language", "languages", multiple=True, metavar="CODE", help="Repeatable."),
        click.option("--licence", default="", metavar="SPDX", help="Such as Apache-2.0."),
        click.option(
            "--format",
            "kind",
            type=click.Choice(["auto", "peft", "mlx-lm", "gguf"]),
            default="auto",
            show_default=True,
            help="What SOURCE is.",
        ),
        click.option(
            "--drop-vision", is_flag=True, help="Leave LoRA of a vision tower out (PEFT)."
        ),
        click.option("--replace", is_flag=True, help="In the place of one that has the name."),
    ]
    for decorate in reversed(decorators):
        command = decorate(command)
    return command


@adapters_group.command("import")
@_import_options
@_base_option
@json_option
def adapters_import(source: Path, base: str | None, as_json: bool, **given: Any) -> None:
    """Install an adapter from a PEFT or mlx-lm checkpoint or a GGUF file.

    SOURCE is a folder (PEFT, mlx-lm) or a file (GGUF). Pickles are never opened. A running daemon
    finds the adapter at the next request that names it.
    """
    from adapters.draft import Provenance
    from adapters.importers import format_of, import_adapter
    from adapters.install import write
    from daemon.paths import prepare

    shelf = open_shelf(base)
    with translated():
        kind = cast("Format", format_of(source) if given["kind"] == "auto" else given["kind"])
        draft = import_adapter(
            source,
            kind,
            name=given["name"] or name_from(source),
            base=shelf.base,
            provenance=Provenance(
                task=given["task"] or "", languages=given["languages"], licence=given["licence"]
            ),
            drop_vision=given["drop_vision"],
        )
        prepare(shelf.loaded.paths)
        spec = write(draft, shelf.own, replace=given["replace"])
    if as_json:
        print_json(shelf.describe(spec))
        return
    manifest = spec.manifest
    click.echo(
        f"{manifest.name}: rank {manifest.rank}, scale {manifest.scale:g}, "
        f"{len(spec.tensors) // 2} matrices, {manifest.n_bytes / 1e6:.1f} MB, in {spec.path}"
    )


@adapters_group.command("export")
@click.argument("name")
@click.option("--format", "kind", type=click.Choice(["peft", "mlx-lm"]), required=True)
@click.option("--out", type=click.Path(path_type=Path), required=True, metavar="DIR", help="New.")
@_base_option
def adapters_export(
    name: str, kind: Literal["peft", "mlx-lm"], out: Path, base: str | None
) -> None:
    """Write an adapter for PEFT or mlx-lm; importing it again gives the same file."""
    from adapters.mlx_lm_format import export_mlx_lm
    from adapters.peft_format import export_peft
    from adapters.registry import read_weights

    if out.exists():
        raise InputError(f"--out: {out} exists; name a folder that does not.")
    shelf = open_shelf(base)
    with translated():
        spec = shelf.registry.find(name)
        export = {"peft": export_peft, "mlx-lm": export_mlx_lm}[kind]
        export(spec, read_weights(spec), shelf.base, out)
    click.echo(str(out))


@adapters_group.command("merge")
@click.argument("names", nargs=-1, required=True, metavar="NAME[:SCALE]...")
@click.option("--out", type=click.Path(path_type=Path), required=True, metavar="DIR", help="New.")
@click.option(
    "--bits",
    type=click.Choice(["4", "8", "16"]),
    help="Of the weights; as the model has them if not given. 16 is unquantised.",
)
@_base_option
@json_option
def adapters_merge(
    names: tuple[str, ...], out: Path, bits: str | None, base: str | None, as_json: bool
) -> None:
    """Write a model that has adapters merged in.

    It costs nothing a token, cannot be switched off, and loses to rounding what is printed.
    """
    from dataclasses import asdict

    from adapters.registry import read_weights
    from daemon.config import parse_adapters
    from pushkin_runtime.merge import WeightedAdapter, merge

    try:
        refs = parse_adapters(names)
    except ValueError as error:
        raise InputError(f"{' '.join(names)}: {error}.") from None
    shelf = open_shelf(base)
    with translated(), Spinner("merging") as spinner:
        adapters = [
            WeightedAdapter(ref.name, read_weights(shelf.registry.find(ref.name)), ref.scale)
            for ref in refs
        ]
        report = merge(
            shelf.model,
            adapters,
            out,
            bits=int(bits) if bits else None,
            on_progress=lambda done, total: spinner.say(f"merging: {done} of {total} tensors"),
        )
    if report.lost_update > _MUCH_NOISE and report.n_bits < 8:
        print_note(
            f"Rounding to {report.n_bits} bits hides much of what the adapters change; --bits 8 keeps it."
        )
    if as_json:
        print_json({"folder": str(out), **asdict(report)})
        return
    print_facts(
        {
            "folder": out,
            "size": f"{report.n_bytes / 1e6:.1f} MB, {report.n_bits} bits a weight",
            "matrices": report.n_modules,
            "rounding error of the weights": f"{report.rounding_error:.2%}",
            "noise beside the update": f"{report.lost_update:.1%}",
        }
    )
