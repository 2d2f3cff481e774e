"""What the user allows: off, ask or on for all, include or exclude for one document. Off until they say so.

Off is off: nothing new is taken in, whatever else was decided, and what is there is not used.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, cast, get_args

from indexer import tombstones
from indexer.database import Database, put_meta
from indexer.errors import ConsentRequired
from indexer.records import ConsentBasis

GlobalConsent = Literal["off", "ask", "on"]
Decision = Literal["include", "exclude", "inherit"]

GLOBAL_CHOICES: tuple[GlobalConsent, ...] = get_args(GlobalConsent)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsentState:
    """Everything that was decided. decided_at: of the global one, Unix seconds, None: never."""

    global_consent: GlobalConsent = "off"
    documents: Mapping[str, Decision] = field(default_factory=dict)
    folders: Mapping[str, bool] = field(default_factory=dict)
    decided_at: float | None = None
    n_forgotten: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Asking:
    """A document that somebody wants to be indexed.

    given: the request itself carries the user's consent. place: folder and path of a watched file.
    content, text: keyed digests, if known already.
    """

    document_id: str
    given: bool = False
    place: tuple[str, str] | None = None
    content: bytes | None = None
    text: bytes | None = None


class Consent:
    """Reads and writes decisions; any thread."""

    def __init__(self, db: Database, *, clock: Callable[[], float] = time.time) -> None:
        self._db = db
        self._clock = clock

    def state(self) -> ConsentState:
        """Return every decision."""
        with self._db.lock:
            decisions = self._db.rows("SELECT document, decision FROM decisions ORDER BY document")
            folders = self._db.rows("SELECT name, consented FROM folders ORDER BY name")
            ((n_forgotten,),) = self._db.rows(
                "SELECT count(*) FROM tombstones WHERE kind = 'document'"
            )
            decided = self._db.rows("SELECT value FROM meta WHERE name = 'consent_decided_at'")
            return ConsentState(
                global_consent=self.global_consent(),
                documents=dict(decisions),
                folders={name: bool(consented) for name, consented in folders},
                decided_at=decided[0][0] if decided else None,
                n_forgotten=n_forgotten,
            )

    def global_consent(self) -> GlobalConsent:
        """Return off, ask or on."""
        found = self._db.rows("SELECT value FROM meta WHERE name = 'consent'")
        value = found[0][0] if found else "off"
        return cast("GlobalConsent", value) if value in GLOBAL_CHOICES else "off"

    def set_global(self, choice: GlobalConsent) -> None:
        """Decide for all documents."""
        with self._db.transaction() as connection:
            put_meta(connection, "consent", choice)
            put_meta(connection, "consent_decided_at", self._clock())

    def decide(self, decisions: Mapping[str, Decision]) -> None:
        """Decide for single documents; "inherit" takes a decision back.

        Excluding does not delete: the caller deletes the document as well.
        """
        with self._db.transaction() as connection:
            for document_id, decision in decisions.items():
                connection.execute("DELETE FROM decisions WHERE document = ?", (document_id,))
                if decision != "inherit":
                    connection.execute(
                        "INSERT INTO decisions (document, decision, decided_at) VALUES (?, ?, ?)",
                        (document_id, decision, self._clock()),
                    )

    def add_folder(self, name: str, *, consented: bool) -> None:
        """Note that a folder is watched. consented: each file in it needs no asking."""
        with self._db.transaction() as connection:
            connection.execute(
                "INSERT INTO folders (name, consented, added_at) VALUES (?, ?, ?) "
                "ON CONFLICT (name) DO UPDATE SET consented = max(consented, excluded.consented)",
                (name, consented, self._clock()),
            )

    def check(self, asking: Asking) -> ConsentBasis:
        """Return what allows a document to be indexed. Raises ConsentRequired with what to do."""
        with self._db.lock:
            choice = self.global_consent()
            decision = self._decision(asking.document_id)
            if choice == "off":
                raise ConsentRequired(
                    'Indexing is off. Allow it with `PUT /v1/consent {"global": "ask"}` or "on", '
                    "or with `pushkin index consent`."
                )
            if decision == "exclude":
                raise ConsentRequired(
                    "This document was excluded. Take that back with `PUT /v1/consent`.",
                    param="consent",
                )
            if asking.given:
                return "request"
            if decision == "include":
                return "document"
            self._refuse_forgotten(asking)
            if choice == "on":
                return "global"
            if asking.place is not None and self._folder_consented(asking.place[0]):
                return "folder"
        raise ConsentRequired(
            "Each document needs the user's consent: send `consent: true` when they gave it.",
            param="consent",
        )

    def _refuse_forgotten(self, asking: Asking) -> None:
        digests = tombstones.digests_of(
            self._db,
            asking.document_id,
            content=asking.content,
            text=asking.text,
            place=asking.place,
        )
        if tombstones.is_forgotten(self._db, digests):
            raise ConsentRequired(
                "This document, or one with the same content, was forgotten: "
                "it comes back only with `consent: true`.",
                param="consent",
            )

    def _decision(self, document_id: str) -> Decision:
        found = self._db.rows("SELECT decision FROM decisions WHERE document = ?", (document_id,))
        return cast("Decision", found[0][0]) if found else "inherit"

    def _folder_consented(self, folder: str) -> bool:
        return bool(
            self._db.rows("SELECT 1 FROM folders WHERE name = ? AND consented = 1", (folder,))
        )
