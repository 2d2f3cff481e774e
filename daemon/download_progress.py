"""A progress bar on stderr for a download, if that is a terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from daemon.model_download import Progress


@contextmanager
def download_bar(name: str) -> Iterator[Progress]:
    """What a download tells its progress to."""
    if not sys.stderr.isatty():
        yield Progress()
        return
    from rich import progress
    from rich.console import Console

    columns = (
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.DownloadColumn(),
        progress.TransferSpeedColumn(),
        progress.TimeRemainingColumn(),
    )
    with progress.Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task(name, total=None)
        yield Progress(
            lambda total: bars.update(task, total=total), lambda n: bars.advance(task, n)
        )
