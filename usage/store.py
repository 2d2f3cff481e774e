"""The file of the statistics: private, bounded, overwritten when it is forgotten."""

from __future__ import annotations

import contextlib
import hashlib
import os
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from usage.errors import UsageFault
from usage.records import Answer, Asked, Erased, Outcome, Suggestion, UsageConsent

APPLICATION_ID = 0x50534B55  # "PSKU"
SCHEMA_VERSION = 1
KEPT_DAYS = 400
MAX_SUGGESTIONS = 100_000
MAX_PROMPTS = 5_000

_SCHEMA = Path(__file__).with_name("schema.sql")
_PRAGMAS = (
    "journal_mode = WAL",
    "synchronous = NORMAL",  # a power cut may cost the last counts, never the file
    "secure_delete = ON",
    "foreign_keys = ON",
    "temp_store = MEMORY",  # nothing of the user's in temporary files
    "trusted_schema = OFF",
    "busy_timeout = 2000",
)
_SUFFIXES = ("", "-wal", "-shm")


class UsageStore:
    """One connection, one thread. Without a file there is no consent, and asking makes none.

    Raises UsageFault. clock: Unix seconds.
    """

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.time) -> None:
        self._path, self._clock = path, clock
        self._db: sqlite3.Connection | None = None
        if path.exists():
            try:
                self._open()
                self.prune()
            except UsageFault:
                self.close()
                raise

    def close(self) -> None:
        """Close the file; idempotent."""
        if self._db is not None:
            with contextlib.suppress(sqlite3.Error):
                self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            self._db.close()
            self._db = None

    # -- consent --------------------------------------------------------------------------------

    def consent(self) -> UsageConsent:
        """Return what was decided."""
        found = dict(self._rows("SELECT name, value FROM meta"))
        return UsageConsent(
            counts=found.get("counts") == 1,
            texts=found.get("texts") == 1,
            counts_decided_at=found.get("counts_decided_at"),
            texts_decided_at=found.get("texts_decided_at"),
        )

    def decide(self, name: str, allowed: bool) -> None:
        """Set one decision, "counts" or "texts"."""
        with self._transaction() as db:
            for key, value in ((name, int(allowed)), (f"{name}_decided_at", self._clock())):
                db.execute(
                    "INSERT INTO meta (name, value) VALUES (?, ?) "
                    "ON CONFLICT (name) DO UPDATE SET value = excluded.value",
                    (key, value),
                )

    # -- counts ---------------------------------------------------------------------------------

    def add_features(self, counts: Mapping[tuple[str, str], int]) -> None:
        """Add to the counts of (day, feature)."""
        with self._transaction() as db:
            db.executemany(
                "INSERT INTO features (day, feature, n) VALUES (?, ?, ?) "
                "ON CONFLICT (day, feature) DO UPDATE SET n = n + excluded.n",
                [(day, feature, n) for (day, feature), n in counts.items()],
            )

    def features(self) -> list[tuple[str, str, int]]:
        """(day, feature, n), in order."""
        return self._rows("SELECT day, feature, n FROM features ORDER BY day, feature")

    def add_suggestion(self, answer: Answer, choice: int) -> int:
        """Keep a choice that was shown; returns its key."""
        with self._transaction() as db:
            added = db.execute(
                "INSERT INTO suggestions (day, task, adapters, min_p, persona_strength, outcome, "
                "n_chars, accepted_chars) VALUES (?, ?, ?, ?, ?, 'shown', ?, 0)",
                (
                    self._today(),
                    answer.task,
                    answer.adapters,
                    answer.min_p,
                    answer.persona_strength,
                    answer.lengths[choice],
                ),
            )
        assert added.lastrowid is not None
        return added.lastrowid

    def set_outcome(self, key: int, outcome: Outcome, accepted_chars: int) -> None:
        """Say what became of a suggestion; the newest outcome holds."""
        with self._transaction() as db:
            db.execute(
                "UPDATE suggestions SET outcome = ?, accepted_chars = ? WHERE key = ?",
                (outcome, accepted_chars, key),
            )

    def suggestions(self) -> Iterator[Suggestion]:
        """Every suggestion, oldest first."""
        columns = "day, task, adapters, min_p, persona_strength, outcome, n_chars, accepted_chars"
        names = columns.split(", ")
        for row in self._rows(f"SELECT {columns} FROM suggestions ORDER BY key"):
            yield Suggestion(**dict(zip(names, row, strict=True)))

    # -- texts ----------------------------------------------------------------------------------

    def judge(self, answer: Answer, verdicts: Mapping[str, bool]) -> None:
        """Keep texts that were found good or bad after the prompt of `answer`."""
        asked = answer.asked
        if asked is None or not verdicts:
            return
        with self._transaction() as db:
            key = self._prompt_key(db, answer, asked)
            db.executemany(
                "INSERT INTO judgements (prompt, text, is_good, judged_at) VALUES (?, ?, ?, ?) "
                "ON CONFLICT (prompt, text) DO UPDATE SET is_good = excluded.is_good, "
                "judged_at = excluded.judged_at",
                [(key, text, int(is_good), self._clock()) for text, is_good in verdicts.items()],
            )

    def judged(self) -> list[tuple[Any, ...]]:
        """(prompt's columns from task to adapters, text, is_good), by prompt, oldest first."""
        return self._rows(
            "SELECT p.key, p.task, p.prompt, p.suffix, p.before, p.after, p.instruction, p.language, "
            "p.adapters, j.text, j.is_good FROM prompts p JOIN judgements j ON j.prompt = p.key "
            "ORDER BY p.key, j.judged_at, j.text"
        )

    def n_texts(self) -> int:
        """Texts that are kept."""
        found = self._rows(
            "SELECT (SELECT count(*) FROM prompts) + (SELECT count(*) FROM judgements)"
        )
        return int(found[0][0]) if found else 0

    def erase_texts(self) -> int:
        """Overwrite every text; returns how many there were."""
        n_texts = self.n_texts()
        if n_texts:
            with self._transaction() as db:
                db.execute("DELETE FROM prompts")
            self._compact()
        return n_texts

    # -- the whole ------------------------------------------------------------------------------

    def prune(self) -> None:
        """Keep the file bounded: nothing older than KEPT_DAYS, and only the newest of very many."""
        oldest = datetime.fromtimestamp(self._clock(), UTC) - timedelta(days=KEPT_DAYS)
        day = oldest.date().isoformat()
        with self._transaction() as db:
            db.execute("DELETE FROM features WHERE day < ?", (day,))
            db.execute(
                "DELETE FROM suggestions WHERE day < ? OR key <= "
                "(SELECT coalesce(max(key), 0) - ? FROM suggestions)",
                (day, MAX_SUGGESTIONS),
            )
            db.execute(
                "DELETE FROM prompts WHERE asked_at < ? OR key <= "
                "(SELECT coalesce(max(key), 0) - ? FROM prompts)",
                (oldest.timestamp(), MAX_PROMPTS),
            )

    def erase(self) -> Erased:
        """Overwrite and remove the file; what was decided goes with it."""
        found = self._rows("SELECT count(*) FROM suggestions")
        n_texts = self.n_texts()
        self.close()
        n_bytes = erase_file(self._path)
        return Erased(n_suggestions=found[0][0] if found else 0, n_texts=n_texts, n_bytes=n_bytes)

    # -- helpers --------------------------------------------------------------------------------

    def _prompt_key(self, db: sqlite3.Connection, answer: Answer, asked: Asked) -> int:
        parts = (answer.task, asked.prompt, asked.suffix, asked.before, asked.after)
        digest = _digest(*parts, asked.instruction, answer.adapters)
        found = db.execute("SELECT key FROM prompts WHERE digest = ?", (digest,)).fetchone()
        if found is not None:
            return int(found[0])
        added = db.execute(
            "INSERT INTO prompts (digest, task, prompt, suffix, before, after, instruction, language, "
            "adapters, asked_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (digest, *parts, asked.instruction, asked.language, answer.adapters, self._clock()),
        )
        assert added.lastrowid is not None
        return added.lastrowid

    def _compact(self) -> None:
        """Give the pages back: what was overwritten is then in neither the file nor its log."""
        assert self._db is not None
        with _translated():
            self._db.execute("VACUUM")
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def _rows(self, sql: str) -> list[Any]:
        if self._db is None:
            return []
        with _translated():
            return self._db.execute(sql).fetchall()

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        if self._db is None:
            self._open()
        assert self._db is not None
        with _translated():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    def _open(self) -> None:
        """Open the file, made private before SQLite could make it with other rights."""
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW
        descriptor = os.open(self._path, flags, 0o600)
        os.fchmod(descriptor, 0o600)
        os.close(descriptor)
        with _translated():
            # One thread at a time uses it, the one of the desk's executor; tests close it on another.
            self._db = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
            fullfsync = ("fullfsync = ON",) if sys.platform == "darwin" else ()
            for pragma in (*_PRAGMAS, *fullfsync):
                self._db.execute(f"PRAGMA {pragma}").fetchall()
            self._migrate(self._db)

    def _migrate(self, db: sqlite3.Connection) -> None:
        ((version,),) = db.execute("PRAGMA user_version").fetchall()
        if version > SCHEMA_VERSION:
            raise UsageFault("The statistics were made by a newer version; install that one again.")
        if version == SCHEMA_VERSION:
            return
        db.executescript(
            f"BEGIN IMMEDIATE;{_SCHEMA.read_text()}"
            f"PRAGMA application_id = {APPLICATION_ID};PRAGMA user_version = {SCHEMA_VERSION};COMMIT;"
        )

    def _today(self) -> str:
        return datetime.fromtimestamp(self._clock(), UTC).date().isoformat()


def erase_file(path: Path) -> int:
    """Overwrite and remove the statistics at `path`, readable or not; returns the bytes that were there."""
    n_bytes = 0
    for suffix in _SUFFIXES:
        file = path.with_name(path.name + suffix)
        with contextlib.suppress(FileNotFoundError):
            n_bytes += _overwrite(file)
            file.unlink()
    return n_bytes


def _digest(*parts: str) -> bytes:
    raws = [part.encode("utf-8", "surrogatepass") for part in parts]
    return hashlib.blake2b(
        b"".join(len(raw).to_bytes(8, "little") + raw for raw in raws), digest_size=16
    ).digest()


def _overwrite(path: Path) -> int:
    """Fill a file with zeros, to its length; returns that."""
    n_bytes = path.stat().st_size
    with path.open("r+b", buffering=0) as file:
        file.write(bytes(n_bytes))
        os.fsync(file.fileno())
    return n_bytes


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    """Turn sqlite3's errors into ours; their messages never hold values."""
    try:
        yield
    except sqlite3.Error as error:
        name = getattr(error, "sqlite_errorname", None) or type(error).__name__
        raise UsageFault(f"The usage statistics could not be read or written ({name}).") from error
