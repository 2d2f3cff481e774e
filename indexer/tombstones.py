"""What was forgotten, as keyed digests: enough to recognise it when it comes back, and nothing more."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from typing import Literal

from indexer.database import Database

Kind = Literal["document", "path", "content", "text"]
Digests = Mapping[Kind, bytes]


def digests_of(
    db: Database,
    document_id: str,
    *,
    content: bytes | None = None,
    text: bytes | None = None,
    place: tuple[str, str] | None = None,
) -> dict[Kind, bytes]:
    """What a document is recognised by. content, text: digests, if known. place: folder and path in it."""
    digests: dict[Kind, bytes] = {"document": db.digest("document", document_id)}
    if content is not None:
        digests["content"] = content
    if text is not None:
        digests["text"] = text
    if place is not None:
        digests["path"] = db.digest("path", *place)
    return digests


def put(connection: sqlite3.Connection, digests: Digests, now: float) -> None:
    """Leave tombstones, inside the caller's transaction."""
    connection.executemany(
        "INSERT OR REPLACE INTO tombstones (kind, digest, deleted_at) VALUES (?, ?, ?)",
        [(kind, digest, now) for kind, digest in digests.items()],
    )


def lift(connection: sqlite3.Connection, digests: Digests) -> None:
    """Remove tombstones, inside the caller's transaction."""
    connection.executemany(
        "DELETE FROM tombstones WHERE kind = ? AND digest = ?", list(digests.items())
    )


def is_forgotten(db: Database, digests: Digests) -> bool:
    """Whether any of these was forgotten."""
    marks = " OR ".join("(kind = ? AND digest = ?)" for _ in digests)
    values = [value for pair in digests.items() for value in pair]
    return bool(db.rows(f"SELECT 1 FROM tombstones WHERE {marks} LIMIT 1", values))
