"""The SQLite file: opened with the settings that keep promises, migrated, checked, moved aside if broken."""

from __future__ import annotations

import contextlib
import hashlib
import sqlite3
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from indexer.errors import IndexDamaged, IndexFault
from indexer.index_folder import IndexFolder

APPLICATION_ID = 0x50534B4E  # "PSKN"
SCHEMA_VERSION = 1
DIGEST_BYTES = 16

_SCHEMA = Path(__file__).with_name("schema.sql")
# From the version that is the key to the next one.
_MIGRATIONS: dict[int, str] = {}

_PRAGMAS = (
    "journal_mode = WAL",
    # Every commit is on the disk when it returns: an answer "indexed" or "forgotten" survives a power cut.
    "synchronous = FULL",
    "secure_delete = ON",
    "foreign_keys = ON",
    "temp_store = MEMORY",  # nothing of the user's in temporary files
    "trusted_schema = OFF",
    "cell_size_check = ON",
    "busy_timeout = 2000",
)
# On macOS fsync leaves the data in the drive's own cache.
_MACOS_PRAGMAS = ("fullfsync = ON", "checkpoint_fullfsync = ON")


class Database:
    """One connection, used by any thread behind `lock`; reentrant, so that calls can be combined.

    repairs: what opening had to do, as codes: "database_moved_aside", "secret_replaced".
    """

    def __init__(self, path: Path) -> None:
        self.lock = threading.RLock()
        self.repairs: list[str] = []
        self.folder = IndexFolder(path)
        try:
            self._open()
        except BaseException:
            self.folder.close()
            raise

    def close(self) -> None:
        """Close the connection and let other processes in; idempotent."""
        with self.lock:
            with contextlib.suppress(sqlite3.Error):
                self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            self._connection.close()
            self.folder.close()

    @contextlib.contextmanager
    def transaction(self, *, durable: bool = True) -> Iterator[sqlite3.Connection]:
        """All of what happens inside, or nothing. Must not be nested. Raises IndexFault.

        durable: False lets the last such changes be lost in a power cut (not in a crash of this process):
        for what is found out again, such as the states of jobs.
        """
        with self.lock, _translated():
            connection = self._connection
            if not durable:
                connection.execute("PRAGMA synchronous = NORMAL")
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise
            finally:
                if not durable:
                    connection.execute("PRAGMA synchronous = FULL")

    def rows(self, sql: str, parameters: Sequence[object] = ()) -> list[Any]:
        """Run one statement that reads and return all its rows. Raises IndexFault."""
        with self.lock, _translated():
            return self._connection.execute(sql, parameters).fetchall()

    def checkpoint(self) -> bool:
        """Move everything into the main file and empty the log; False if a reader was in the way.

        Only after this is what `secure_delete` overwrote gone from both files.
        """
        with self.lock, _translated():
            ((busy, n_frames, n_moved),) = self._connection.execute(
                "PRAGMA wal_checkpoint(TRUNCATE)"
            ).fetchall()
            return bool(busy == 0 and n_frames == n_moved)

    def digest(self, *parts: str | bytes, size: int = DIGEST_BYTES) -> bytes:
        """Return the keyed digest of some parts; ("ab", "c") and ("a", "bc") differ."""
        raws = [p.encode("utf-8", "surrogatepass") if isinstance(p, str) else p for p in parts]
        message = b"".join(len(raw).to_bytes(8, "little") + raw for raw in raws)
        return hashlib.blake2b(message, key=self._secret, digest_size=size).digest()

    def is_sound(self) -> bool:
        """Whether SQLite's own full check finds nothing; a second or two for 100,000 paragraphs."""
        try:
            return self.rows("PRAGMA integrity_check(1)") == [("ok",)]
        except IndexFault:
            return False

    def n_bytes(self) -> int:
        """Size of the database on disk, log included."""
        files = (
            self.folder.database.with_name(self.folder.database.name + s) for s in ("", "-wal")
        )
        return sum(path.stat().st_size for path in files if path.exists())

    def erase(self) -> int:
        """Overwrite and remove everything, and begin anew with another secret; returns bytes erased."""
        with self.lock:
            with contextlib.suppress(sqlite3.Error):
                self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            self._connection.close()
            n_bytes = self.folder.erase()
            self._open()
            return n_bytes

    def _open(self) -> None:
        self._secret = self.folder.secret()
        try:
            self._connection = self._connect()
        except sqlite3.DatabaseError as error:
            if not _is_corrupt(error):
                raise IndexFault(f"The index cannot be opened ({_name(error)}).") from error
            self.folder.move_aside()
            self.repairs.append("database_moved_aside")
            self._connection = self._connect()
        self._check_secret()

    def _connect(self) -> sqlite3.Connection:
        self.folder.prepare_database()
        connection = sqlite3.connect(
            self.folder.database,
            isolation_level=None,
            check_same_thread=False,
            cached_statements=64,
        )
        try:
            for pragma in (*_PRAGMAS, *(_MACOS_PRAGMAS if sys.platform == "darwin" else ())):
                connection.execute(f"PRAGMA {pragma}").fetchall()
            _migrate(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _check_secret(self) -> None:
        """With another secret no tombstone can be recognised: then nothing is taken in until asked again."""
        expected = self.digest("secret check")
        found = self.rows("SELECT value FROM meta WHERE name = 'secret_check'")
        if found == [(expected,)]:
            return
        with self.transaction() as connection:
            put_meta(connection, "secret_check", expected)
            if found:
                put_meta(connection, "consent", "off")
                connection.execute("DELETE FROM tombstones")
                connection.execute("DELETE FROM files")
                self.repairs.append("secret_replaced")


def put_meta(connection: sqlite3.Connection, name: str, value: object) -> None:
    """Set one value of the table `meta`, inside the caller's transaction."""
    connection.execute(
        "INSERT INTO meta (name, value) VALUES (?, ?) "
        "ON CONFLICT (name) DO UPDATE SET value = excluded.value",
        (name, value),
    )


def placeholders(values: Sequence[object]) -> str:
    """`?, ?, ?` for an IN list; at most SQLite's 32,766 values."""
    return ", ".join("?" * len(values))


def _migrate(connection: sqlite3.Connection) -> None:
    ((application_id,),) = connection.execute("PRAGMA application_id").fetchall()
    ((version,),) = connection.execute("PRAGMA user_version").fetchall()
    ((n_tables,),) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchall()
    is_new = n_tables == 0 and version == 0
    if not is_new and application_id != APPLICATION_ID:
        raise _Damaged("another application's database")
    if version > SCHEMA_VERSION:
        raise IndexDamaged(
            f"The index was made by a newer version (schema {version}, this one knows "
            f"{SCHEMA_VERSION}). Install that version again, or remove the folder of the index."
        )
    if not is_new and connection.execute("PRAGMA quick_check(1)").fetchall() != [("ok",)]:
        raise _Damaged("quick_check found damage")
    scripts = [_SCHEMA.read_text()] if is_new else _scripts_from(version)
    for script in scripts:
        connection.executescript(f"BEGIN IMMEDIATE;{script}")
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        version = SCHEMA_VERSION if is_new else version + 1
        connection.execute(f"PRAGMA user_version = {version}")
        connection.execute("COMMIT")


def _scripts_from(version: int) -> Iterable[str]:
    return [_MIGRATIONS[step] for step in range(version, SCHEMA_VERSION)]


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    """Turn sqlite3's errors into ours; their messages name tables and columns, never values."""
    try:
        yield
    except sqlite3.ProgrammingError as error:
        raise IndexFault("The index is closed.") from error
    except sqlite3.DatabaseError as error:
        if _is_corrupt(error):
            raise IndexDamaged(
                "The index is damaged; it is repaired or moved aside at the next start."
            ) from error
        raise IndexFault(f"The index could not be read or written ({_name(error)}).") from error


class _Damaged(sqlite3.DatabaseError):
    """Our own checks found what SQLite's did not."""


def _is_corrupt(error: sqlite3.Error) -> bool:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return isinstance(error, _Damaged) or code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def _name(error: sqlite3.Error) -> str:
    return getattr(error, "sqlite_errorname", None) or type(error).__name__
