"""Jobs in the database: what was asked for and how it ended, without any content.

What a push brought is in memory only. So a job that a killed process leaves unfinished cannot be taken up
again; it is marked as interrupted, and whoever pushed pushes once more.
"""

from __future__ import annotations

import secrets
from dataclasses import replace
from typing import Any, cast

from indexer.database import Database
from indexer.records import Job, JobKind, JobState

KEPT_JOBS = 500

_COLUMNS = (
    "id, kind, state, document, n_paragraphs, n_embedded, n_kept, n_removed, n_documents, n_failed, "
    "error_code, queued_at, finished_at"
)
_OPEN: tuple[JobState, ...] = ("queued", "running")


def new_job(kind: JobKind, now: float, document_id: str | None = None) -> Job:
    """A job that waits; nothing is written yet."""
    return Job(
        id=f"job_{secrets.token_hex(12)}",
        kind=kind,
        state="queued",
        document_id=document_id,
        queued_at=now,
    )


def add_job(db: Database, job: Job) -> None:
    """Write a new job, and forget the oldest finished ones."""
    with db.transaction(durable=False) as connection:
        connection.execute(
            f"INSERT INTO jobs ({_COLUMNS}) VALUES ({', '.join('?' * 13)})", _values(job)
        )
        connection.execute(
            "DELETE FROM jobs WHERE finished_at IS NOT NULL AND rowid NOT IN "
            "(SELECT rowid FROM jobs ORDER BY rowid DESC LIMIT ?)",
            (KEPT_JOBS,),
        )


def save_job(db: Database, job: Job) -> None:
    """Write a job's new state; nothing if its document was deleted meanwhile, and the job with it."""
    marks = ", ".join(f"{name.strip()} = ?" for name in _COLUMNS.split(","))
    with db.transaction(durable=False) as connection:
        connection.execute(f"UPDATE jobs SET {marks} WHERE id = ?", (*_values(job), job.id))


def last_job(db: Database, document_id: str) -> Job | None:
    """The newest job of a document."""
    found = db.rows(
        f"SELECT {_COLUMNS} FROM jobs WHERE document = ? ORDER BY rowid DESC LIMIT 1",
        (document_id,),
    )
    return _job(found[0]) if found else None


def unfinished_jobs(db: Database) -> list[Job]:
    """Jobs that wait or run."""
    found = db.rows(f"SELECT {_COLUMNS} FROM jobs WHERE state IN (?, ?) ORDER BY rowid", _OPEN)
    return [_job(row) for row in found]


def interrupt_jobs(db: Database, now: float) -> list[Job]:
    """Mark what an earlier process left unfinished; returns those jobs."""
    interrupted = [
        replace(job, state="interrupted", error_code="interrupted", finished_at=now)
        for job in unfinished_jobs(db)
    ]
    for job in interrupted:
        save_job(db, job)
    return interrupted


def _values(job: Job) -> tuple[object, ...]:
    return (
        job.id,
        job.kind,
        job.state,
        job.document_id,
        job.n_paragraphs,
        job.n_embedded,
        job.n_kept,
        job.n_removed,
        job.n_documents,
        job.n_failed,
        job.error_code,
        job.queued_at,
        job.finished_at,
    )


def _job(row: tuple[Any, ...]) -> Job:
    job_id, kind, state, document_id, *counts, error_code, queued_at, finished_at = row
    names = ("n_paragraphs", "n_embedded", "n_kept", "n_removed", "n_documents", "n_failed")
    return Job(
        id=job_id,
        kind=cast("JobKind", kind),
        state=cast("JobState", state),
        document_id=document_id,
        error_code=error_code,
        queued_at=queued_at,
        finished_at=finished_at,
        **dict(zip(names, counts, strict=True)),
    )
