"""The indexer's thread: what is pushed gets in once, the newest, beside typing, and survives what happens."""

from __future__ import annotations

import threading
from dataclasses import replace

import numpy as np
import pytest

from indexer.errors import (
    ConsentRequired,
    DocumentNotFound,
    IndexQueueFull,
)
from indexer.records import Push, PushedFile, PushedText
from indexer.service import ConsentChange
from indexer.store import Store
from indexer.vector_index import SearchFilter
from tests.indexer.conftest import (
    PATIENCE_S,
    GatedEmbedder,
    HashEmbedder,
    bytes_of,
    files_hold,
    lines_as_paragraphs,
    vector_of,
)

TEXT = "The first paragraph.\n\nВторой абзац.\n\nA third one."


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


def test_a_document_from_before_there_were_portraits_gets_its_counts(open_index):
    embedder = HashEmbedder()
    plain = lines_as_paragraphs(embedder)
    first = open_index(embedder=embedder, stages=plain)
    first.push("doc", TEXT, revision=1)
    assert first.index.document("doc").result().record.profile is None
    first.index.close()

    counting = replace(plain, profile=lambda paragraphs: f"counts of {len(paragraphs)}")
    second = open_index(embedder=embedder, stages=counting)
    again = second.push("doc", TEXT, revision=2)
    record = second.index.document("doc").result().record

    assert (again.state, len(embedder.batches)) == ("unchanged", 1)
    assert (record.profile, record.revision) == ("counts of 3", 2)


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
