"""What a start finds: an index left in a hurry, damaged, in use elsewhere, or made with another model."""

from __future__ import annotations

import threading

import pytest

from indexer.errors import (
    IndexClosed,
    IndexLocked,
)
from indexer.records import Push, PushedText
from indexer.service import ConsentChange
from indexer.store import Store
from indexer.types import EmbeddingSpace
from tests.indexer.conftest import (
    PATIENCE_S,
    GatedEmbedder,
    HashEmbedder,
    bytes_of,
    files_hold,
    put,
    vector_of,
)

TEXT = "The first paragraph.\n\nВторой абзац.\n\nA third one."


def push_of(document_id, text, **options):
    return Push(document_id=document_id, content=PushedText(text=text), **options)


def test_closing_ends_what_waits_and_a_next_start_says_what_was_left(open_index, folder):
    embedder = GatedEmbedder()
    watching = open_index(embedder=embedder)
    jobs = [watching.index.push(push_of(d, TEXT)).result() for d in ("a", "b")]
    assert embedder.begun.acquire(timeout=PATIENCE_S)
    threading.Timer(0.05, embedder.permits.release, (10,)).start()
    watching.index.close()

    assert [watching.finished(job).state for job in jobs] == ["interrupted", "interrupted"]
    with pytest.raises(IndexClosed):
        watching.index.documents().result()


def test_jobs_of_a_killed_process_are_marked_as_interrupted(open_index, folder):
    store = Store(folder)
    with store.db.transaction() as connection:
        connection.execute(
            "INSERT INTO jobs (id, kind, document, state, queued_at) "
            "VALUES ('job_1', 'index', 'doc', 'running', 1.0)"
        )
    store.close()

    watching = open_index()

    state = watching.index.document("doc").result()
    assert (state.record, state.job.state, state.job.error_code) == (
        None,
        "interrupted",
        "interrupted",
    )
    assert watching.wait_for(lambda event: event.kind == "repair").code == "jobs_interrupted"


def test_a_damaged_database_is_moved_aside_and_said_so(open_index, folder):
    store = Store(folder)
    put(store, "doc", [f"Paragraph {i}." for i in range(200)])
    store.close()
    path = folder / "index.sqlite3"
    content = bytearray(path.read_bytes())
    content[4096:12288] = b"\xff" * 8192
    path.write_bytes(content)

    watching = open_index(None)

    assert watching.wait_for(lambda e: e.kind == "repair").code == "database_moved_aside"
    (aside,) = folder.glob("damaged-*.sqlite3")
    assert aside.stat().st_size == len(content)
    assert watching.index.documents().result() == []
    assert watching.index.consent().result().global_consent == "off"


@pytest.mark.parametrize("content", [b"", b"not a database at all" * 500])
def test_another_file_in_its_place_is_moved_aside_or_filled(open_index, folder, content):
    folder.mkdir()
    (folder / "index.sqlite3").write_bytes(content)

    watching = open_index()

    assert watching.push("doc", TEXT).state == "done"
    assert len(list(folder.glob("damaged-*.sqlite3"))) == bool(content)


def test_vectors_of_a_wrong_length_are_removed_and_come_back_with_a_push(open_index, folder):
    store = Store(folder)
    put(store, "doc", TEXT.split("\n\n"))
    with store.db.transaction() as connection:
        connection.execute("UPDATE vectors SET vector = x'0102' WHERE paragraph = 2")
        connection.execute("UPDATE documents SET n_paragraphs = 77")
    store.close()

    watching = open_index()

    codes = {event.code for event in watching.events if event.kind == "repair"}
    assert codes == {"vectors_removed", "counts_corrected"}
    record = watching.index.document("doc").result().record
    assert (record.stale, record.n_paragraphs) == (True, 3)
    assert watching.push("doc", TEXT).n_embedded == 1
    assert not watching.index.document("doc").result().record.stale


def test_an_index_that_is_open_elsewhere_says_so(open_index, folder):
    other = Store(folder)
    with pytest.raises(IndexLocked):
        open_index()
    other.close()


def test_a_new_model_embeds_stored_text_again_and_takes_over_at_once(open_index):
    watching = open_index(keep_text=True)
    watching.push("doc", TEXT)
    other = HashEmbedder(EmbeddingSpace(id="other", n_dimensions=24))

    job = watching.index.use_embedder(lambda: other).result()

    assert watching.finished(job).n_embedded == 3
    totals = watching.index.totals().result()
    assert (totals.space, totals.next_space, totals.n_stale_documents) == ("other", None, 0)
    found = watching.index.vectors.search(vector_of("A third one.", other.space), 1)
    assert found.similarities[0] > 0.999


def test_without_stored_text_the_old_space_is_served_until_documents_come_again(open_index):
    watching = open_index()
    for document_id in ("a", "b"):
        watching.push(document_id, f"{TEXT}\n{document_id}.")
    other = HashEmbedder(EmbeddingSpace(id="other", n_dimensions=24))
    watching.finished(watching.index.use_embedder(lambda: other).result())

    assert watching.wait_for(lambda e: e.kind == "space").n == 2
    assert watching.index.vectors.search(vector_of("A third one."), 1).similarities[0] > 0.999
    watching.push("a", f"{TEXT}\na.")
    assert watching.index.totals().result().next_space == "other"
    watching.push("b", f"{TEXT}\nb.")
    totals = watching.index.totals().result()
    assert (totals.space, totals.next_space) == ("other", None)
    assert watching.index.vectors.space == other.space


def test_another_model_at_the_next_start_is_noticed(open_index):
    watching = open_index(keep_text=True)
    watching.push("doc", TEXT)
    watching.index.close()

    again = open_index(
        embedder=HashEmbedder(EmbeddingSpace(id="other", n_dimensions=24)), keep_text=True
    )
    again.wait_for(lambda e: e.job and e.job.kind == "reembed" and e.job.state == "done")

    assert again.index.totals().result().space == "other"


def test_rebuilding_checks_and_loads_everything(open_index):
    watching = open_index()
    watching.push("doc", TEXT)

    job = watching.finished(watching.index.rebuild().result())

    assert (job.kind, job.state, job.n_paragraphs) == ("rebuild", "done", 3)


def test_forgetting_everything_while_open(open_index, folder):
    watching = open_index(keep_text=True)
    watching.push("doc", TEXT)
    assert len(watching.index.vectors) == 3
    vectors = watching.index.vectors

    receipt = watching.index.forget_everything().result()

    assert (receipt.documents_removed, receipt.paragraphs_removed, receipt.verified) == (1, 3, True)
    assert len(vectors) == 0
    assert vectors.space is None
    assert files_hold(folder, "Второй абзац.".encode()) == []
    assert files_hold(folder, bytes_of("Второй абзац.")) == []
    watching.index.set_consent(ConsentChange(global_consent="on")).result()
    assert watching.push("doc", TEXT).state == "done"
