"""Hints that something in a watched folder has changed. What has changed is found out by looking.

Watchers lose events, double them and die silently: so an event only marks its folder, and each folder is
looked through at the start and every few hours in any case.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

log = logging.getLogger("pushkin.indexer")


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchOptions:
    """quiet_ms: nothing may have happened for that long; longest_ms: but do not wait longer than that."""

    quiet_ms: int = 2_000
    longest_ms: int = 30_000
    look_every_s: float = 6 * 3600
    retry_s: float = 60.0


class FolderWatch:
    """One thread for all folders. on_change: called on it with a folder's name; must not block."""

    def __init__(
        self,
        folders: Mapping[str, Path],
        on_change: Callable[[str], None],
        options: WatchOptions | None = None,
    ) -> None:
        self._roots = {name: root.resolve() for name, root in folders.items()}
        self._on_change = on_change
        self._options = options or WatchOptions()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="folder-watch", daemon=True)

    def start(self) -> None:
        """Begin to watch; the first look at everything is the caller's."""
        self._thread.start()

    def close(self, timeout_s: float = 3.0) -> None:
        """Stop watching; idempotent."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    def _run(self) -> None:
        # It would log the names of files.
        logging.getLogger("watchfiles").setLevel(logging.WARNING)
        while not self._stopping.is_set():
            try:
                self._watch()
            except Exception as error:  # noqa: BLE001 - without a watcher there are still the looks
                log.warning("watching failed", extra={"error_type": type(error).__qualname__})
            # A folder appeared, a limit was hit, events were lost: look at everything, then watch again.
            if not self._stopping.wait(self._options.retry_s):
                self._all_changed()

    def _watch(self) -> None:
        import watchfiles

        there = [root for root in self._roots.values() if root.is_dir()]
        if not there:
            return
        look_at = time.monotonic() + self._options.look_every_s
        for changes in watchfiles.watch(
            *there,
            watch_filter=None,
            debounce=self._options.longest_ms,
            step=self._options.quiet_ms,
            stop_event=self._stopping,
            rust_timeout=int(self._options.retry_s * 1000),
            yield_on_timeout=True,
            raise_interrupt=False,
            ignore_permission_denied=True,
        ):
            for name, root in self._roots.items():
                if any(Path(path).is_relative_to(root) for _, path in changes):
                    self._on_change(name)
            if time.monotonic() >= look_at:
                look_at = time.monotonic() + self._options.look_every_s
                self._all_changed()
            if any(root.is_dir() != (root in there) for root in self._roots.values()):
                return

    def _all_changed(self) -> None:
        for name in self._roots:
            self._on_change(name)
