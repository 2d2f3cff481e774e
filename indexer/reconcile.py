"""Make the index hold what a watched folder holds: new and changed files in, vanished ones out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from indexer.database import Database
from indexer.errors import ConsentRequired, IndexerError, IndexFault, code_of
from indexer.folder_scan import FoundFile, read_beneath, scan
from indexer.indexing import Progress
from indexer.pipeline import Incoming, Pipeline, Watcher
from indexer.records import IndexEvent, PushedFile

ABSENT_GRACE_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Folder:
    """A watched folder. call_again: asks for another look after so many seconds.

    absent_grace_s: a file must be missing for that long: editors replace files by deleting and renaming.
    """

    name: str
    root: Path
    call_again: Callable[[float], None]
    sink: Callable[[IndexEvent], None]
    absent_grace_s: float = ABSENT_GRACE_S


@dataclass(frozen=True, slots=True)
class _Known:
    document: str
    state: tuple[int, int, int]
    error_code: str | None
    missing_since: float | None


def document_id_of(db: Database, folder: str, path: str) -> str:
    """The id of a file: it does not show the name, and stays the same for the same place."""
    return f"file-{db.digest('path', folder, path).hex()}"


def reconcile(
    folder: Folder, pipeline: Pipeline, watcher: Watcher, progress: Progress
) -> Iterator[None]:
    """Yields after each file. A folder that cannot be read (a drive that is not there) loses nothing."""
    if pipeline.consent.global_consent() == "off":
        return
    try:
        found = scan(folder.root)
    except OSError:
        folder.sink(IndexEvent(kind="folder", code="folder_unavailable"))
        return
    db = pipeline.store.db
    known = _known(db, folder.name)
    stale = {document for (document,) in db.rows("SELECT id FROM documents WHERE stale = 1")}
    for file in found:
        place = db.digest("path", folder.name, file.path)
        row = known.pop(place, None)
        is_same = row is not None and row.state == _state(file) and row.missing_since is None
        if is_same and row is not None and row.document not in stale:
            continue
        failure = _bring_in(folder, file, pipeline, watcher)
        if failure == "cancelled":
            return
        _note(db, folder.name, file, failure, place)
        progress.count(n_documents=1, n_failed=int(failure is not None))
        yield
    if _remove_missing(folder, known, pipeline):
        folder.call_again(folder.absent_grace_s)


def forget_folder(pipeline: Pipeline, name: str) -> int:
    """Stop watching: its documents leave the index; returns how many."""
    db = pipeline.store.db
    documents = [d for (d,) in db.rows("SELECT id FROM documents WHERE folder = ?", (name,))]
    for document_id in documents:
        pipeline.store.delete(document_id, forget=False)
    with db.transaction() as connection:
        connection.execute("DELETE FROM folders WHERE name = ?", (name,))
    return len(documents)


def _bring_in(folder: Folder, file: FoundFile, pipeline: Pipeline, watcher: Watcher) -> str | None:
    """Index one file; returns the code of what went wrong, None when nothing did."""
    document_id = document_id_of(pipeline.store.db, folder.name, file.path)
    place = (folder.name, file.path)
    try:
        content = read_beneath(folder.root, file.path)
        pushed = PushedFile(content=content, suffix=PurePosixPath(file.path).suffix)
        incoming = Incoming(
            document_id=document_id,
            raw=content,
            read=lambda: pipeline.stages.read_file(pushed),
            place=place,
        )
        outcome = pipeline.bring_in(incoming, watcher)
    except IndexFault:
        raise
    except ConsentRequired as error:
        if pipeline.store.has(document_id):
            pipeline.store.delete(document_id, forget=False)
        return code_of(error)
    except IndexerError as error:
        return code_of(error)
    return "cancelled" if outcome.state == "cancelled" else None


def _known(db: Database, folder: str) -> dict[bytes, _Known]:
    found = db.rows(
        "SELECT path_digest, document, inode, n_bytes, mtime_ns, error_code, missing_since "
        "FROM files WHERE folder = ?",
        (folder,),
    )
    return {
        digest: _Known(document, (inode, n_bytes, mtime_ns), error_code, missing_since)
        for digest, document, inode, n_bytes, mtime_ns, error_code, missing_since in found
    }


def _state(file: FoundFile) -> tuple[int, int, int]:
    return file.inode, file.n_bytes, file.mtime_ns


def _note(db: Database, folder: str, file: FoundFile, failure: str | None, place: bytes) -> None:
    """Remember what a file was like, so that it is read again only when it has changed."""
    with db.transaction(durable=False) as connection:
        connection.execute(
            "INSERT OR REPLACE INTO files (path_digest, folder, document, inode, n_bytes, mtime_ns, "
            "error_code, missing_since) SELECT ?, name, ?, ?, ?, ?, ?, NULL FROM folders WHERE name = ?",
            (place, document_id_of(db, folder, file.path), *_state(file), failure, folder),
        )


def _remove_missing(folder: Folder, missing: dict[bytes, _Known], pipeline: Pipeline) -> bool:
    """Delete the documents of files that stay away; True if some are missed only since now."""
    store = pipeline.store
    now = store.clock()
    is_waiting = False
    for place, row in missing.items():
        if row.missing_since is None:
            is_waiting = True
            with store.db.transaction(durable=False) as connection:
                connection.execute(
                    "UPDATE files SET missing_since = ? WHERE path_digest = ?", (now, place)
                )
        elif now - row.missing_since < folder.absent_grace_s:
            is_waiting = True
        else:
            if store.has(row.document):
                store.delete(row.document, forget=False)
            with store.db.transaction(durable=False) as connection:
                connection.execute("DELETE FROM files WHERE path_digest = ?", (place,))
    return is_waiting
