"""Embedding spaces: one is served, the next one is filled beside it, and the switch is one transaction."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from typing import Literal

from indexer.database import Database
from indexer.types import EmbeddingSpace

_BATCH = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class SpaceRow:
    """A space of the database."""

    key: int
    space: EmbeddingSpace
    state: Literal["active", "preparing", "retired"]


def space_in_state(db: Database, state: Literal["active", "preparing"]) -> SpaceRow | None:
    """Return the space that is served, or the one that is being filled."""
    found = db.rows("SELECT key, id, n_dimensions FROM embedding_space WHERE state = ?", (state,))
    if not found:
        return None
    ((key, space_id, n_dimensions),) = found
    return SpaceRow(
        key=key, space=EmbeddingSpace(id=space_id, n_dimensions=n_dimensions), state=state
    )


def space_to_write(db: Database, space: EmbeddingSpace) -> SpaceRow:
    """Return the row that vectors of `space` go to: the served one, or one that is being filled.

    The first space of an empty index is served at once. Any other begins to be filled: all documents are
    stale until they have vectors in it, and an unfinished third space is given up.
    """
    with db.lock:
        active, preparing = space_in_state(db, "active"), space_in_state(db, "preparing")
        if active is not None and active.space == space:
            if preparing is not None:
                _give_up(db, preparing)
            return active
        if preparing is not None and preparing.space == space:
            return preparing
        ((is_empty,),) = db.rows("SELECT NOT EXISTS (SELECT 1 FROM paragraphs)")
        with db.transaction() as connection:
            connection.execute(
                "UPDATE embedding_space SET state = 'retired' WHERE state = 'preparing' OR ?",
                (is_empty,),
            )
            state: Literal["active", "preparing"] = "active" if is_empty else "preparing"
            row = connection.execute(
                "INSERT INTO embedding_space (id, n_dimensions, state) VALUES (?, ?, ?)",
                (space.id, space.n_dimensions, state),
            )
            key = row.lastrowid
            assert key is not None
            if not is_empty:
                connection.execute("UPDATE documents SET stale = 1 WHERE n_paragraphs > 0")
        return SpaceRow(key=key, space=space, state=state)


def n_without_vector(db: Database, space: int) -> int:
    """How many paragraphs have no vector in a space."""
    ((n_missing,),) = db.rows(
        "SELECT (SELECT count(*) FROM paragraphs) - (SELECT count(*) FROM vectors WHERE space = ?)",
        (space,),
    )
    return int(n_missing)


def switch(connection: sqlite3.Connection) -> None:
    """Serve the space that was filled, inside the caller's transaction."""
    connection.execute("UPDATE embedding_space SET state = 'retired' WHERE state = 'active'")
    connection.execute("UPDATE embedding_space SET state = 'active' WHERE state = 'preparing'")


def drop_retired(db: Database) -> int:
    """Delete the vectors of retired spaces, some thousands a transaction; returns how many there were."""
    n_dropped = 0
    for (key,) in db.rows("SELECT key FROM embedding_space WHERE state = 'retired'"):
        while True:
            with db.transaction() as connection:
                n_rows = connection.execute(
                    "DELETE FROM vectors WHERE rowid IN "
                    "(SELECT rowid FROM vectors WHERE space = ? LIMIT ?)",
                    (key, _BATCH),
                ).rowcount
                if not n_rows:
                    connection.execute("DELETE FROM embedding_space WHERE key = ?", (key,))
                    break
            n_dropped += n_rows
    if n_dropped:
        db.checkpoint()
    return n_dropped


def _give_up(db: Database, preparing: SpaceRow) -> None:
    """Keep the served space. What has no vector in it stays stale."""
    active = space_in_state(db, "active")
    assert active is not None
    with db.transaction() as connection:
        connection.execute(
            "UPDATE embedding_space SET state = 'retired' WHERE key = ?", (preparing.key,)
        )
        connection.execute(
            "UPDATE documents SET stale = EXISTS (SELECT 1 FROM paragraphs p WHERE "
            "p.document = documents.key AND NOT EXISTS "
            "(SELECT 1 FROM vectors v WHERE v.paragraph = p.id AND v.space = ?))",
            (active.key,),
        )
