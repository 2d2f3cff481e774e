"""`pushkin index`: the same commands through a running daemon and, when none runs, on the index itself."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest

from daemon.cli import run
from daemon.index_access import open_access
from indexer.store import Store

ENGLISH = (
    "He had lived in that house for thirty years and had never once opened the door to a stranger, "
    "nor had anybody ever thought of knocking at it.\n\n"
    "On the first day of winter somebody knocked, and he went down with a candle in his hand to see."
)
RUSSIAN = (
    "Он прожил в этом доме тридцать лет и ни разу не открыл дверь незнакомому человеку, "
    "да никто и не думал стучаться к нему."
)
CANARY = "canary-file-5"


@pytest.fixture(params=["daemon", "local"])
def ready_home(request, home, monkeypatch, start_daemon, tmp_path):
    """A home with or without a running daemon, and a folder of texts that its configuration names."""
    for name in [name for name in os.environ if name.startswith("PUSHKIN_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PUSHKIN_HOME", str(home))
    texts = tmp_path / "Texts"
    texts.mkdir()
    (texts / f"{CANARY}.txt").write_text(ENGLISH, encoding="utf-8")
    (texts / "второй.md").write_text(RUSSIAN, encoding="utf-8")
    home.mkdir(mode=0o700)
    (home / "config.toml").write_text(f'[index]\nfolders = ["{texts}"]\n', encoding="utf-8")
    if request.param == "daemon":
        start_daemon(home)
    return home


@pytest.fixture
def texts(tmp_path, ready_home):
    return tmp_path / "Texts"


@pytest.fixture
def pushkin(capsys):
    """`pushkin("list", code=0)` runs `pushkin index list --json` and returns what it prints."""

    def call(*arguments: str, code: int = 0, as_json: bool = True):
        capsys.readouterr()
        flags = ["--json"] if as_json else []
        found = run(["index", *arguments, *flags])
        out, err = capsys.readouterr()
        assert found == code, err
        if code == 0 or out:
            return json.loads(out) if as_json else out
        return err

    return call


def test_from_consent_to_forgetting(ready_home, texts, pushkin):
    assert pushkin("consent")["consent"]["global"] == "off"
    refused = pushkin("add", str(texts), code=2)
    assert "off" in refused

    assert pushkin("consent", "ask")["consent"]["global"] == "ask"
    pushkin("add", str(texts), code=2)
    added = pushkin("add", str(texts), "--consent")
    assert [(job["state"], job["n_paragraphs"]) for job in added] == [("done", 2), ("done", 1)]
    assert [job["state"] for job in pushkin("add", str(texts), "--consent")] == ["unchanged"] * 2

    listed = pushkin("list")
    assert {document["id"] for document in listed} == {job["document_id"] for job in added}
    assert CANARY not in json.dumps(listed)
    (receipt,) = pushkin("remove", str(texts / "второй.md"))
    assert (receipt["paragraphs_removed"], receipt["verified"]) == (1, True)
    assert pushkin("remove", "unknown", code=1) == []

    lines = pushkin("export", as_json=False).splitlines()
    kinds = [json.loads(line)["type"] for line in lines]
    assert kinds == ["header", "consent", "document", "paragraph", "paragraph"]
    receipt = pushkin("forget", "--yes")
    assert (receipt["documents_removed"], receipt["verified"]) == (1, True)
    assert pushkin("list") == []
    assert pushkin("consent")["consent"]["global"] == "off"


def test_a_folder_is_watched_by_its_name(ready_home, texts, pushkin):
    pushkin("consent", "on")
    job = pushkin("watch", "Texts")
    assert (job["state"], job["n_documents"], job["n_failed"]) == ("done", 2, 0)
    assert {document["path"] for document in pushkin("list")} == {f"{CANARY}.txt", "второй.md"}
    assert pushkin("rebuild")["n_paragraphs"] == 3
    assert "Texts" in pushkin("watch", "Elsewhere", code=2)

    assert pushkin("watch", "Texts", "--stop")["documents_removed"] == 2
    assert pushkin("list") == []


def test_no_file_name_and_no_text_is_in_the_logs_or_the_index(ready_home, texts, pushkin):
    pushkin("consent", "on")
    (texts / f"{CANARY}.pdf").write_bytes(b"%PDF-1.4 broken")
    pushkin("add", str(texts), code=1)
    pushkin("watch", "Texts", "--stop", code=2)

    for path in [*ready_home.rglob("*")]:
        if path.is_file() and path.name != "config.toml":
            content = path.read_bytes()
            assert CANARY.encode() not in content
            assert b"thirty years" not in content


@pytest.mark.parametrize("ready_home", ["local"], indirect=True)
def test_an_export_into_a_file_is_private_and_overwrites_nothing(ready_home, tmp_path, pushkin):
    target = tmp_path / "export.jsonl"
    pushkin("export", "--output", str(target), as_json=False)

    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert json.loads(target.read_text().splitlines()[0])["type"] == "header"
    pushkin("export", "--output", str(target), code=1, as_json=False)


@pytest.mark.parametrize("ready_home", ["local"], indirect=True)
def test_two_never_write_at_once(ready_home, pushkin):
    ready_home.mkdir(exist_ok=True)
    other = Store(ready_home / "index.noindex")
    assert "Another process" in pushkin("list", code=1)
    other.close()


@pytest.mark.parametrize("ready_home", ["local"], indirect=True)
def test_what_cannot_be_added_says_so(ready_home, tmp_path, pushkin):
    (tmp_path / "program.exe").write_bytes(b"MZ")
    assert ".docx" in pushkin("add", str(tmp_path / "program.exe"), code=2)
    assert "exist" in pushkin("add", str(tmp_path / "none.txt"), code=2)


@pytest.mark.parametrize("ready_home", ["local"], indirect=True)
def test_a_table_is_printed_for_people(ready_home, texts: Path, pushkin):
    pushkin("consent", "on")
    out = pushkin("add", str(texts / "второй.md"), "--id", "mine", as_json=False)
    assert out.split("\t")[:3] == ["mine", "done", "1"]
    assert "mine" in pushkin("list", as_json=False)
    assert "global\ton" in pushkin("consent", as_json=False)
    assert pushkin("consent", "--exclude", "mine")["receipts"][0]["paragraphs_removed"] == 1


@pytest.mark.parametrize("ready_home", ["daemon"], indirect=True)
def test_a_running_daemon_is_used(ready_home):
    from daemon.cli_options import load_config
    from daemon.index_access import RemoteAccess

    with open_access(load_config()) as access:
        assert isinstance(access, RemoteAccess)
