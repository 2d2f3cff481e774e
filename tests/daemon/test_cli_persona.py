"""`pushkin persona show`, through a running daemon and, when none runs, on the index itself."""

from __future__ import annotations

import json
import os
import sys

import pytest

from daemon.cli import run
from daemon.index import build_index
from indexer import spaces
from indexer.consent import Consent
from indexer.paragraphs import segment
from indexer.portrait_counts import profile
from indexer.records import DocumentUpdate, Source
from indexer.store import Store
from indexer.types import Block, EmbeddingSpace

ENGLISH = (
    "The warden walked to the gate, and the warden looked at the river; nobody came to the gate. "
    "“Shall we go?” said the warden to the dog… The dog did not answer, for it was asleep."
)
RUSSIAN = (
    "— Ведь это дом, — сказал он, — а ведь дом стоит у реки! И дом стоит, и река течёт, и никто "
    "не приходит к реке; ведь незачем."
)
CANARY = "canary-place-8"


@pytest.fixture
def fill(home, monkeypatch):
    """`fill(consent=..., with_profiles=...)` puts two documents into the index of a new home."""
    for name in [name for name in os.environ if name.startswith("PUSHKIN_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PUSHKIN_HOME", str(home))
    home.mkdir(mode=0o700)

    def put(*, consent="on", with_profiles=True, n_times=40) -> None:
        store = Store(home / "index.noindex")
        Consent(store.db).set_global(consent)
        space = spaces.space_to_write(store.db, EmbeddingSpace(id="tests", n_dimensions=8))
        for name, text in (("novel", ENGLISH), ("повесть", RUSSIAN)):
            paragraphs = segment([Block(text)] * n_times)
            digests = store.digests([paragraph.text for paragraph in paragraphs])
            source = Source(
                id=name,
                origin="folder",
                consent="global",
                consented_at=0.0,
                folder="Texts",
                path=f"{CANARY}.txt",
            )
            update = DocumentUpdate(
                source=source,
                content_digest=store.content_digest(text.encode()),
                media_type="text/plain",
                paragraphs=paragraphs,
                space=space.key,
                digests=digests,
                vectors=dict.fromkeys(digests, _unit_vector()),
                profile=profile(paragraphs) if with_profiles else None,
            )
            store.commit(update)
        store.close()

    return put


def _unit_vector():
    import numpy as np

    return np.eye(8, dtype=np.float32)[0]


@pytest.fixture(params=["daemon", "local"])
def ready_home(request, home, fill, start_daemon):
    """A home with two documents, with or without a running daemon."""
    fill()
    if request.param == "daemon":
        start_daemon(home)
    return home


@pytest.fixture
def show(capsys):
    """`show("--json", code=0)` runs `pushkin persona show`; returns what it printed, out and err."""

    def call(*arguments: str, code: int = 0) -> tuple[str, str]:
        capsys.readouterr()
        found = run(["persona", "show", *map(str, arguments)])
        out, err = capsys.readouterr()
        assert found == code, err
        return out, err

    return call


def test_what_was_learned_is_the_same_either_way(ready_home, show):
    out, _ = show("--json")
    persona = json.loads(out)
    assert (persona["consent"], persona["n_documents"], persona["strength"]) == ("on", 2, 1.0)
    assert set(persona["languages"]) == {"en", "ru"}
    assert 0.05 <= persona["min_p"] <= 0.15
    portrait = persona["portrait"]
    assert sum(document["share"] for document in portrait["documents"]) == pytest.approx(1)
    english, russian = sorted(portrait["languages"], key=lambda one: one["language"])
    assert english["sentence_words"]["median"] == 9
    assert (english["marks"]["ellipsis"], english["marks"]["semicolon"]) == (
        pytest.approx(1000 / 36, abs=0.01),
        pytest.approx(1000 / 36, abs=0.01),
    )
    assert russian["dialogue"] == 1
    assert "warden" in {use["word"] for use in english["words"]["favourite"]}
    assert "ведь" in {use["word"] for use in russian["words"]["favourite"]}
    assert CANARY not in out


@pytest.mark.parametrize("ready_home", ["local"], indirect=True)
def test_people_get_tables(ready_home, show):
    out, _ = show()
    rows = dict(line.split("\t", 1) for line in out.splitlines() if "\t" in line)
    assert rows["documents"] == "2"
    assert "English" in rows["languages"]
    assert rows["warden"].split("\t")[1] != ""
    assert {"vocabulary (MTLD)", "novel", "повесть", "ведь", "dash, per 1,000 words"} <= set(rows)
    assert any(block in rows["  spread of lengths"] for block in "▇█")
    assert CANARY not in out


@pytest.mark.slow
@pytest.mark.parametrize("ready_home", ["local"], indirect=True)
def test_the_picture_shows_words_and_documents(ready_home, show, tmp_path):
    pytest.importorskip("matplotlib")
    picture = tmp_path / "portrait.svg"
    show("--plot", picture)
    drawn = picture.read_text()
    assert drawn.startswith("<?xml")
    assert all(f">{word}</text>" in drawn for word in ("warden", "ведь", "novel", "semicolon"))
    assert CANARY not in drawn


@pytest.mark.parametrize("ready_home", ["local"], indirect=True)
def test_without_matplotlib_it_says_what_is_missing(ready_home, show, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    _, err = show("--plot", tmp_path / "portrait.png", code=2)
    assert "pushkin[train]" in err
    _, err = show("--plot", tmp_path / "portrait.bmp", code=2)
    assert ".svg" in err


def test_while_consent_is_off_nothing_is_drawn(fill, show, tmp_path):
    fill(consent="off")
    out, err = show("--json")
    assert json.loads(out)["portrait"] is None
    assert "Consent is off" in err
    show("--plot", tmp_path / "portrait.png", code=2)
    assert not (tmp_path / "portrait.png").exists()


def test_an_empty_index_and_one_without_counts_say_so(home, fill, show):
    fill(with_profiles=False)
    assert "before there were portraits" in show()[1]
    assert run(["index", "remove", "novel", "повесть"]) == 0
    assert "Nothing is indexed" in show()[1]


def test_the_index_of_the_daemon_gives_profiles(home, fill):
    from daemon.cli_options import load_config

    fill()
    index = build_index(load_config(), is_busy=lambda: False, sink=lambda _: None)
    try:
        index.start().result()
        documents, profiles = index.profiles().result()
        assert {document.id for document in documents} == set(profiles) == {"novel", "повесть"}
    finally:
        index.close()
