"""The store: documents are committed whole, deleted for good, and what others may read says so."""

from __future__ import annotations

import secrets
import stat

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from indexer import spaces
from indexer.errors import DocumentNotFound, IndexFault, IndexLocked
from indexer.records import DocumentUpdate, Source
from indexer.store import Store
from indexer.types import EmbeddingSpace
from indexer.vector_index import VectorIndex
from tests.indexer.conftest import HashEmbedder, bytes_of, files_hold, paragraphs_of, put, vector_of

TEXTS = ["The first paragraph.", "Второй абзац.", "A third one.", "И ещё один, четвёртый."]


def held(store):
    """Every paragraph of the database: (document, position) → digest."""
    found = store.db.rows(
        "SELECT d.id, p.position, p.digest FROM paragraphs p JOIN documents d ON d.key = p.document"
    )
    assert len(found) == len({row[:2] for row in found})
    return {row[:2]: row[2] for row in found}


def test_a_document_comes_back_with_its_counts(store):
    put(store, "doc", TEXTS, revision=7)

    record = store.document("doc")
    assert (record.n_paragraphs, record.revision, record.origin) == (4, 7, "push")
    assert record.languages == {"en": 2, "ru": 2}
    assert record.n_words == sum(len(text.split()) for text in TEXTS)
    assert [found.id for found in store.documents()] == ["doc"]
    assert store.totals().n_paragraphs == 4


def test_only_new_paragraphs_are_embedded_and_the_others_keep_their_rows(store):
    embedder = HashEmbedder()
    put(store, "doc", TEXTS, embedder=embedder)
    before = dict(store.db.rows("SELECT digest, id FROM paragraphs"))

    edited = ["A new beginning.", *TEXTS[:2], "Edited.", TEXTS[3]]
    done = put(store, "doc", edited, embedder=embedder)

    assert embedder.batches == [TEXTS, ["A new beginning.", "Edited."]]
    assert (done.n_embedded, done.n_kept, done.n_removed) == (2, 3, 1)
    after = dict(store.db.rows("SELECT digest, id FROM paragraphs"))
    for text in (TEXTS[0], TEXTS[1], TEXTS[3]):
        (digest,) = store.digests([text])
        assert after[digest] == before[digest]
    found = store.db.rows("SELECT digest FROM paragraphs ORDER BY position")
    assert [digest for (digest,) in found] == store.digests(edited)


def test_the_same_paragraph_in_two_documents_is_two_rows(store):
    put(store, "one", TEXTS)
    put(store, "two", TEXTS)

    receipt, _ = store.delete("one")

    assert receipt.paragraphs_removed == 4
    assert store.document("two").n_paragraphs == 4
    assert len(store.load_vectors()[2].ids) == 4


def test_a_paragraph_repeated_within_a_document_is_several_rows_and_one_embedding(store):
    embedder = HashEmbedder()
    put(store, "doc", ["Refrain.", "Verse.", "Refrain."], embedder=embedder)

    assert embedder.batches == [["Refrain.", "Verse."]]
    assert len(held(store)) == 3
    done = put(store, "doc", ["Refrain.", "Verse."], embedder=embedder)
    assert (done.n_removed, done.n_embedded) == (1, 0)


def test_ids_are_never_used_again(store):
    put(store, "doc", TEXTS)
    used = {row_id for (row_id,) in store.db.rows("SELECT id FROM paragraphs")}
    store.delete("doc")
    put(store, "doc", TEXTS)

    assert used.isdisjoint(row_id for (row_id,) in store.db.rows("SELECT id FROM paragraphs"))


@pytest.mark.parametrize("keep_text", [False, True])
def test_what_is_deleted_is_in_no_file(store, folder, keep_text):
    canary = "The canary sang at dawn, wholly unlike its neighbours."
    put(store, "kept", TEXTS, keep_text=keep_text)
    put(store, "doc", [canary, "Its second paragraph."], keep_text=keep_text)
    assert files_hold(folder, bytes_of(canary))
    assert bool(files_hold(folder, canary.encode())) is keep_text

    receipt, ids = store.delete("doc")

    assert (receipt.paragraphs_removed, receipt.verified, len(ids)) == (2, True, 2)
    assert files_hold(folder, bytes_of(canary)) == []
    assert files_hold(folder, bytes_of(canary)[:12]) == []
    assert files_hold(folder, canary.encode()) == []
    assert files_hold(folder, bytes_of(TEXTS[0]))
    with pytest.raises(DocumentNotFound):
        store.document("doc")


def test_a_paragraph_edited_away_is_in_no_file(store, folder):
    put(store, "doc", ["Something regrettable.", "Harmless."], keep_text=True)
    done = put(store, "doc", ["Harmless."], keep_text=True)

    assert done.is_erased
    assert files_hold(folder, bytes_of("Something regrettable.")) == []
    assert files_hold(folder, b"regrettable") == []


def test_turning_text_off_removes_it_at_the_next_commit(store, folder):
    put(store, "doc", TEXTS, keep_text=True)
    assert not store.is_current(
        "doc", store.content_digest("\n".join(TEXTS).encode()), keep_text=False
    )

    put(store, "doc", TEXTS, keep_text=False)

    assert files_hold(folder, b"first paragraph") == []


def test_a_reader_in_the_way_makes_the_receipt_unverified(store, folder):
    import sqlite3

    put(store, "doc", TEXTS)
    reader = sqlite3.connect(folder / "index.sqlite3", isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT * FROM paragraphs").fetchone()
    store.db.rows("PRAGMA busy_timeout = 1")

    receipt, _ = store.delete("doc")
    reader.close()

    assert not receipt.verified
    assert store.db.checkpoint()


def test_the_files_are_private(store, folder):
    put(store, "doc", TEXTS)

    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    files = [path for path in folder.iterdir() if path.is_file()]
    assert {"index.sqlite3", "index.sqlite3-wal", "secret", "lock"} <= {path.name for path in files}
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}


def test_digests_cannot_be_confirmed_without_the_secret(quick_path):
    one, two = Store(quick_path / "one"), Store(quick_path / "two")

    assert one.digests(["A guess."]) == one.digests(["A guess."])
    assert one.digests(["A guess."]) != two.digests(["A guess."])
    one.close()
    two.close()


def test_a_second_process_is_refused(store, folder):
    with pytest.raises(IndexLocked):
        Store(folder)


def test_everything_is_there_again_after_opening(folder):
    store = Store(folder)
    put(store, "doc", TEXTS, keep_text=True)
    generation = store.generation
    store.close()

    again = Store(folder)
    assert again.generation == generation
    assert again.document("doc").n_paragraphs == 4
    assert (again.db.repairs, again.db.is_sound()) == ([], True)
    again.close()


def test_a_commit_without_its_vectors_changes_nothing(store):
    put(store, "doc", TEXTS)
    space = spaces.space_in_state(store.db, "active")
    update = DocumentUpdate(
        source=Source(id="doc", origin="push", consent="global", consented_at=0.0),
        content_digest=b"other",
        media_type="text/plain",
        paragraphs=paragraphs_of(["Never embedded."]),
        digests=store.digests(["Never embedded."]),
        vectors={},
        space=space.key,
    )

    with pytest.raises(IndexFault):
        store.commit(update)
    assert store.document("doc").n_paragraphs == 4
    assert store.commit(update, lambda: False) is None


def test_the_user_s_weight_of_a_document_survives_its_edits(store):
    put(store, "doc", TEXTS)
    store.set_weight("doc", 2.5)
    put(store, "doc", TEXTS[:2])

    assert store.document("doc").weight == 2.5


EDITS = st.lists(
    st.tuples(
        st.sampled_from(["a", "b", "c"]),
        st.one_of(st.none(), st.lists(st.integers(0, 12), max_size=8)),
    ),
    max_size=12,
)


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(edits=EDITS)
def test_any_edits_leave_what_a_dictionary_would_hold(edits, quick_path):
    store = Store(quick_path / secrets.token_hex(4) / "index.noindex")
    index = VectorIndex(store)
    store.on_change = index.apply
    model: dict[str, list[str]] = {}
    seen: set[str] = set()
    for document, numbers in edits:
        if numbers is None:
            if document in model:
                store.delete(document)
                del model[document]
            continue
        model[document] = [f"Paragraph {number} of many." for number in numbers]
        seen |= set(model[document])
        put(store, document, model[document])

        expected = [(d, at, text) for d, texts in model.items() for at, text in enumerate(texts)]
        digests = store.digests([text for _, _, text in expected])
        assert held(store) == {
            (d, at): digest for (d, at, _), digest in zip(expected, digests, strict=True)
        }
        assert len(index) == len(expected)
        if expected:
            hits = index.search(vector_of(expected[-1][2]), len(expected))
            wanted = {d for d, _, text in expected if text == expected[-1][2]}
            best = hits.similarities > 0.999
            assert {d for d, is_best in zip(hits.documents, best, strict=True) if is_best} == wanted
    store.db.checkpoint()
    gone = seen - {text for texts in model.values() for text in texts}
    for text in gone:
        assert files_hold(store.db.folder.path, bytes_of(text)) == []
    store.close()


def test_a_new_space_is_filled_beside_the_served_one_and_switched_at_once(store):
    put(store, "one", TEXTS)
    put(store, "two", TEXTS[:2])
    index = VectorIndex(store)
    store.on_change = index.apply
    other = HashEmbedder(EmbeddingSpace(id="other", n_dimensions=24))

    put(store, "one", TEXTS, embedder=other)
    assert [d.stale for d in store.documents()] == [False, True]
    assert (store.totals().space, store.totals().next_space) == ("tests", "other")
    assert not store.switch_space()
    assert index.search(vector_of(TEXTS[0]), 1).similarities[0] > 0.999

    put(store, "two", TEXTS[:2], embedder=other)
    assert store.switch_space()
    assert (store.totals().space, store.totals().next_space) == ("other", None)
    assert store.db.rows("SELECT count(*) FROM vectors") == [(6,)]
    assert index.space == other.space
    assert index.search(vector_of(TEXTS[3], other.space), 1).similarities[0] > 0.999


def test_a_forced_switch_leaves_out_what_was_not_embedded(store):
    put(store, "one", TEXTS)
    put(store, "two", TEXTS[:2])
    index = VectorIndex(store)
    store.on_change = index.apply
    other = HashEmbedder(EmbeddingSpace(id="other", n_dimensions=24))
    put(store, "two", TEXTS[:2], embedder=other)

    assert store.switch_space(force=True)

    assert len(index) == 2
    assert [d.stale for d in store.documents()] == [True, False]
    done = put(store, "one", TEXTS, embedder=other)  # old rows, new vectors
    assert (done.n_embedded, done.n_removed) == (4, 0)
    assert len(index) == 6
    assert not any(d.stale for d in store.documents())


def test_going_back_to_the_served_space_gives_the_other_up(store):
    put(store, "one", TEXTS)
    spaces.space_to_write(store.db, EmbeddingSpace(id="other", n_dimensions=24))
    assert store.document("one").stale

    row = spaces.space_to_write(store.db, HashEmbedder().space)

    assert (row.state, store.totals().next_space) == ("active", None)
    assert not store.document("one").stale


def test_deleting_a_hundred_paragraphs_of_many_is_exact(store):
    put(store, "large", [f"Number {i}." for i in range(2000)])
    put(store, "small", [f"Other number {i}." for i in range(100)])
    index = VectorIndex(store)
    store.on_change = index.apply
    assert len(index) == 2100

    receipt, ids = store.delete("small")

    assert receipt.verified
    assert not index.holds_any(ids)
    assert np.array_equal(index.all_vectors().ids, np.arange(1, 2001))
