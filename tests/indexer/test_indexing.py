"""The indexer's thread: what is pushed gets in once, the newest, beside typing, and survives what happens."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from indexer.errors import (
    ConsentRequired,
    DocumentNotFound,
    IndexClosed,
    IndexLocked,
    IndexQueueFull,
)
from indexer.records import Push, PushedFile, PushedText
from indexer.service import ConsentChange
from indexer.store import Store
from indexer.types import EmbeddingSpace
from indexer.vector_index import SearchFilter
from tests.indexer.conftest import PATIENCE_S, HashEmbedder, bytes_of, files_hold, put, vector_of

TEXT = "The first paragraph.\n\nВторой абзац.\n\nA third one."


class GatedEmbedder(HashEmbedder):
    """Waits for `permits` before each batch; `begun` counts the batches it was asked for."""

    def __init__(self, space=None):
        super().__init__(*([space] if space else []))
        self.permits = threading.Semaphore(0)
        self.begun = threading.Semaphore(0)

    def embed(self, texts):
        self.begun.release()
        assert self.permits.acquire(timeout=PATIENCE_S)
        return super().embed(texts)


def push_of(document_id, text, **options):
    return Push(document_id=document_id, content=PushedText(text=text), **options)


def test_a_pushed_document_can_be_found(open_index):
    watching = open_index()

    job = watching.push("doc", TEXT, revision=3)

    assert (job.state, job.n_paragraphs, job.n_embedded) == ("done", 3, 3)
    state = watching.index.document("doc").result()
    assert (state.record.n_paragraphs, state.record.revision, state.job.id) == (3, 3, job.id)
    hits = watching.index.vectors.search(vector_of("Второй абзац."), 1)
    assert (hits.documents, hits.similarities[0] > 0.999) == (("doc",), True)
    assert watching.index.totals().result().languages == {"en": 2, "ru": 1}


def test_a_job_is_told_from_waiting_to_done(open_index):
    watching = open_index()
    job = watching.push("doc", "\n".join(f"Line {i}." for i in range(10)))

    told = [event.job for event in watching.events if event.job and event.job.id == job.id]
    states = [job.state for job in told]
    assert (states[0], states[-1]) == ("queued", "done")
    assert set(states[1:-1]) == {"running"}
    assert [job.n_embedded for job in told if job.state == "running"] == [0, 0, 4, 8, 10]


def test_the_same_content_is_not_read_again(open_index):
    watching = open_index()
    watching.push("doc", TEXT, revision=1)
    again = watching.push("doc", TEXT, revision=2)

    assert again.state == "unchanged"
    assert len(watching.embedder.batches) == 1
    assert watching.index.document("doc").result().record.revision == 2


def test_an_edit_embeds_only_what_is_new(open_index):
    watching = open_index()
    watching.push("doc", TEXT)
    job = watching.push("doc", TEXT + "\nAnd a fourth.")

    assert (job.n_embedded, job.n_kept) == (1, 3)
    assert watching.embedder.batches[-1] == ["And a fourth."]


def test_an_older_revision_changes_nothing(open_index):
    watching = open_index()
    watching.push("doc", TEXT, revision=5)

    assert watching.push("doc", "Older.", revision=4).state == "superseded"
    assert watching.index.document("doc").result().record.n_paragraphs == 3


def test_of_many_pushes_of_a_document_only_the_newest_is_indexed(open_index):
    embedder = GatedEmbedder()
    watching = open_index(embedder=embedder)
    index = watching.index
    first = index.push(push_of("doc", "Revision 1.", revision=1)).result()
    assert embedder.begun.acquire(timeout=PATIENCE_S)

    jobs = [index.push(push_of("doc", f"Revision {r}.", revision=r)).result() for r in (2, 3, 9, 4)]
    embedder.permits.release(10)

    assert watching.finished(first).state == "done"
    states = [watching.finished(job).state for job in jobs]
    assert states == ["superseded", "superseded", "done", "superseded"]
    assert embedder.batches == [["Revision 1."], ["Revision 9."]]


def test_the_queue_is_bounded(open_index):
    embedder = GatedEmbedder()
    watching = open_index(embedder=embedder, max_waiting=2)
    running = watching.index.push(push_of("a", "A.")).result()
    assert embedder.begun.acquire(timeout=PATIENCE_S)
    for document_id in "bc":
        watching.index.push(push_of(document_id, "More.")).result()

    with pytest.raises(IndexQueueFull):
        watching.index.push(push_of("d", "Too much.")).result()
    watching.index.push(push_of("c", "Newer.")).result()  # takes the place of the one that waits
    embedder.permits.release(10)
    assert watching.finished(running).state == "done"


def test_a_document_deleted_while_it_is_embedded_does_not_come_back(open_index, folder):
    embedder = GatedEmbedder()
    watching = open_index(embedder=embedder)
    job = watching.index.push(push_of("doc", TEXT)).result()
    assert embedder.begun.acquire(timeout=PATIENCE_S)

    receipt = watching.index.delete("doc").result()
    embedder.permits.release(10)
    other = watching.push("other", "Unrelated.")

    assert (receipt.paragraphs_removed, receipt.verified) == (0, True)
    assert watching.finished(job).state == "cancelled"
    assert other.state == "done"
    assert [record.id for record in watching.index.documents().result()] == ["other"]
    with pytest.raises(ConsentRequired):  # and it was forgotten
        watching.index.push(push_of("doc", TEXT)).result()


@pytest.mark.parametrize("change", ["off", "exclude", "forget"])
def test_consent_withdrawn_while_it_is_embedded_counts(open_index, folder, change):
    embedder = GatedEmbedder()
    watching = open_index(embedder=embedder)
    job = watching.index.push(push_of("doc", TEXT)).result()
    assert embedder.begun.acquire(timeout=PATIENCE_S)

    if change == "off":
        watching.index.set_consent(ConsentChange(global_consent="off")).result()
    elif change == "exclude":
        watching.index.set_consent(ConsentChange(documents={"doc": "exclude"})).result()
    else:
        watching.index.forget_everything().result()
    embedder.permits.release(10)
    assert watching.finished(job).state == "cancelled"
    watching.index.close()

    store = Store(folder)
    assert store.documents() == []
    store.close()


def test_deleting_gives_a_receipt_and_leaves_nothing(open_index, folder):
    watching = open_index(keep_text=True)
    watching.push("doc", TEXT)
    watching.push("other", "Something else.")
    assert files_hold(folder, "Второй абзац.".encode())

    receipt = watching.index.delete("doc").result()

    assert (receipt.paragraphs_removed, receipt.documents_removed, receipt.verified) == (3, 1, True)
    assert files_hold(folder, bytes_of("Второй абзац.")) == []
    assert files_hold(folder, "Второй абзац.".encode()) == []
    everything = SearchFilter()
    assert set(watching.index.vectors.search(vector_of("x"), 9, everything).documents) == {"other"}
    with pytest.raises(DocumentNotFound):
        watching.index.delete("doc").result()


def test_excluding_deletes_and_says_so(open_index):
    watching = open_index()
    watching.push("doc", TEXT)

    state, receipts = watching.index.set_consent(
        ConsentChange(documents={"doc": "exclude", "unknown": "exclude"})
    ).result()

    assert [receipt.paragraphs_removed for receipt in receipts] == [3]
    assert state.documents == {"doc": "exclude", "unknown": "exclude"}
    with pytest.raises(ConsentRequired):
        watching.index.push(push_of("doc", TEXT, consent_given=True)).result()


def test_nothing_is_indexed_or_found_before_consent(open_index):
    watching = open_index(None)
    with pytest.raises(ConsentRequired):
        watching.index.push(push_of("doc", TEXT, consent_given=True)).result()
    assert len(watching.index.vectors) == 0

    watching.index.set_consent(ConsentChange(global_consent="ask")).result()
    with pytest.raises(ConsentRequired):
        watching.index.push(push_of("doc", TEXT)).result()
    assert watching.push("doc", TEXT, consent_given=True).state == "done"
    assert len(watching.index.vectors) == 3


def test_while_consent_is_off_nothing_is_found_and_nothing_is_lost(open_index):
    watching = open_index()
    watching.push("doc", TEXT)
    vectors = watching.index.vectors
    hits = vectors.search(vector_of("A third one."), 2, with_vectors=True)
    np.testing.assert_array_equal(hits.vectors, vectors.vectors(hits.ids))
    assert vectors.knows("doc")

    watching.index.set_consent(ConsentChange(global_consent="off")).result()

    assert (len(vectors), vectors.space, vectors.knows("doc")) == (0, None, False)
    assert len(vectors.search(vector_of("A third one."), 2)) == 0
    assert len(vectors.all_vectors().ids) == 0
    watching.index.set_consent(ConsentChange(global_consent="on")).result()
    assert len(vectors) == 3


def test_front_matter_can_say_private(open_index):
    watching = open_index()
    job = watching.push("doc", "---\ntitle: x\nkillah: private\n---\nSecret.", consent_given=True)

    assert (job.state, job.error_code) == ("failed", "consent_required")
    assert watching.push("doc2", "killah: private is a phrase here.").state == "done"


def test_a_document_emptied_by_its_author_loses_its_paragraphs(open_index, folder):
    watching = open_index()
    assert watching.push("doc", " \n").error_code == "document_empty"
    watching.push("doc", TEXT)

    job = watching.push("doc", "")

    assert (job.state, job.n_removed) == ("done", 3)
    assert files_hold(folder, bytes_of("Второй абзац.")) == []


def test_what_cannot_be_read_ends_with_its_code_and_leaves_what_was_there(open_index):
    watching = open_index()
    watching.push("doc", TEXT)
    broken = Push(document_id="doc", content=PushedFile(content=b"[encrypted]", suffix=".docx"))

    job = watching.finished(watching.index.push(broken).result())

    assert (job.state, job.error_code) == ("failed", "document_encrypted")
    state = watching.index.document("doc").result()
    assert (state.record.n_paragraphs, state.job.error_code) == (3, "document_encrypted")


@pytest.mark.parametrize("broken", ["raises", "nan", "shape"])
def test_an_encoder_that_fails_fails_the_job_only(open_index, broken):
    class Broken(HashEmbedder):
        def embed(self, texts):
            if "poison" not in texts[0]:
                return super().embed(texts)
            if broken == "raises":
                raise MemoryError(texts[0])
            return super().embed(texts) * np.nan if broken == "nan" else np.zeros((1, 3))

    watching = open_index(embedder=Broken())
    job = watching.push("doc", "Some poison.")

    assert (job.state, job.error_code) == ("failed", "embedding_failed")
    assert watching.push("other", TEXT).state == "done"


def test_indexing_waits_while_someone_types(open_index):
    busy = threading.Event()
    busy.set()
    embedder = GatedEmbedder()
    embedder.permits.release(100)
    watching = open_index(is_busy=busy.is_set, embedder=embedder)
    job = watching.index.push(push_of("doc", TEXT)).result()
    watching.wait_for(lambda event: event.job and event.job.state == "running")

    assert not embedder.begun.acquire(timeout=0.1)
    busy.clear()
    assert watching.finished(job).state == "done"


def test_typing_without_a_pause_slows_indexing_but_does_not_stop_it(open_index):
    watching = open_index(is_busy=lambda: True, max_yield_s=0.02)

    assert watching.push("doc", "\n".join(f"Line {i}." for i in range(9))).state == "done"


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
