"""A progress bar on stderr for the indexer's jobs, if that is a terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


class JobProgress:
    """Two bars: documents so far, and the paragraphs of the one in work. Without a terminal: nothing."""

    def __init__(self, bars: Progress | None, n_documents: int | None) -> None:
        self._bars = bars
        self._documents: TaskID | None = None
        self._paragraphs: TaskID | None = None
        if bars is not None:
            if n_documents is not None:
                self._documents = bars.add_task("documents", total=n_documents)
            self._paragraphs = bars.add_task("paragraphs", total=None)

    def show(self, job: dict[str, Any]) -> None:
        """Show a job as it is now."""
        if self._bars is None or self._paragraphs is None:
            return
        total = job["n_paragraphs"] or None
        self._bars.update(
            self._paragraphs,
            total=total,
            completed=job["n_embedded"] + job["n_kept"],
            description=f"{job['kind']}: {job['state']}",
        )

    def advance(self) -> None:
        """One document is done."""
        if self._bars is not None and self._documents is not None:
            self._bars.advance(self._documents)


@contextmanager
def follow(n_documents: int | None) -> Iterator[JobProgress]:
    """n_documents: how many there will be, None when it is one job of unknown size."""
    if not sys.stderr.isatty():
        yield JobProgress(None, n_documents)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        yield JobProgress(bars, n_documents)
