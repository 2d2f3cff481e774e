"""The truth about what is indexed: documents, paragraphs and vectors, each change one transaction."""

from __future__ import annotations

import sqlite3
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from indexer import document_rows as rows
from indexer import spaces, tombstones
from indexer.database import Database, placeholders, put_meta
from indexer.errors import DocumentNotFound
from indexer.records import Change, Committed, DocumentRecord, DocumentUpdate, Receipt, VectorRows
from indexer.types import EmbeddingSpace


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """What the index holds. n_bytes: on disk."""

    n_documents: int
    n_paragraphs: int
    n_words: int
    n_stale_documents: int
    languages: dict[str, int]
    n_bytes: int
    generation: int
    space: str | None
    next_space: str | None


class Store:
    """Any thread; every method returns when its change is on the disk. Raises IndexFault subclasses.

    on_change: called after each commit that changed served vectors, under `db.lock`, in their order.
    """

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.time) -> None:
        self.db = Database(path)
        self.clock = clock
        self.on_change: Callable[[Change], None] | None = None
        self._generation = self._read_generation()

    def close(self) -> None:
        """Close the database; idempotent."""
        self.db.close()

    @property
    def generation(self) -> int:
        """Grows with every change of the vectors that are served."""
        return self._generation

    def frozen(self) -> AbstractContextManager[object]:
        """Nothing changes inside; short, or everybody waits."""
        return self.db.lock

    def digests(self, texts: Sequence[str]) -> list[bytes]:
        """The keyed digest of each paragraph."""
        return [self.db.digest("paragraph", text) for text in texts]

    def content_digest(self, content: bytes) -> bytes:
        """The keyed digest of a document's bytes."""
        return self.db.digest("content", content)

    def text_digest(self, digests: Sequence[bytes]) -> bytes:
        """The keyed digest of a document's paragraphs: the same for the same text in another format."""
        return self.db.digest("text", *digests)

    def is_current(self, document_id: str, content_digest: bytes, *, keep_text: bool) -> bool:
        """Whether exactly this content is indexed, with all vectors and the text or none of it."""
        found = self.db.rows(
            "SELECT content_digest, stale, EXISTS (SELECT 1 FROM paragraphs p WHERE "
            "p.document = d.key AND (p.text IS NOT NULL) != ?) FROM documents d WHERE id = ?",
            (keep_text, document_id),
        )
        return found == [(content_digest, 0, 0)]

    def digests_to_embed(
        self, document_id: str, digests: Sequence[bytes], space: int
    ) -> dict[bytes, int]:
        """Return the digests that have no vector in this document yet, each with its first position."""
        with self.db.lock:
            found = self.db.rows("SELECT key FROM documents WHERE id = ?", (document_id,))
            old = rows.old_rows(self.db, found[0][0], space) if found else []
            todo = rows.plan(old, digests)
            missing: dict[bytes, int] = {}
            for position in [*todo.new, *(at for at, row in todo.kept if not row.has_vector)]:
                missing.setdefault(digests[position], position)
            return missing

    def commit(
        self, update: DocumentUpdate, is_wanted: Callable[[], bool] = lambda: True
    ) -> Committed | None:
        """Make the index hold exactly this version of the document; unchanged paragraphs keep their rows.

        is_wanted: asked when nothing else can change the index any more; False changes nothing.
        """
        text_digest = self.text_digest(update.digests)
        with self.db.lock:
            if not is_wanted():
                return None
            active = spaces.space_in_state(self.db, "active")
            is_served = active is not None and active.key == update.space
            with self.db.transaction() as connection:
                key = rows.put_document(connection, update, text_digest, self.clock())
                todo = rows.plan(rows.old_rows(self.db, key, update.space), update.digests)
                added = rows.apply_plan(connection, key, update, todo)
                # What is committed was allowed, so it is forgotten no longer.
                tombstones.lift(connection, self._marks(update, text_digest))
                has_changed = bool(todo.removed) or (is_served and added is not None)
                if has_changed:
                    self._bump(connection)
            if has_changed:
                self._tell(added if is_served else None, [row.id for row in todo.removed])
            erased = self.db.checkpoint() if todo.removed or _drops_text(update, todo) else True
        n_new_vectors = 0 if added is None else len(added.ids)
        return Committed(
            document_key=key,
            n_paragraphs=len(update.paragraphs),
            n_embedded=n_new_vectors,
            n_kept=len(update.paragraphs) - n_new_vectors,
            n_removed=len(todo.removed),
            is_erased=erased,
        )

    def has(self, document_id: str) -> bool:
        """Whether a document is indexed."""
        return bool(self.db.rows("SELECT 1 FROM documents WHERE id = ?", (document_id,)))

    def revision(self, document_id: str) -> int | None:
        """The revision of a document, None if it is not indexed or has none."""
        found = self.db.rows("SELECT revision FROM documents WHERE id = ?", (document_id,))
        return found[0][0] if found else None

    def set_revision(self, document_id: str, revision: int | None) -> None:
        """Note a newer revision with the same content."""
        with self.db.transaction() as connection:
            connection.execute(
                "UPDATE documents SET revision = ?, indexed_at = ? WHERE id = ?",
                (revision, self.clock(), document_id),
            )

    def has_profile(self, document_id: str) -> bool:
        """Whether a document has its counts for the portrait."""
        return bool(
            self.db.rows(
                "SELECT 1 FROM documents WHERE id = ? AND profile IS NOT NULL", (document_id,)
            )
        )

    def set_profile(self, document_id: str, profile: str) -> None:
        """Note the counts of a document that is indexed already."""
        with self.db.transaction() as connection:
            connection.execute(
                "UPDATE documents SET profile = ? WHERE id = ?", (profile, document_id)
            )

    def set_weight(self, document_id: str, weight: float) -> None:
        """Set how much a document counts beside others of its length. Raises DocumentNotFound."""
        with self.db.transaction() as connection:
            changed = connection.execute(
                "UPDATE documents SET weight = ? WHERE id = ?", (weight, document_id)
            )
            if not changed.rowcount:
                raise not_found()

    def delete(self, document_id: str, *, forget: bool = True) -> tuple[Receipt, list[int]]:
        """Delete a document with all that came from it; returns a receipt and the paragraphs' ids.

        forget: leave tombstones, so that neither it nor a copy comes back by itself.
        The receipt speaks of the database only. Raises DocumentNotFound.
        """
        with self.db.lock:
            with self.db.transaction() as connection:
                ids = self._delete_rows(connection, document_id, forget=forget)
                if ids:
                    self._bump(connection)
            if ids:
                self._tell(None, ids)
            is_erased = self.db.checkpoint()
            left = self._present(ids)
        receipt = Receipt(
            document_id=document_id,
            paragraphs_removed=len(ids),
            documents_removed=1,
            verified=is_erased and not left,
            deleted_at=self.clock(),
        )
        return receipt, ids

    def tombstone(self, document_id: str) -> None:
        """Forget a document that was never indexed, so that it is not taken in later either."""
        with self.db.transaction() as connection:
            tombstones.put(connection, tombstones.digests_of(self.db, document_id), self.clock())

    def erase(self) -> Receipt:
        """Forget everything: files overwritten and removed, a new secret, consent off."""
        with self.db.lock:
            totals = self.totals()
            n_bytes = self.db.erase()
            with self.db.transaction() as connection:
                # Never a generation that was there before: caches must notice.
                put_meta(connection, "generation", totals.generation + 1)
            self._generation = self._read_generation()
            after = self.totals()
        return Receipt(
            document_id=None,
            paragraphs_removed=totals.n_paragraphs,
            documents_removed=totals.n_documents,
            verified=after.n_paragraphs == 0 and not self.db.folder.damaged(),
            deleted_at=self.clock(),
            n_bytes_erased=n_bytes,
        )

    def documents(self) -> list[DocumentRecord]:
        """Every document, by id."""
        with self.db.lock:
            languages: dict[str, dict[str, int]] = defaultdict(dict)
            for document_id, language, n_paragraphs in self.db.rows(
                "SELECT d.id, p.language, count(*) FROM paragraphs p "
                "JOIN documents d ON d.key = p.document GROUP BY p.document, p.language"
            ):
                languages[document_id][language] = n_paragraphs
            found = self.db.rows(f"SELECT {rows.DOCUMENT_COLUMNS} FROM documents ORDER BY id")
            return [rows.as_record(row, languages[row[0]]) for row in found]

    def document(self, document_id: str) -> DocumentRecord:
        """One document, with its profile. Raises DocumentNotFound."""
        with self.db.lock:
            found = self.db.rows(
                f"SELECT {rows.DOCUMENT_COLUMNS}, profile, key FROM documents WHERE id = ?",
                (document_id,),
            )
            if not found:
                raise not_found()
            (*columns, profile, key) = found[0]
            counts = self.db.rows(
                "SELECT language, count(*) FROM paragraphs WHERE document = ? GROUP BY language",
                (key,),
            )
            return rows.as_record(columns, dict(counts), profile)

    def profiles(self) -> dict[str, str]:
        """The profile of each document that has one."""
        return dict(self.db.rows("SELECT id, profile FROM documents WHERE profile IS NOT NULL"))

    def load_vectors(self) -> tuple[int, EmbeddingSpace | None, VectorRows]:
        """Everything that is served, with its generation and space (None: nothing was ever indexed)."""
        with self.db.lock:
            active = spaces.space_in_state(self.db, "active")
            if active is None:
                return self.generation, None, rows.vector_rows([], {}, 1)
            found = self.db.rows(
                "SELECT v.paragraph, p.document, p.language, v.vector FROM vectors v "
                "JOIN paragraphs p ON p.id = v.paragraph "
                "WHERE v.space = ? AND length(v.vector) = ?",
                (active.key, active.space.n_dimensions * rows.VECTOR_DTYPE.itemsize),
            )
            names = dict(self.db.rows("SELECT key, id FROM documents"))
            loaded = rows.vector_rows(found, names, active.space.n_dimensions)
            return self.generation, active.space, loaded

    def switch_space(self, *, force: bool = False) -> bool:
        """Serve the space that is being filled, once every paragraph has a vector in it (or by force).

        Returns whether it was switched. Paragraphs left without a vector keep their documents stale.
        """
        with self.db.lock:
            preparing = spaces.space_in_state(self.db, "preparing")
            if preparing is None:
                return False
            if not force and spaces.n_without_vector(self.db, preparing.key):
                return False
            with self.db.transaction() as connection:
                spaces.switch(connection)
                self._bump(connection)
            self._generation = self._read_generation()
        spaces.drop_retired(self.db)
        return True

    def touch(self) -> None:
        """Say that served vectors changed in a way that is not told row by row."""
        with self.db.lock:
            with self.db.transaction() as connection:
                self._bump(connection)
            self._generation = self._read_generation()

    def totals(self) -> Totals:
        """Counts for `GET /v1/status` and `GET /v1/persona`."""
        with self.db.lock:
            ((n_documents, n_words, n_stale),) = self.db.rows(
                "SELECT count(*), coalesce(sum(n_words), 0), coalesce(sum(stale), 0) FROM documents"
            )
            languages = dict(
                self.db.rows("SELECT language, count(*) FROM paragraphs GROUP BY language")
            )
            active = spaces.space_in_state(self.db, "active")
            preparing = spaces.space_in_state(self.db, "preparing")
        return Totals(
            n_documents=n_documents,
            n_paragraphs=sum(languages.values()),
            n_words=n_words,
            n_stale_documents=n_stale,
            languages=languages,
            n_bytes=self.db.n_bytes(),
            generation=self.generation,
            space=active.space.id if active else None,
            next_space=preparing.space.id if preparing else None,
        )

    def _delete_rows(
        self, connection: sqlite3.Connection, document_id: str, *, forget: bool
    ) -> list[int]:
        found = connection.execute(
            "SELECT key, content_digest, text_digest, folder, path FROM documents WHERE id = ?",
            (document_id,),
        ).fetchone()
        if found is None:
            raise not_found()
        key, content_digest, text_digest, folder, path = found
        ids = [
            i for (i,) in connection.execute("SELECT id FROM paragraphs WHERE document = ?", (key,))
        ]
        connection.execute("DELETE FROM documents WHERE key = ?", (key,))
        connection.execute("DELETE FROM jobs WHERE document = ?", (document_id,))
        connection.execute("DELETE FROM files WHERE document = ?", (document_id,))
        if forget:
            connection.execute(
                "DELETE FROM decisions WHERE document = ? AND decision = 'include'", (document_id,)
            )
            digests = tombstones.digests_of(
                self.db,
                document_id,
                content=content_digest,
                text=text_digest,
                place=(folder, path) if path is not None else None,
            )
            tombstones.put(connection, digests, self.clock())
        return ids

    def _marks(self, update: DocumentUpdate, text_digest: bytes) -> tombstones.Digests:
        source = update.source
        return tombstones.digests_of(
            self.db,
            source.id,
            content=update.content_digest,
            text=text_digest,
            place=(source.folder, source.path) if source.folder and source.path else None,
        )

    def _present(self, ids: Sequence[int]) -> int:
        """How many of these paragraphs are there, as rows or as vectors."""
        n_present = 0
        for start in range(0, len(ids), 10_000):
            part = ids[start : start + 10_000]
            marks = placeholders(part)
            ((n_found,),) = self.db.rows(
                f"SELECT (SELECT count(*) FROM paragraphs WHERE id IN ({marks})) + "
                f"(SELECT count(*) FROM vectors WHERE paragraph IN ({marks}))",
                (*part, *part),
            )
            n_present += n_found
        return n_present

    def _bump(self, connection: sqlite3.Connection) -> None:
        put_meta(connection, "generation", self._generation + 1)

    def _read_generation(self) -> int:
        found = self.db.rows("SELECT value FROM meta WHERE name = 'generation'")
        return int(found[0][0]) if found else 0

    def _tell(self, added: VectorRows | None, removed: Sequence[int]) -> None:
        self._generation = self._read_generation()
        if self.on_change is not None:
            gone = np.asarray(removed, dtype=np.int64)
            self.on_change(Change(generation=self._generation, added=added, removed=gone))


def not_found() -> DocumentNotFound:
    """The error for a document that is not indexed."""
    return DocumentNotFound(
        "No indexed document has this id; GET /v1/documents has all.", param="id"
    )


def _drops_text(update: DocumentUpdate, todo: rows.Plan) -> bool:
    return not update.keep_text and any(row.has_text for _, row in todo.kept)
