"""Watched folders: what is in them is indexed, what leaves them leaves, and nothing outside is ever read."""

from __future__ import annotations

import os
import shutil

import pytest

from indexer.errors import ConsentRequired, DocumentNotFound
from indexer.folder_scan import read_beneath, scan
from indexer.records import Push, PushedText
from indexer.service import ConsentChange
from indexer.watch import FolderWatch, WatchOptions
from tests.indexer.conftest import PATIENCE_S, bytes_of, files_hold


@pytest.fixture
def texts(quick_path):
    root = quick_path / "Texts"
    (root / "drafts").mkdir(parents=True)
    (root / "one.txt").write_text("The first file.")
    (root / "drafts" / "два.md").write_text("Второй файл.\nС двумя абзацами.")
    return root


@pytest.fixture
def watching(open_index, texts):
    opened = open_index(folders={"texts": texts})
    job = opened.index.watch_folder("texts", consent_given=True).result()
    opened.finished(job)
    return opened


def places(watching):
    return {record.path: record for record in watching.index.documents().result()}


def look(watching):
    """Wait for the end of a look at everything that begins now."""
    job = watching.index.watch_folder("texts", consent_given=True).result()
    return watching.finished(job)


def await_places(watching, wanted):
    """Wait until exactly these files are indexed."""
    for n_times in range(1, 200):
        if set(places(watching)) == wanted:
            return
        watching.looked_through(n_times)
    assert set(places(watching)) == wanted


def test_a_folder_of_the_configuration_is_read_with_consent(open_index, texts):
    opened = open_index("ask", folders={"texts": texts})
    with pytest.raises(ConsentRequired):
        opened.index.watch_folder("texts", consent_given=False).result()
    with pytest.raises(DocumentNotFound):
        opened.index.watch_folder("elsewhere", consent_given=True).result()

    job = opened.index.watch_folder("texts", consent_given=True).result()

    done = opened.finished(job)
    assert (done.state, done.n_documents, done.n_failed) == ("done", 2, 0)
    found = places(opened)
    assert set(found) == {"one.txt", "drafts/два.md"}
    assert {record.consent for record in found.values()} == {"folder"}
    assert found["drafts/два.md"].n_paragraphs == 2
    assert "два" not in found["drafts/два.md"].id


def test_only_what_changed_is_read_again(watching, texts):
    n_batches = len(watching.embedder.batches)
    (texts / "one.txt").write_text("The first file, edited.")

    job = look(watching)

    assert job.n_documents <= 1  # the watcher may have been first
    assert watching.embedder.batches[n_batches:] == [["The first file, edited."]]


def test_changes_are_noticed_without_asking(watching, texts):
    (texts / "new.txt").write_text("A new file.")
    (texts / "one.txt").unlink()
    shutil.move(texts / "drafts" / "два.md", texts / "moved.md")

    await_places(watching, {"new.txt", "moved.md"})


def test_a_file_replaced_by_renaming_stays(watching, texts):
    before = places(watching)["one.txt"].id
    (texts / "one.txt.tmp").write_text("Saved anew, the careful way.")
    (texts / "one.txt.tmp").replace(texts / "one.txt")
    look(watching)

    assert places(watching)["one.txt"].id == before
    assert watching.embedder.batches[-1] == ["Saved anew, the careful way."]


def test_a_folder_that_is_not_there_loses_nothing(watching, texts):
    away = texts.with_name("unmounted")
    texts.rename(away)
    job = look(watching)

    assert job.state == "done"
    assert watching.wait_for(lambda e: e.kind == "folder").code == "folder_unavailable"
    assert len(places(watching)) == 2
    away.rename(texts)
    look(watching)
    assert len(places(watching)) == 2


def test_a_forgotten_file_stays_forgotten_and_so_do_its_copies(watching, texts, folder):
    forgotten = places(watching)["one.txt"]
    assert watching.index.delete(forgotten.id).result().verified
    (texts / "copy.txt").write_text("The first file.")
    look(watching)
    assert set(places(watching)) == {"drafts/два.md"}

    (texts / "one.txt").write_text("The first file, continued.")  # the same place
    look(watching)
    assert set(places(watching)) == {"drafts/два.md"}
    assert files_hold(folder, bytes_of("The first file.")) == []
    push = Push(document_id="mine", content=PushedText(text="The first file."))
    with_text = watching.finished(watching.index.push(push).result())
    assert with_text.error_code == "consent_required"

    watching.index.set_consent(ConsentChange(documents={forgotten.id: "include"})).result()
    look(watching)
    assert set(places(watching)) == {"drafts/два.md", "one.txt"}


def test_symbolic_links_lead_nowhere(watching, texts, quick_path):
    outside = quick_path / "outside"
    outside.mkdir()
    (outside / "secret.txt").write_text("Not for the index.")
    (texts / "link.txt").symlink_to(outside / "secret.txt")
    (texts / "linked").symlink_to(outside, target_is_directory=True)
    os.mkfifo(texts / "pipe.txt")
    job = look(watching)

    assert job.n_failed == 0
    assert len(places(watching)) == 2
    for path in ("link.txt", "linked/secret.txt", "pipe.txt", "drafts"):
        with pytest.raises(DocumentNotFound):
            read_beneath(texts, path)


@pytest.mark.parametrize(
    ("rules", "left"),
    [
        ("*.md\n", {"one.txt"}),
        ("drafts/\n", {"one.txt"}),
        ("/drafts/*\n!/drafts/два.md\n", {"one.txt", "drafts/два.md"}),
        ("# a comment\n\n[\n*.txt\n", {"drafts/два.md"}),
        ("*\n", set()),
    ],
)
def test_killahignore_has_the_rules_of_gitignore(texts, rules, left):
    (texts / ".killahignore").write_text(rules)

    assert {file.path for file in scan(texts)} == left


def test_an_ignore_file_further_down_speaks_last(texts):
    (texts / ".killahignore").write_text("*.md\n")
    (texts / "drafts" / ".killahignore").write_text("!два.md\n")

    assert {file.path for file in scan(texts)} == {"one.txt", "drafts/два.md"}


def test_what_becomes_ignored_leaves_the_index(watching, texts):
    (texts / ".killahignore").write_text("one.txt\n")

    await_places(watching, {"drafts/два.md"})


def test_hidden_half_written_and_foreign_files_are_passed_over(texts):
    for name in (".hidden.txt", "~$one.docx", "a.tmp", "b.icloud", "c.png", "d.sh", ".git"):
        (texts / name).write_text("x")
    (texts / "Scrivener.scriv").mkdir()
    (texts / "Scrivener.scriv" / "inner.txt").write_text("x")
    (texts / "n.txt").write_text("x")
    bad = os.fsencode(texts) + b"/\xff\xfe.txt"
    with open(bad, "wb"):  # noqa: PTH123 - a name that is not Unicode
        pass

    assert {file.path for file in scan(texts)} == {"one.txt", "drafts/два.md", "n.txt"}


def test_one_broken_file_does_not_stop_the_others_and_is_not_tried_again(watching, texts):
    (texts / "broken.txt").write_bytes(b"[encrypted]")
    (texts / "zzz.txt").write_text("After the broken one.")
    await_places(watching, {"one.txt", "drafts/два.md", "zzz.txt"})
    assert look(watching).n_documents == 0

    (texts / "broken.txt").write_text("Mended.")
    await_places(watching, {"one.txt", "drafts/два.md", "zzz.txt", "broken.txt"})


def test_a_private_file_leaves_when_it_says_so(watching, texts):
    (texts / "one.txt").write_text("---\nkillah: private\n---\nMine.")

    await_places(watching, {"drafts/два.md"})


def test_after_a_start_only_what_changed_meanwhile_is_read(watching, open_index, texts):
    watching.index.close()
    (texts / "late.txt").write_text("Written while nobody watched.")
    (texts / "one.txt").unlink()

    again = open_index(None, folders={"texts": texts})

    await_places(again, {"drafts/два.md", "late.txt"})
    assert again.embedder.batches == [["Written while nobody watched."]]


def test_a_folder_no_longer_watched_takes_its_documents_along(watching):
    assert watching.index.unwatch_folder("texts").result() == 2
    assert places(watching) == {}
    with pytest.raises(DocumentNotFound):
        watching.index.unwatch_folder("texts").result()


def test_nothing_is_read_while_consent_is_off(watching, texts):
    watching.index.set_consent(ConsentChange(global_consent="off")).result()
    (texts / "new.txt").write_text("A new file.")
    n_batches = len(watching.embedder.batches)
    n_looks = len(watching.looked_through())
    watching.looked_through(n_looks + 1)

    assert len(watching.embedder.batches) == n_batches


def test_a_watch_tells_of_a_folder_that_appears_later(quick_path):
    import threading

    changed = threading.Event()
    root = quick_path / "later"
    watch = FolderWatch(
        {"later": root},
        lambda _: changed.set(),
        WatchOptions(quiet_ms=20, longest_ms=200, retry_s=0.05),
    )
    watch.start()
    assert not changed.wait(0.2)
    root.mkdir()
    assert changed.wait(PATIENCE_S)
    changed.clear()
    (root / "new.txt").touch()
    assert changed.wait(PATIENCE_S)
    watch.close()
