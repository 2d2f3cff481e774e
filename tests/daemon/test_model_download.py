"""`pushkin models pull` against a hub on the loopback: checked, resumed, whole or not at all, and nowhere else."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from daemon.errors import InputError, RequestFailed
from daemon.model_download import SOURCES, Hub, Source, pull

COMMIT = "c" * 40
FILES = {
    "config.json": b'{"a": 1}\n',
    "1_Pooling/config.json": b"{}",
    "model.safetensors": bytes(range(256)) * 9000,
}
SOURCE = Source(repository="someone/model", files=tuple(FILES), note="")


def git_sha1(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class FakeHub(ThreadingHTTPServer):
    """Answers as Hugging Face does: a HEAD with digests, large files by a redirect, parts of files.

    breaks_after: bytes of one answer, after which the connection is cut. asked: (path, Range) of each GET.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answers)
        self.asked: list[tuple[str, str | None]] = []
        self.breaks_after: list[int] = []
        self.sent = dict(FILES)
        self.commit = COMMIT
        self.redirect_to: str | None = None
        self.digests = True

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Answers(BaseHTTPRequestHandler):
    server: FakeHub

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._announce(self._name())
        self.end_headers()

    def do_GET(self) -> None:
        self.server.asked.append((self.path, self.headers.get("Range")))
        name = self._name()
        if name == "model.safetensors" and not self.path.startswith("/cdn/"):
            self.send_response(302)
            self.send_header("Location", self.server.redirect_to or f"/cdn/{name}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        content = self.server.sent[name]
        asked = self.headers.get("Range")
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0
        self.send_response(206 if asked else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        n = (
            self.server.breaks_after.pop()
            if name.startswith("model") and self.server.breaks_after
            else None
        )
        self.wfile.write(content[start:][:n])
        if n is not None:
            self.close_connection = True

    def _name(self) -> str:
        for name in sorted(FILES, key=len, reverse=True):
            if self.path.endswith(f"/{name}"):
                return name
        raise AssertionError(self.path)

    def _announce(self, name: str) -> None:
        content = FILES[name]
        self.send_response(200)
        self.send_header("X-Repo-Commit", self.server.commit)
        if not self.server.digests:
            return
        if name.endswith(".safetensors"):
            self.send_header("X-Linked-Etag", f'"{hashlib.sha256(content).hexdigest()}"')
            self.send_header("X-Linked-Size", str(len(content)))
        else:
            self.send_header("ETag", f'"{git_sha1(content)}"')
        self.send_header("Content-Length", str(len(content)))


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with FakeHub() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def fetch(
    server: FakeHub, models: Path, advance: Callable[[int, int], None] = lambda *_: None
) -> Path:
    hub = Hub(url=server.url, hosts=("127.0.0.1",), schemes=("http",))
    return pull("model", SOURCE, models, hub, advance)


def test_a_model_is_downloaded_checked_and_only_once(hub: FakeHub, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    folder = fetch(hub, tmp_path, lambda *counts: told.append(counts))
    n_asked = len(hub.asked)

    assert {name: (folder / name).read_bytes() for name in FILES} == FILES
    manifest = json.loads((folder / "download.json").read_text())
    assert manifest["commit"] == COMMIT
    total = sum(map(len, FILES.values()))
    assert told[-1] == (total, total)
    assert told == sorted(told)
    assert all(f"/{COMMIT}/" in path or path.startswith("/cdn/") for path, _ in hub.asked)
    assert fetch(hub, tmp_path) == folder
    assert len(hub.asked) == n_asked
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_broken_connection_goes_on_where_it_was(hub: FakeHub, tmp_path: Path) -> None:
    hub.breaks_after = [500_000, 100_000]
    folder = fetch(hub, tmp_path)

    assert (folder / "model.safetensors").read_bytes() == FILES["model.safetensors"]
    ranges = [part for path, part in hub.asked if path.startswith("/cdn/")]
    assert ranges == [None, "bytes=100000-", "bytes=600000-"]


def test_a_download_that_was_killed_goes_on_where_it_was(hub: FakeHub, tmp_path: Path) -> None:
    hub.breaks_after = [1000] * 5
    with pytest.raises(RequestFailed, match="goes on where this one ended"):
        fetch(hub, tmp_path)
    assert not (tmp_path / "model").exists()
    n_there = (tmp_path / ".model.part" / "model.safetensors").stat().st_size
    hub.asked.clear()
    folder = fetch(hub, tmp_path)

    assert n_there == 5000
    assert hub.asked[-1][1] == f"bytes={n_there}-"
    assert (folder / "model.safetensors").read_bytes() == FILES["model.safetensors"]


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_other_bytes_than_announced_are_not_kept(hub: FakeHub, tmp_path: Path, name: str) -> None:
    hub.sent[name] = b"x" + FILES[name][1:]
    with pytest.raises(RequestFailed, match="not what the hub announced"):
        fetch(hub, tmp_path)

    assert not (tmp_path / "model").exists()
    assert not (tmp_path / ".model.part" / name).exists()


def test_more_bytes_than_announced_are_not_taken(hub: FakeHub, tmp_path: Path) -> None:
    hub.sent["model.safetensors"] += b"x"
    with pytest.raises(RequestFailed, match="longer than"):
        fetch(hub, tmp_path)


@pytest.mark.parametrize(
    "place", ["http://localhost:1/x", "http://127.0.0.1.evil.example/x", "file:///etc/passwd"]
)
def test_a_redirect_elsewhere_is_not_followed(hub: FakeHub, tmp_path: Path, place: str) -> None:
    hub.redirect_to = place
    with pytest.raises(RequestFailed, match="not asked"):
        fetch(hub, tmp_path)


def test_a_hub_that_vouches_for_nothing_is_not_believed(hub: FakeHub, tmp_path: Path) -> None:
    hub.digests = False
    with pytest.raises(RequestFailed, match="no digest"):
        fetch(hub, tmp_path)


def test_a_name_that_is_taken_is_left_alone(hub: FakeHub, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    with pytest.raises(InputError, match="remove it first"):
        fetch(hub, tmp_path)

    assert not hub.asked


def test_only_the_hub_itself_is_asked_and_only_encrypted() -> None:
    hub = Hub()
    for url in ("https://huggingface.co/a", "https://cas-bridge.xethub.hf.co/a"):
        assert hub.check(url) == url
    for url in ("http://huggingface.co/a", "https://nothf.co/a", "https://huggingface.co.evil/a"):
        with pytest.raises(RequestFailed):
            hub.check(url)


def test_an_unknown_model_is_answered_with_those_that_are_known(home: Path, pushkin) -> None:
    result = pushkin("models", "pull", "../evil")

    assert result.returncode == 2
    assert b"multilingual-e5-small" in result.stderr
    assert not (home / "models").exists()


def test_what_can_be_pulled_holds_no_pickle() -> None:
    for source in SOURCES.values():
        assert all(name.endswith((".json", ".safetensors")) for name in source.files)
