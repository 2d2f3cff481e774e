"""Everything the index knows, as lines of JSON: for the user to read, keep or take elsewhere."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator
from dataclasses import asdict

from indexer import spaces
from indexer.consent import Consent
from indexer.store import Store

FORMAT = "pushkin-index-export"
VERSION = 1
_PAGE = 500


def export_lines(store: Store, consent: Consent, *, with_vectors: bool = False) -> Iterator[str]:
    """Yield JSON objects, one a line: a header, consent, documents, paragraphs (with text if it is stored).

    with_vectors: adds each paragraph's vector in the served space, float16 in base64. Read in pages, so
    what changes meanwhile may be there or not. Digests are left out: they say nothing without the secret.
    """
    active = spaces.space_in_state(store.db, "active")
    yield _line(
        "header",
        {
            "format": FORMAT,
            "version": VERSION,
            "exported_at": time.time(),
            "space": asdict(active.space) if active else None,
            "with_vectors": with_vectors,
        },
    )
    state = consent.state()
    yield _line("consent", asdict(state))
    for record in store.documents():
        full = store.document(record.id) if store.has(record.id) else record
        profile = json.loads(full.profile) if full.profile else None
        yield _line("document", asdict(full) | {"profile": profile})
    space = active.key if active and with_vectors else -1
    last = 0
    while True:
        found = store.db.rows(
            "SELECT p.id, d.id, p.position, p.language, p.n_words, p.n_chars, p.text, v.vector "
            "FROM paragraphs p JOIN documents d ON d.key = p.document "
            "LEFT JOIN vectors v ON v.paragraph = p.id AND v.space = ? "
            "WHERE p.id > ? ORDER BY p.id LIMIT ?",
            (space, last, _PAGE),
        )
        if not found:
            return
        last = found[-1][0]
        for row in found:
            yield _line("paragraph", _paragraph(row, with_vectors=with_vectors))


def _paragraph(row: tuple[object, ...], *, with_vectors: bool) -> dict[str, object]:
    names = ("id", "document_id", "position", "language", "n_words", "n_chars", "text")
    values = dict(zip(names, row[:-1], strict=True))
    vector = row[-1]
    if with_vectors:
        values["vector"] = base64.b64encode(vector).decode() if isinstance(vector, bytes) else None
    return values


def _line(kind: str, values: dict[str, object]) -> str:
    return json.dumps({"type": kind, **values}, ensure_ascii=False) + "\n"
