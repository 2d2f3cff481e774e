"""At every start: bring the database into a state that an uninterrupted process would have left."""

from __future__ import annotations

import time

from indexer import spaces
from indexer.job_log import interrupt_jobs
from indexer.records import Job
from indexer.store import Store


def repair(store: Store) -> tuple[list[str], list[Job]]:
    """Return what had to be repaired, as codes, and the jobs that an earlier process left unfinished.

    SQLite's transactions leave nothing half done; this is for what files of other versions, other programs
    and broken disks may hold.
    """
    codes = list(store.db.repairs)
    db = store.db
    with db.lock:
        interrupted = interrupt_jobs(db, time.time())
        if interrupted:
            codes.append("jobs_interrupted")
        if db.rows("PRAGMA foreign_key_check"):
            with db.transaction() as connection:
                for table, column, owner in (
                    ("paragraphs", "document", "SELECT key FROM documents"),
                    ("vectors", "paragraph", "SELECT id FROM paragraphs"),
                    ("vectors", "space", "SELECT key FROM embedding_space"),
                    ("files", "folder", "SELECT name FROM folders"),
                ):
                    connection.execute(f"DELETE FROM {table} WHERE {column} NOT IN ({owner})")
            codes.append("orphans_removed")
        if _repair_vectors(store):
            codes.append("vectors_removed")
        if _repair_counts(store):
            codes.append("counts_corrected")
    if spaces.drop_retired(db):
        codes.append("old_space_removed")
    return codes, interrupted


def _repair_vectors(store: Store) -> int:
    """Remove vectors of a wrong length, and mark the documents that have too few."""
    with store.db.transaction() as connection:
        n_removed = connection.execute(
            "DELETE FROM vectors WHERE length(vector) != 2 * "
            "(SELECT n_dimensions FROM embedding_space s WHERE s.key = space)"
        ).rowcount
        if n_removed:
            connection.execute(
                "UPDATE documents SET stale = 1 WHERE key IN (SELECT p.document FROM paragraphs p "
                "WHERE NOT EXISTS (SELECT 1 FROM vectors v JOIN embedding_space s ON s.key = v.space "
                "WHERE v.paragraph = p.id AND s.state = 'active'))"
            )
    return n_removed


def _repair_counts(store: Store) -> int:
    with store.db.transaction() as connection:
        return connection.execute(
            "UPDATE documents SET n_paragraphs = c.n_rows FROM "
            "(SELECT d.key, count(p.id) AS n_rows FROM documents d "
            "LEFT JOIN paragraphs p ON p.document = d.key GROUP BY d.key) AS c "
            "WHERE c.key = documents.key AND c.n_rows != documents.n_paragraphs"
        ).rowcount
