"""The SQL of one document: what stays, what goes and what comes when it is committed again."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from indexer.database import Database
from indexer.errors import IndexFault
from indexer.records import LANGUAGES, DocumentRecord, DocumentUpdate, VectorRows

VECTOR_DTYPE = np.dtype("<f2")

DOCUMENT_COLUMNS = (
    "id, revision, origin, folder, path, media_type, consent, consented_at, indexed_at, "
    "n_paragraphs, n_words, weight, stale"
)


class OldRow(NamedTuple):
    """A paragraph that is in the database. has_vector: in the space that is written."""

    id: int
    position: int
    digest: bytes
    has_vector: bool
    has_text: bool


@dataclass(frozen=True, slots=True)
class Plan:
    """kept: pairs of new position and row. new: positions of paragraphs that need a row."""

    kept: list[tuple[int, OldRow]]
    new: list[int]
    removed: list[OldRow]


def plan(old: Sequence[OldRow], digests: Sequence[bytes]) -> Plan:
    """Match paragraphs to rows by digest, equal ones in order: each row is used at most once."""
    free: dict[bytes, list[OldRow]] = {}
    for row in reversed(old):
        free.setdefault(row.digest, []).append(row)
    kept: list[tuple[int, OldRow]] = []
    new: list[int] = []
    for position, digest in enumerate(digests):
        rows = free.get(digest)
        if rows:
            kept.append((position, rows.pop()))
        else:
            new.append(position)
    return Plan(kept, new, [row for rows in free.values() for row in rows])


def old_rows(db: Database, key: int, space: int) -> list[OldRow]:
    """The paragraphs of a document in their order, also inside a transaction."""
    found = db.rows(
        "SELECT p.id, p.position, p.digest, v.rowid IS NOT NULL, p.text IS NOT NULL "
        "FROM paragraphs p LEFT JOIN vectors v ON v.paragraph = p.id AND v.space = ? "
        "WHERE p.document = ? ORDER BY p.position",
        (space, key),
    )
    return [
        OldRow(i, at, digest, bool(vector), bool(text)) for i, at, digest, vector, text in found
    ]


def put_document(
    connection: sqlite3.Connection, update: DocumentUpdate, text_digest: bytes, now: float
) -> int:
    """Insert or replace the row of a document; returns its key. The user's weight stays."""
    source = update.source
    values = {
        "id": source.id,
        "revision": source.revision,
        "content_digest": update.content_digest,
        "text_digest": text_digest,
        "origin": source.origin,
        "folder": source.folder,
        "path": source.path,
        "media_type": update.media_type,
        "consent": source.consent,
        "consented_at": source.consented_at,
        "indexed_at": now,
        "n_paragraphs": len(update.paragraphs),
        "n_words": sum(paragraph.n_words for paragraph in update.paragraphs),
        "stale": 0,
        "profile": update.profile,
    }
    replaced = ", ".join(f"{name} = excluded.{name}" for name in values if name != "id")
    ((key,),) = connection.execute(
        f"INSERT INTO documents ({', '.join(values)}) VALUES ({', '.join('?' * len(values))}) "
        f"ON CONFLICT (id) DO UPDATE SET {replaced} RETURNING key",
        tuple(values.values()),
    ).fetchall()
    return int(key)


def apply_plan(
    connection: sqlite3.Connection,
    key: int,
    update: DocumentUpdate,
    todo: Plan,
) -> VectorRows | None:
    """Write a plan; returns the rows that got a vector, None when none did."""
    _remove(connection, [row.id for row in todo.removed])
    _move(connection, update, todo)
    first = _next_id(connection)
    new_ids = range(first, first + len(todo.new))
    connection.executemany(
        "INSERT INTO paragraphs (id, document, position, digest, language, n_words, n_chars, text) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        [
            (row_id, key, position, update.digests[position], *_facts(update, position))
            for row_id, position in zip(new_ids, todo.new, strict=True)
        ],
    )
    without = [(row.id, position) for position, row in todo.kept if not row.has_vector]
    rows = [*without, *zip(new_ids, todo.new, strict=True)]
    return _put_vectors(connection, key, update, rows)


def as_record(
    row: Sequence[object], languages: dict[str, int], profile: str | None = None
) -> DocumentRecord:
    """A row of DOCUMENT_COLUMNS as a record."""
    names = [name.strip() for name in DOCUMENT_COLUMNS.split(",")]
    values = dict(zip(names, row, strict=True))
    values["stale"] = bool(values["stale"])
    return DocumentRecord(**values, languages=languages, profile=profile)  # type: ignore[arg-type]


def vector_rows(
    found: Sequence[tuple[int, int, str, bytes]], names: dict[int, str], n_dimensions: int
) -> VectorRows:
    """Rows of (paragraph, document, language, vector) as arrays, by ascending id."""
    n_rows = len(found)
    ids = np.fromiter((row[0] for row in found), np.int64, n_rows)
    documents = np.fromiter((row[1] for row in found), np.int64, n_rows)
    code = {language: position for position, language in enumerate(LANGUAGES)}
    languages = np.fromiter((code[row[2]] for row in found), np.uint8, n_rows)  # type: ignore[index]
    flat = np.frombuffer(b"".join(row[3] for row in found), VECTOR_DTYPE)
    vectors = flat.reshape(n_rows, n_dimensions).astype(np.float16, copy=False)
    if n_rows > 1 and not (np.diff(ids) > 0).all():
        order = np.argsort(ids, kind="stable")
        ids, documents, languages = ids[order], documents[order], languages[order]
        vectors = vectors[order]
    return VectorRows(
        ids=ids, documents=documents, languages=languages, vectors=vectors, names=names
    )


def _facts(update: DocumentUpdate, position: int) -> tuple[str, int, int, str | None]:
    paragraph = update.paragraphs[position]
    text = paragraph.text if update.keep_text else None
    return paragraph.language, paragraph.n_words, len(paragraph.text), text


def _remove(connection: sqlite3.Connection, ids: Sequence[int]) -> None:
    connection.executemany("DELETE FROM paragraphs WHERE id = ?", [(i,) for i in ids])


def _move(connection: sqlite3.Connection, update: DocumentUpdate, todo: Plan) -> None:
    """Set the positions of kept rows that moved, and store or drop their text as wanted now."""
    connection.executemany(
        "UPDATE paragraphs SET position = ? WHERE id = ?",
        [(position, row.id) for position, row in todo.kept if row.position != position],
    )
    connection.executemany(
        "UPDATE paragraphs SET text = ? WHERE id = ?",
        [
            (update.paragraphs[position].text if update.keep_text else None, row.id)
            for position, row in todo.kept
            if bool(row.has_text) != update.keep_text
        ],
    )


def _next_id(connection: sqlite3.Connection) -> int:
    found = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'paragraphs'")
    row = found.fetchone()
    return 1 if row is None else int(row[0]) + 1


def _put_vectors(
    connection: sqlite3.Connection,
    key: int,
    update: DocumentUpdate,
    rows: Sequence[tuple[int, int]],
) -> VectorRows | None:
    if not rows:
        return None
    digests = update.digests
    missing = sum(digests[position] not in update.vectors for _, position in rows)
    if missing:
        raise IndexFault(
            f"{missing} paragraphs came without a vector; the document was not changed."
        )
    blobs = {
        digest: np.asarray(vector, VECTOR_DTYPE).tobytes()
        for digest, vector in update.vectors.items()
    }
    connection.executemany(
        "INSERT INTO vectors (paragraph, space, vector) VALUES (?, ?, ?)",
        [(row_id, update.space, blobs[digests[position]]) for row_id, position in rows],
    )
    n_dimensions = len(next(iter(blobs.values()))) // VECTOR_DTYPE.itemsize
    found = [
        (row_id, key, update.paragraphs[position].language, blobs[digests[position]])
        for row_id, position in rows
    ]
    return vector_rows(found, {key: update.source.id}, n_dimensions)
