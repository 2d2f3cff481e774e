"""`pushkin export`: a model as another runtime takes it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from daemon.adapter_shelf import Shelf, open_shelf, translated
from daemon.cli_options import json_option
from daemon.errors import InputError
from daemon.terminal import Spinner, print_facts, print_json

if TYPE_CHECKING:
    from pushkin_runtime.model_store import ModelSpec


@click.group("export")
def export_group() -> None:
    """Write a model for another runtime."""


@export_group.command("executorch")
@click.argument("model", required=False)
@click.option(
    "--adapter",
    "adapters",
    multiple=True,
    metavar="NAME[:SCALE]",
    help="Merge it in first; repeatable. Adapters can also be given to the program when it runs.",
)
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="A .pte file; where the executorch engine looks for it if not given.",
)
@json_option
def export_executorch(
    model: str | None, adapters: tuple[str, ...], output: Path | None, as_json: bool
) -> None:
    """Write MODEL (the configured one if not given) as an ExecuTorch program for XNNPACK.

    Takes a few minutes for a small model and several gigabytes for a large one. The program reads embeddings, keys and
    values, and adapters from its inputs; tokenizer and embeddings stay in the model's folder.
    """
    from pushkin_runtime.engines.executorch_build import describe, export_to, program_name

    shelf = open_shelf(model)
    with translated(), _merged(shelf, adapters) as spec, Spinner("exporting"):
        if output is None:
            output = shelf.loaded.paths.cache / program_name(spec)
            output.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        export_to(spec, output)
        facts = {"file": str(output), "n_bytes": output.stat().st_size, **describe(spec)}
    if as_json:
        print_json(facts)
    else:
        print_facts(facts)


@contextmanager
def _merged(shelf: Shelf, names: tuple[str, ...]) -> Iterator[ModelSpec]:
    """Lend the model, or a copy that has adapters merged in, in a folder that ends with the loan."""
    from adapters.registry import read_weights
    from daemon.config import parse_adapters
    from pushkin_runtime.engines.executorch_build import is_quantized
    from pushkin_runtime.merge import WeightedAdapter, merge
    from pushkin_runtime.model_store import open_model

    if not names:
        yield shelf.model
        return
    try:
        refs = parse_adapters(names)
    except ValueError as error:
        raise InputError(f"{' '.join(names)}: {error}.") from None
    weights = [
        WeightedAdapter(ref.name, read_weights(shelf.registry.find(ref.name)), ref.scale)
        for ref in refs
    ]
    with tempfile.TemporaryDirectory(prefix="pushkin-") as folder:
        made = Path(folder) / shelf.model.id
        # Where the program is in float32 anyway, merging need not round.
        merge(shelf.model, weights, made, bits=None if is_quantized(shelf.model) else 16)
        yield open_model(made)
