"""Consent: off until the user says otherwise, and what was forgotten stays forgotten."""

from __future__ import annotations

import pytest

from indexer.consent import Asking, Consent
from indexer.errors import ConsentRequired
from indexer.store import Store
from tests.indexer.conftest import bytes_of, files_hold, put


@pytest.fixture
def consent(store):
    return Consent(store.db)


def test_nothing_is_allowed_before_the_user_has_decided(consent):
    assert consent.state().global_consent == "off"
    consent.decide({"doc": "include"})
    for asking in (Asking(document_id="doc"), Asking(document_id="doc", given=True)):
        with pytest.raises(ConsentRequired):
            consent.check(asking)


@pytest.mark.parametrize(
    ("choice", "decision", "given", "basis"),
    [
        ("ask", "inherit", False, None),
        ("ask", "inherit", True, "request"),
        ("ask", "include", False, "document"),
        ("ask", "exclude", True, None),
        ("on", "inherit", False, "global"),
        ("on", "inherit", True, "request"),
        ("on", "exclude", False, None),
        ("on", "exclude", True, None),
        ("off", "include", True, None),
    ],
)
def test_what_each_decision_allows(consent, choice, decision, given, basis):
    consent.set_global(choice)
    consent.decide({"doc": decision})
    asking = Asking(document_id="doc", given=given)
    if basis is None:
        with pytest.raises(ConsentRequired) as refused:
            consent.check(asking)
        assert "doc" not in str(refused.value).replace("document", "")
    else:
        assert consent.check(asking) == basis


def test_a_folder_the_user_agreed_to_needs_no_more_asking(consent, store):
    consent.set_global("ask")
    with store.db.transaction() as connection:
        connection.execute("INSERT INTO folders VALUES ('yes', 1, 0), ('no', 0, 0)")

    assert consent.check(Asking(document_id="f", place=("yes", "a.txt"))) == "folder"
    with pytest.raises(ConsentRequired):
        consent.check(Asking(document_id="f", place=("no", "a.txt")))


def test_a_forgotten_document_and_its_copies_need_explicit_consent(consent, store):
    texts = ["Something to forget.", "And more."]
    consent.set_global("on")
    put(store, "doc", texts, origin="folder", folder="f", path="a.txt")
    store.delete("doc")

    content = store.content_digest("\n".join(texts).encode())
    text = store.text_digest(store.digests(texts))
    comebacks = [
        Asking(document_id="doc"),
        Asking(document_id="copy", content=content),
        Asking(document_id="converted", text=text),
        Asking(document_id="other", place=("f", "a.txt")),
    ]
    for asking in comebacks:
        with pytest.raises(ConsentRequired):
            consent.check(asking)
    assert consent.check(Asking(document_id="elsewhere", place=("f", "b.txt"))) == "global"
    assert consent.check(Asking(document_id="doc", given=True, content=content)) == "request"
    assert consent.state().n_forgotten == 1

    put(store, "doc", texts, consent="request")
    assert consent.check(Asking(document_id="doc", content=content)) == "global"


def test_a_file_that_vanished_is_not_forgotten(consent, store):
    consent.set_global("on")
    put(store, "doc", ["Moved elsewhere."])
    store.delete("doc", forget=False)

    assert consent.check(Asking(document_id="doc")) == "global"


def test_forgetting_everything_leaves_nothing_and_starts_anew(store, folder):
    put(store, "doc", ["A secret of mine."], keep_text=True)
    Consent(store.db).set_global("on")
    secret, generation = (folder / "secret").read_bytes(), store.generation
    (folder / "damaged-20200101T000000Z-abc.sqlite3").write_bytes(b"A secret of mine.")

    receipt = store.erase()

    assert (receipt.documents_removed, receipt.paragraphs_removed) == (1, 1)
    assert receipt.verified
    assert receipt.n_bytes_erased > 4096
    assert store.documents() == []
    assert store.generation > generation
    assert Consent(store.db).state().global_consent == "off"
    assert (folder / "secret").read_bytes() != secret
    for needle in (b"A secret of mine", bytes_of("A secret of mine."), secret):
        assert files_hold(folder, needle) == []
    put(store, "doc", ["Something new."])
    assert store.totals().n_paragraphs == 1


def test_forgetting_is_finished_after_a_kill(folder):
    store = Store(folder)
    put(store, "doc", ["A secret of mine."], keep_text=True)
    Consent(store.db).set_global("on")
    store.close()
    (folder / "erasing").touch()  # all that a process killed at once leaves

    again = Store(folder)

    assert again.totals().n_documents == 0
    assert Consent(again.db).state().global_consent == "off"
    assert files_hold(folder, b"A secret of mine") == []
    assert not (folder / "erasing").exists()
    again.close()


def test_with_another_secret_nothing_is_taken_in_until_asked_again(folder):
    store = Store(folder)
    Consent(store.db).set_global("on")
    put(store, "doc", ["Kept."])
    store.close()
    (folder / "secret").unlink()

    again = Store(folder)

    assert again.db.repairs == ["secret_replaced"]
    assert Consent(again.db).state().global_consent == "off"
    assert again.totals().n_documents == 1
    again.close()
