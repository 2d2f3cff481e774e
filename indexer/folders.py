"""The watched folders of an open index: which they are, and when each is looked through."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from indexer.consent import Consent
from indexer.errors import ConsentRequired, DocumentNotFound
from indexer.indexing import EventSink, Indexer, Progress
from indexer.pipeline import Pipeline
from indexer.reconcile import ABSENT_GRACE_S, Folder, forget_folder, reconcile
from indexer.records import Job
from indexer.watch import FolderWatch, WatchOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderOptions:
    """allowed: folders that may be watched, by name. absent_grace_s: see `reconcile.Folder`."""

    allowed: Mapping[str, Path] = field(default_factory=dict)
    watch: WatchOptions = field(default_factory=WatchOptions)
    absent_grace_s: float = ABSENT_GRACE_S


class WatchedFolders:
    """Used by one thread, except `look_through`."""

    def __init__(
        self, options: FolderOptions, indexer: Indexer, pipeline: Pipeline, sink: EventSink
    ) -> None:
        self._allowed = options.allowed
        self._indexer, self._pipeline, self._sink = indexer, pipeline, sink
        self._options = options
        self._watch: FolderWatch | None = None

    @property
    def consent(self) -> Consent:
        return self._pipeline.consent

    def names(self) -> list[str]:
        """Folders that the user agreed to and that the configuration (still) names."""
        return [name for name in self.consent.state().folders if name in self._allowed]

    def start(self) -> None:
        """Watch, and look through every folder once."""
        self._restart()
        self.look_through_all()

    def close(self) -> None:
        """Stop watching; idempotent."""
        if self._watch is not None:
            self._watch.close()
            self._watch = None

    def add(self, name: str, *, consent_given: bool) -> Job:
        """Begin to watch a folder. Raises DocumentNotFound or ConsentRequired."""
        if name not in self._allowed:
            known = ", ".join(sorted(self._allowed)) or "none"
            raise DocumentNotFound(
                f"The configuration has no folder of that name; it has: {known}.", param="name"
            )
        choice = self.consent.global_consent()
        if choice == "off" or (choice == "ask" and not consent_given):
            raise ConsentRequired(
                "A folder is read only with the user's consent: send `consent: true`, "
                "and let the global consent be `ask` or `on`.",
                param="consent",
            )
        self.consent.add_folder(name, consented=consent_given)
        self._restart()
        return self.look_through(name)

    def remove(self, name: str) -> int:
        """Stop watching a folder; its documents leave the index. Returns how many those were."""
        if name not in self.consent.state().folders:
            raise DocumentNotFound("No folder of that name is watched.", param="name")
        self._indexer.cancel_background(_job_name(name))
        n_documents = forget_folder(self._pipeline, name)
        self._restart()
        return n_documents

    def retry_refused(self) -> None:
        """Look again at files that were refused: decisions have changed."""
        with self._pipeline.store.db.transaction() as connection:
            connection.execute("DELETE FROM files WHERE error_code = 'consent_required'")
        self.look_through_all()

    def look_through_all(self) -> None:
        """Look through every watched folder when nothing else is to be done."""
        for name in self.names():
            self.look_through(name)

    def look_through(self, name: str) -> Job:
        """Look through one folder when nothing else is to be done; any thread."""
        folder = Folder(
            name=name,
            root=self._allowed[name],
            call_again=lambda seconds: self._indexer.call_later(
                _job_name(name), seconds, lambda: self._changed(name)
            ),
            sink=self._sink,
            absent_grace_s=self._options.absent_grace_s,
        )

        def work(progress: Progress) -> Iterator[None]:
            watcher = self._indexer.background_watcher(progress)
            return reconcile(folder, self._pipeline, watcher, progress)

        return self._indexer.start_background("reconcile", _job_name(name), work)

    def _changed(self, name: str) -> None:
        if not self._indexer.is_stopping:
            self.look_through(name)

    def _restart(self) -> None:
        self.close()
        folders = {name: self._allowed[name] for name in self.names()}
        if folders:
            self._watch = FolderWatch(folders, self._changed, self._options.watch)
            self._watch.start()


def _job_name(folder: str) -> str:
    return f"folder {folder}"
