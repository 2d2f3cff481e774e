"""`pushkin continue`, `rephrase` and `story`: text in, text out as it is written."""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Unpack

import click

from daemon.cli_options import Command, json_option, load_config, port_option
from daemon.errors import InputError, NotRunning
from daemon.terminal import Spinner, print_json, print_note, write_text
from daemon.writing import Body, Finished, Piece, Task, Waiting, Writer

if TYPE_CHECKING:
    from typing import TypedDict

    class Given(TypedDict):
        """What `writing_options` adds; None and empty mean not given."""

        text: str | None
        file: str | None
        max_tokens: int | None
        n: int
        adapter: tuple[str, ...]
        no_adapters: bool
        temperature: float | None
        min_p: float | None
        seed: int | None
        stop: tuple[str, ...]
        language: str | None
        stream: bool
        trace_file: Path | None
        as_json: bool
        port: int | None


_SAMPLING: tuple[Literal["temperature", "min_p", "seed"], ...] = ("temperature", "min_p", "seed")
_HELP = """
    TEXT comes from the argument, from --file, or from standard input, and is used verbatim: leading
    and trailing spaces and newlines count. Only the new text is printed, with a newline after it on
    a terminal and nothing added elsewhere.

    TEXT that begins with - goes after --.

    With a running daemon the work is done there; otherwise the model is loaded for this one call.
"""


def writing_options(command: Command) -> Command:
    """Add the text argument and the options of every writing command."""
    decorators: list[Callable[[Command], Command]] = [
        click.argument("text", required=False),
        click.option("--file", metavar="PATH", help="Read TEXT from a file; - is standard input."),
        click.option("--max-tokens", type=click.IntRange(1, 1024), help="Length limit."),
        click.option(
            "--n", type=click.IntRange(1, 5), default=1, show_default=True, help="Alternatives."
        ),
        click.option(
            "--adapter",
            multiple=True,
            metavar="NAME[:SCALE]",
            help="Instead of the task's own. Repeatable.",
        ),
        click.option("--no-adapters", is_flag=True, help="The bare base model."),
        click.option(
            "--temperature",
            type=click.FloatRange(0, 5),
            callback=_refuse_nan,
            help="0 is the same every time.",
        ),
        click.option(
            "--min-p",
            type=click.FloatRange(0, 1),
            callback=_refuse_nan,
            help="Higher is more predictable.",
        ),
        click.option("--seed", type=click.IntRange(0), help="Repeat a result exactly."),
        click.option("--stop", multiple=True, metavar="TEXT", help="End before it. Repeatable."),
        click.option(
            "--language", metavar="CODE", help="en, ru; found out from TEXT if not given."
        ),
        click.option("--stream/--no-stream", default=True, help="Print as it is written."),
        click.option(
            "--trace",
            "trace_file",
            type=click.Path(dir_okay=False, path_type=Path),
            metavar="FILE",
            help="Load the model here, whether a daemon runs or not, and write what ran when, for chrome://tracing.",
        ),
        json_option,
        port_option,
    ]
    for decorate in reversed(decorators):
        command = decorate(command)
    return command


def _refuse_nan(_: click.Context, __: click.Parameter, value: float | None) -> float | None:
    """No range refuses NaN: it is neither below nor above anything."""
    if value is not None and math.isnan(value):
        raise click.BadParameter("nan is not a number.")
    return value


@click.command("continue", help=f"Write on from where TEXT ends.\n{_HELP}")
@writing_options
def continue_(**given: Unpack[Given]) -> None:
    _write("continue", given, {})


@click.command(help=f"Write TEXT in other words.\n{_HELP}")
@writing_options
@click.option("--instruction", default="", metavar="TEXT", help="How, such as: shorter.")
@click.option("--before", default="", metavar="TEXT", help="What stands before TEXT.")
@click.option("--after", default="", metavar="TEXT", help="What stands after TEXT.")
def rephrase(instruction: str, before: str, after: str, **given: Unpack[Given]) -> None:
    context = {"instruction": instruction, "before": before, "after": after}
    _write("rephrase", given, {name: text for name, text in context.items() if text})


@click.command(help=f"Write a story from the premise in TEXT.\n{_HELP}")
@writing_options
def story(**given: Unpack[Given]) -> None:
    _write("story", given, {})


def _write(task: Task, given: Given, extra: Body) -> None:
    body = _body(task, given) | extra
    _check_unicode(body)
    with _open_writer(given["port"], given["trace_file"]) as writer:
        if given["as_json"]:
            print_json(_finish(writer, task, body))
        elif given["n"] > 1 or not given["stream"]:
            _print_choices(_finish(writer, task, body)["choices"])
        else:
            _stream(writer, task, body)


def _body(task: Task, given: Given) -> Body:
    body: Body = {"prompt" if task == "story" else "text": _read_text(given["text"], given["file"])}
    sampling: dict[str, Any] = {
        name: value for name in _SAMPLING if (value := given[name]) is not None
    }
    optional: Body = {
        "max_tokens": given["max_tokens"],
        "n": given["n"] if given["n"] > 1 else None,
        "stop": list(given["stop"]) or None,
        "sampling": sampling or None,
        "control": {"language": given["language"]} if given["language"] else None,
    }
    body |= {name: value for name, value in optional.items() if value is not None}
    return body | _adapters(given["adapter"], given["no_adapters"])


def _adapters(names: tuple[str, ...], none: bool) -> Body:
    """The field `adapters`: absent leaves the choice to the daemon, [] is really none."""
    from daemon.config import parse_adapters

    if none and names:
        raise InputError("--adapter and --no-adapters are both given; give one of them.")
    if not none and not names:
        return {}
    try:
        refs = parse_adapters(names)
    except ValueError as error:
        raise InputError(f"--adapter: {error}.") from None
    return {"adapters": [{"name": ref.name, "scale": ref.scale} for ref in refs]}


def _read_text(text: str | None, file: str | None) -> str:
    if text is not None and file is not None:
        raise InputError("TEXT and --file are both given; give one of them.")
    if text is None:
        text = _decode(*_read_bytes(file))
    if not text:
        raise InputError("The text is empty; there is nothing to write from.")
    return text


def _read_bytes(file: str | None) -> tuple[bytes, str]:
    if file not in (None, "-"):
        assert file is not None
        try:
            return Path(file).read_bytes(), file
        except OSError as error:
            raise InputError(f"{file}: cannot be read: {error.strerror}") from error
    if sys.stdin.isatty() and file is None:
        raise InputError("No text. Give it as an argument, with --file PATH, or through a pipe.")
    return sys.stdin.buffer.read(), "standard input"


def _decode(content: bytes, where: str) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise InputError(
            f"{where}: is not UTF-8 text (byte {error.start}). "
            "Convert it first, for example: iconv -f CP1251 -t UTF-8"
        ) from None


def _check_unicode(body: Body) -> None:
    """Refuse arguments that were not UTF-8: Python keeps their bytes as lone surrogates."""
    texts = [(name, value) for name, value in body.items() if isinstance(value, str)]
    texts += [("stop", value) for value in body.get("stop", ())]
    for name, value in texts:
        try:
            value.encode()
        except UnicodeEncodeError:
            raise InputError(f"{name}: is not valid UTF-8.") from None


@contextlib.contextmanager
def _open_writer(port: int | None, trace_file: Path | None) -> Iterator[Writer]:
    from daemon.client import DaemonClient, require_daemon

    loaded = load_config(port)
    try:
        endpoint = None if trace_file else require_daemon(loaded)
    except NotRunning as missing:
        print_note(f"{missing} Until then the model is loaded for each call.")
        endpoint = None
    if endpoint is None:
        from daemon.local import LocalWriter

        with LocalWriter(loaded, trace_file) as local:
            yield local
        return
    with DaemonClient(loaded, endpoint) as client:
        yield client


def _stream(writer: Writer, task: Task, body: Body) -> None:
    with Spinner("thinking") as waiting:
        for event in writer.write(task, body):
            if isinstance(event, Piece):
                waiting.stop()
                write_text(event.text)
            elif isinstance(event, Waiting):
                waiting.say(event.what)
    if sys.stdout.isatty():
        write_text("\n")


def _finish(writer: Writer, task: Task, body: Body) -> dict[str, Any]:
    with Spinner("thinking") as waiting:
        for event in writer.write(task, body):
            if isinstance(event, Waiting):
                waiting.say(event.what)
            elif isinstance(event, Finished):
                return event.answer
    raise AssertionError("a writer ends with Finished or an error")


def _print_choices(choices: list[dict[str, Any]]) -> None:
    """Print alternatives, separated by an empty line and numbered on a terminal."""
    numbered = len(choices) > 1 and sys.stdout.isatty()
    for position, choice in enumerate(choices):
        if position:
            write_text("\n\n")
        if numbered:
            write_text(click.style(f"{position + 1}. ", fg="cyan"))
        write_text(choice["text"])
    if sys.stdout.isatty():
        write_text("\n")
