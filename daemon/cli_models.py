"""`pushkin models`: what can be served, speech encoders, downloads, and INT4 from a model in floats."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from daemon.adapter_shelf import translated
from daemon.cli_options import Command, json_option, load_config
from daemon.errors import InputError
from daemon.terminal import (
    Spinner,
    print_facts,
    print_json,
    print_note,
    print_table,
    progress_bar,
)

if TYPE_CHECKING:
    from pushkin_runtime.held_out import HeldOut
    from pushkin_runtime.quantize import QuantizeReport

_SYMMETRIC_GROUP_SIZE = 32


@click.group("models")
def models_group() -> None:
    """List, import, download and quantise models."""


@models_group.command("list")
@json_option
def models_list(as_json: bool) -> None:
    """List the models that can be served; * is the configured one."""
    from daemon.models import list_models

    loaded = load_config()
    models = list_models(loaded)
    if as_json:
        print_json([model.as_dict() for model in models])
        return
    rows: list[tuple[object, ...]] = [
        ("*" if m.configured else " ", m.name, f"{m.n_bytes / 1e6:.1f} MB", m.origin, m.folder)
        for m in models
    ]
    print_table(("", "model", "size", "from", "folder"), rows)
    if not any(model.configured for model in models):
        name = loaded.config.runtime.model
        print_note(f"The configured model {name} is not among them ({loaded.paths.models}).")


@models_group.command("import")
@click.argument("source", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--name", help="Under which name; default: the one that dictation asks for.")
@json_option
def models_import(source: Path, name: str | None, as_json: bool) -> None:
    """Copy a speech encoder from SOURCE, a folder with Whisper's config.json and safetensors.

    It is checked tensor by tensor, and its SHA-256 against the encoder that dictation was trained on. Nothing is
    downloaded.
    """
    from daemon.encoders import import_encoder

    made = import_encoder(load_config(), source, name)
    if as_json:
        print_json(asdict(made) | {"folder": str(made.folder)})
        return
    print_facts(
        {"name": made.name, "folder": made.folder, "sha256": made.sha256, "bytes": made.n_bytes}
    )
    if made.is_wanted is None:
        print_note("No speech model is installed that would use it.")
    elif not made.is_wanted:
        print_note(
            "The installed speech model was trained on another encoder: dictation will not use this one."
        )


def _quantize_options(command: Command) -> Command:
    decorators: list[Callable[[Command], Command]] = [
        click.argument("source", type=click.Path(exists=True, file_okay=False, path_type=Path)),
        click.argument("output", type=click.Path(path_type=Path)),
        click.option("--bits", type=click.Choice(["4", "6", "8"]), default="4", show_default=True),
        click.option(
            "--group-size",
            type=click.Choice(["32", "64", "128"]),
            help="Weights that share a scale; 64 if not given, 32 with --symmetric.",
        ),
        click.option(
            "--mixed",
            type=click.Choice(["6", "8"]),
            help="Bits of the matrices that suffer most: some values, FFN outputs, an untied head.",
        ),
        click.option(
            "--symmetric",
            is_flag=True,
            help="A form that GGUF's Q4_0 and XNNPACK hold exactly; 4 bits, groups of 32.",
        ),
        click.option(
            "--eval-text",
            type=click.Path(exists=True, dir_okay=False, path_type=Path),
            help="UTF-8 text that the loss is measured on; a page of prose that comes with us if not given.",
        ),
        click.option("--no-eval", is_flag=True, help="Do not load the models to measure the loss."),
    ]
    for decorate in reversed(decorators):
        command = decorate(command)
    return command


@models_group.command("quantize")
@_quantize_options
@json_option
def models_quantize(
    source: Path, output: Path, eval_text: Path | None, no_eval: bool, as_json: bool, **given: Any
) -> None:
    """Write the model in SOURCE in 4 bits as the new folder OUTPUT.

    SOURCE is a Gemma 3 folder in safetensors, in floats or in more bits. It is read tensor by tensor. The loss on a
    text is measured before and after; that loads both models, one after the other.
    """
    from daemon.quantization import held_out_text, measure, peak_rss, quantize

    text = None if no_eval else held_out_text(eval_text)
    with translated(), progress_bar(f"quantising {source.name}") as advance:
        report = quantize(source, output, _recipe(given), advance)
    peak_bytes = peak_rss()
    losses: dict[str, HeldOut] = {}
    if text is not None:
        with translated(), Spinner("measuring") as spinner:
            for when, folder in (("before", source), ("after", output)):
                spinner.say(f"measuring {folder.name}")
                losses[when] = measure(folder, text)
    if as_json:
        held_out = {when: asdict(loss) for when, loss in losses.items()}
        print_json(
            {"folder": str(output), **asdict(report)}
            | {"peak_rss_bytes": peak_bytes, "held_out": held_out or None}
        )
        return
    _print_report(output, report, peak_bytes, losses)


def _recipe(given: dict[str, Any]) -> Any:
    from pushkin_runtime.quantize import Recipe

    symmetric = bool(given["symmetric"])
    size = given["group_size"] or (str(_SYMMETRIC_GROUP_SIZE) if symmetric else "64")
    bits, mixed = int(given["bits"]), int(given["mixed"] or 0)
    if mixed and mixed <= bits:
        raise InputError(f"--mixed {mixed}: expected more than --bits {bits}.")
    return Recipe(bits=bits, group_size=int(size), mixed_bits=mixed or None, symmetric=symmetric)


def _print_report(
    output: Path, report: QuantizeReport, peak_bytes: int, losses: dict[str, HeldOut]
) -> None:
    before, after = losses.get("before"), losses.get("after")
    sensitive = f", {report.n_sensitive} with more bits" if report.n_sensitive else ""
    print_facts(
        {
            "folder": output,
            "weights": f"{report.quantization}, {report.bits_per_weight:.2f} bits a weight{sensitive}",
            "size": f"{report.n_bytes / 1e6:.1f} MB, from {report.source_bytes / 1e6:.1f} MB",
            "rounding error of the matrices": f"{report.rounding_error:.2%}",
            "memory at most": f"{peak_bytes / 1e6:.0f} MB",
        }
    )
    if before is None or after is None:
        return
    rows: list[tuple[object, ...]] = [
        (
            what,
            f"{getattr(before, name):.4f}",
            f"{getattr(after, name):.4f}",
            f"{getattr(after, name) - getattr(before, name):+.4f}",
        )
        for what, name in (
            ("nats a token", "nats_per_token"),
            ("bits a character", "bits_per_character"),
        )
    ]
    print_table((f"held-out loss, {before.n_tokens} tokens", "before", "after", "change"), rows)


@models_group.command("pull")
@click.argument("name")
@json_option
def models_pull(name: str, as_json: bool) -> None:
    """Download a model from Hugging Face: the one command that goes to the network.

    Every file is checked against the digest that the hub announces. A download that broke off goes on where it was.
    """
    from daemon.model_download import SOURCES, Hub, pull
    from daemon.paths import prepare

    source = SOURCES.get(name)
    if source is None:
        raise InputError(f"{name[:64]!r} is not known; these can be pulled: {', '.join(SOURCES)}.")
    loaded = load_config()
    prepare(loaded.paths)
    with progress_bar(name, is_bytes=True) as advance:
        folder = pull(name, source, loaded.paths.models, Hub(), advance)
    if as_json:
        print_json({"name": name, "folder": str(folder)})
        return
    print_facts({"name": name, "folder": folder})
    print_note(source.note)
