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

_STEP_MS = 500  # between two looks at whether to stop


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
        known = self._present()
        while not self._stopping.is_set():
            there = self._present()
            for name in there - known:
                self._on_change(name)
            known = there
            try:
                if there:
                    self._watch([self._roots[name] for name in there])
            except Exception as error:  # noqa: BLE001 - without a watcher there are still the looks
                log.warning("watching failed", extra={"error_type": type(error).__qualname__})
                known = set()  # events were lost: look at everything, then watch again
            if known == self._present() or not known:
                self._stopping.wait(self._options.retry_s)

    def _present(self) -> set[str]:
        return {name for name, root in self._roots.items() if root.is_dir()}

    def _watch(self, there: list[Path]) -> None:
        """Until `close`, or until a folder comes or goes."""
        import watchfiles

        dirty = _Dirty(self._options)
        look_at = time.monotonic() + self._options.look_every_s
        step_ms = min(_STEP_MS, self._options.quiet_ms)
        for changes in watchfiles.watch(
            *there,
            watch_filter=None,
            debounce=step_ms,
            step=step_ms,
            stop_event=self._stopping,
            rust_timeout=step_ms,
            yield_on_timeout=True,
            raise_interrupt=False,
            ignore_permission_denied=True,
        ):
            for name, root in self._roots.items():
                if any(Path(path).is_relative_to(root) for _, path in changes):
                    dirty.mark(name)
            if time.monotonic() >= look_at:
                look_at = time.monotonic() + self._options.look_every_s
                for name in self._roots:
                    dirty.mark(name)
            for name in dirty.settled():
                self._on_change(name)
            if any(root.is_dir() != (root in there) for root in self._roots.values()):
                return


class _Dirty:
    """Which folders have changed, and for how long they have been quiet since."""

    def __init__(self, options: WatchOptions) -> None:
        self._options = options
        self._first: dict[str, float] = {}
        self._last: dict[str, float] = {}

    def mark(self, name: str) -> None:
        now = time.monotonic()
        self._first.setdefault(name, now)
        self._last[name] = now

    def settled(self) -> list[str]:
        """Those that are quiet now, or have not been for too long; they are clean afterwards."""
        now = time.monotonic()
        quiet_s, longest_s = self._options.quiet_ms / 1000, self._options.longest_ms / 1000
        found = [
            name
            for name, first in self._first.items()
            if now - self._last[name] >= quiet_s or now - first >= longest_s
        ]
        for name in found:
            del self._first[name], self._last[name]
        return found
