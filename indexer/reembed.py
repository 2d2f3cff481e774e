"""Fill a new embedding space beside the one that is served, from stored text."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from indexer import spaces
from indexer.document_rows import VECTOR_DTYPE
from indexer.indexing import Progress
from indexer.pipeline import Pipeline, Watcher
from indexer.records import IndexEvent


def reembed(
    pipeline: Pipeline,
    watcher: Watcher,
    sink: Callable[[IndexEvent], None],
    progress: Progress,
) -> Iterator[None]:
    """Yields after each batch; at the end switches, or says how many documents are needed again.

    Paragraphs without stored text keep their documents stale until these are pushed or read again.
    """
    store = pipeline.store
    space = spaces.space_to_write(store.db, pipeline.space)
    while True:
        found = store.db.rows(
            "SELECT p.id, p.text FROM paragraphs p WHERE p.text IS NOT NULL AND NOT EXISTS "
            "(SELECT 1 FROM vectors v WHERE v.paragraph = p.id AND v.space = ?) LIMIT ?",
            (space.key, pipeline.options.batch_size),
        )
        if not found:
            break
        vectors = pipeline.embed([text for _, text in found], watcher)
        if vectors is None:
            return
        with store.db.transaction() as connection:
            # A paragraph may have been deleted while it was embedded.
            connection.executemany(
                "INSERT OR IGNORE INTO vectors (paragraph, space, vector) "
                "SELECT id, ?, ? FROM paragraphs WHERE id = ?",
                [
                    (space.key, np.asarray(vector, VECTOR_DTYPE).tobytes(), paragraph)
                    for (paragraph, _), vector in zip(found, vectors, strict=True)
                ],
            )
        progress.count(n_embedded=len(found))
        yield
    with store.db.transaction() as connection:
        connection.execute(
            "UPDATE documents SET stale = EXISTS (SELECT 1 FROM paragraphs p WHERE "
            "p.document = documents.key AND NOT EXISTS "
            "(SELECT 1 FROM vectors v WHERE v.paragraph = p.id AND v.space = ?))",
            (space.key,),
        )
    if space.state == "preparing" and not store.switch_space():
        ((n_stale,),) = store.db.rows("SELECT count(*) FROM documents WHERE stale = 1")
        sink(IndexEvent(kind="space", code="documents_needed", n=n_stale))
    elif space.state == "active":
        store.touch()
