"""`pushkin index`: which of your documents lil Pushkin knows, and what it may do with them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from daemon.cli_options import json_option, load_config
from daemon.errors import DaemonError, InputError
from daemon.terminal import flat, print_error, print_facts, print_json, print_note, print_table

_SUFFIXES = (".txt", ".text", ".md", ".markdown", ".rtf", ".docx", ".odt", ".pdf")
_consent_option = click.option(
    "--consent", is_flag=True, help="You agree that this is read; needed while consent is `ask`."
)


@click.group("index")
def index_group() -> None:
    """Your documents: what is indexed, what may be, and forgetting it.

    Nothing is read before you say so: `pushkin index consent ask` or `on`.
    """


@index_group.command()
@click.argument("paths", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--id", "document_id", help="The id of the document; only for a single file.")
@_consent_option
@json_option
def add(paths: tuple[Path, ...], document_id: str | None, consent: bool, as_json: bool) -> int:
    """Index files, and the files in folders (.killahignore is heeded)."""
    from daemon.index_access import Upload, open_access
    from daemon.index_progress import follow

    files = list(_files(paths))
    if document_id is not None and len(files) != 1:
        raise InputError("--id is for a single file.")
    ended: list[dict[str, Any]] = []
    with open_access(load_config()) as access, follow(len(files)) as progress:
        for path in files:
            upload = Upload(
                document_id=document_id or _id_of(path),
                content=path.read_bytes(),
                suffix=path.suffix,
                consent=consent,
            )
            job = access.upload(upload)
            for state in access.progress(job):
                job = state
                progress.show(state)
            progress.advance()
            ended.append({"path": str(path), **job})
    if as_json:
        print_json(ended)
    else:
        headings = ("document", "state", "paragraphs", "new", "file")
        print_table(headings, [_added_row(job) for job in ended])
    return int(any(job["state"] == "failed" for job in ended))


@index_group.command("list")
@json_option
def list_(as_json: bool) -> None:
    """List the documents that are indexed."""
    from daemon.index_access import open_access

    with open_access(load_config()) as access:
        documents = access.documents()
    if as_json:
        print_json(documents)
        return
    rows: list[tuple[object, ...]] = [
        (
            document["id"],
            document["path"] or "",
            document["n_paragraphs"],
            document["n_words"],
            " ".join(f"{name} {n}" for name, n in document["languages"].items()),
            "needed again" if document["stale"] else document["consent"],
        )
        for document in documents
    ]
    print_table(("document", "file", "paragraphs", "words", "languages", "consent"), rows)
    if not documents:
        print_note("Nothing is indexed. `pushkin index consent` says what is allowed.")


@index_group.command()
@click.argument("documents", nargs=-1, required=True)
@json_option
def remove(documents: tuple[str, ...], as_json: bool) -> int:
    """Forget documents, named by their id or by the file they were added from."""
    from daemon.index_access import open_access

    receipts, n_failed = [], 0
    with open_access(load_config()) as access:
        for name in documents:
            document_id = _id_of(Path(name)) if Path(name).is_file() else name
            try:
                receipts.append(access.delete(document_id))
            except InputError as error:
                n_failed += 1
                print_error(str(error))
    if as_json:
        print_json(receipts)
    else:
        for receipt in receipts:
            print_facts(receipt)
    return int(n_failed > 0 or not all(receipt["verified"] for receipt in receipts))


@index_group.command()
@click.option("--force", is_flag=True, help="Change to a new model even if documents are missing.")
@json_option
def rebuild(force: bool, as_json: bool) -> int:
    """Check the index, load it again, and look through the watched folders."""
    from daemon.index_access import open_access

    with open_access(load_config()) as access:
        return _finish(access, access.rebuild(force=force), as_json=as_json)


@index_group.command()
@click.argument("name")
@click.option("--stop", is_flag=True, help="Stop watching; its documents leave the index.")
@_consent_option
@json_option
def watch(name: str, stop: bool, consent: bool, as_json: bool) -> int:
    """Watch a folder of the configuration ([index] folders), named by its last part."""
    from daemon.index_access import open_access

    with open_access(load_config()) as access:
        if not stop:
            return _finish(access, access.watch(name, consent=consent), as_json=as_json)
        answer = access.unwatch(name)
    if as_json:
        print_json(answer)
    else:
        print_facts(answer)
    return 0


@index_group.command("consent")
@click.argument("choice", required=False, type=click.Choice(["off", "ask", "on"]))
@click.option("--include", multiple=True, metavar="ID", help="Always allow this document.")
@click.option("--exclude", multiple=True, metavar="ID", help="Never; it is deleted as well.")
@click.option("--inherit", multiple=True, metavar="ID", help="Take such a decision back.")
@json_option
def consent_(
    choice: str | None,
    include: tuple[str, ...],
    exclude: tuple[str, ...],
    inherit: tuple[str, ...],
    as_json: bool,
) -> None:
    """Show or change what may be read: nothing (off), what you agree to (ask), or all (on)."""
    from daemon.index_access import open_access

    documents = {
        name: decision
        for decision, names in (("include", include), ("exclude", exclude), ("inherit", inherit))
        for name in names
    }
    change: dict[str, Any] = {"documents": documents} | ({"global": choice} if choice else {})
    receipts: list[dict[str, Any]] = []
    with open_access(load_config()) as access:
        if choice or documents:
            answer = access.set_consent(change)
            state, receipts = answer["consent"], answer["receipts"]
        else:
            state = access.consent()
    if as_json:
        print_json({"consent": state, "receipts": receipts})
        return
    names = {"documents", "folders"}
    print_facts({name: value for name, value in state.items() if name not in names})
    for name in sorted(names):
        print_facts({f"{name}.{key}": value for key, value in state[name].items()})
    for receipt in receipts:
        print_facts(receipt)


@index_group.command()
@click.option("--vectors", is_flag=True, help="With the paragraphs' vectors (base64, float16).")
@click.option("--output", type=click.Path(path_type=Path), help="A new file; default: stdout.")
def export(vectors: bool, output: Path | None) -> None:
    """Write everything that is known, as JSON lines."""
    from daemon.index_access import open_access

    with open_access(load_config()) as access:
        pieces = access.export(vectors=vectors)
        if output is None:
            for piece in pieces:
                click.echo(piece, nl=False)
            return
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        with os.fdopen(os.open(output, flags, 0o600), "w", encoding="utf-8") as file:
            file.writelines(pieces)


@index_group.command()
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
def forget(yes: bool, as_json: bool) -> int:
    """Erase the whole index and the usage statistics, decisions included: all consent is off afterwards."""
    from daemon.index_access import open_access

    if not yes:
        click.confirm(
            "Forget every document, and the usage statistics, for good?", abort=True, err=True
        )
    with open_access(load_config()) as access:
        receipt = access.forget()
    if as_json:
        print_json(receipt)
    else:
        print_facts(flat(receipt))
    return 0 if receipt["verified"] else 1


def _finish(access: Any, job: dict[str, Any], *, as_json: bool) -> int:
    """Follow a job to its end and print it."""
    from daemon.index_progress import follow

    with follow(None) as progress:
        for state in access.progress(job):
            job = state
            progress.show(state)
    if as_json:
        print_json(job)
    else:
        print_facts({name: value for name, value in job.items() if value not in (None, 0)})
    if job["state"] != "done":
        raise DaemonError(f"The job ended as {job['state']} ({job['error_code']}).")
    return 0


def _files(paths: tuple[Path, ...]) -> Iterator[Path]:
    from indexer.folder_scan import scan

    for path in paths:
        if path.is_dir():
            yield from (path / found.path for found in scan(path))
        elif path.suffix.lower() in _SUFFIXES or not path.suffix:
            yield path
        else:
            raise InputError(f"{path}: expected one of {', '.join(_SUFFIXES)}.")


def _id_of(path: Path) -> str:
    """The id of a file added here: always the same, and it does not show the name."""
    return f"cli-{hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:24]}"


def _added_row(job: dict[str, Any]) -> tuple[object, ...]:
    state = job["error_code"] or job["state"]
    return job["document_id"], state, job["n_paragraphs"], job["n_embedded"], job["path"]
