"""Models from Hugging Face, when the user asks for one: pinned hosts, checked against the hub's own digests, whole or not at all.

Nothing else in this program goes to the network. A download that breaks off goes on where it was; a folder appears under its
name only when every file in it has been checked.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, urljoin, urlsplit

from daemon.errors import InputError, RequestFailed

if TYPE_CHECKING:
    import httpx

_MANIFEST = "download.json"
_MAX_HOPS = 5
_TIMEOUT_S = 30.0
_MAX_TRIES = 5  # of one file, each from where the last one broke off
_SHA256, _SHA1 = re.compile(r"[0-9a-f]{64}"), re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A model that can be downloaded. files: what is needed of its repository; others are not fetched."""

    repository: str
    files: tuple[str, ...]
    note: str


SOURCES = {
    "multilingual-e5-small": Source(
        repository="intfloat/multilingual-e5-small",
        files=(
            "config.json",
            "model.safetensors",
            "modules.json",
            "1_Pooling/config.json",
            "sentence_bert_config.json",
            "special_tokens_map.json",
            "tokenizer.json",
            "tokenizer_config.json",
        ),
        note='An encoder of documents. In config.toml: [index] encoder = "multilingual-e5-small", encoder_prefix = "query: "',
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Hub:
    """Where models come from. hosts: everything that may be asked, by the end of its name; redirects included."""

    url: str = "https://huggingface.co"
    hosts: tuple[str, ...] = ("huggingface.co", ".hf.co", ".huggingface.co")
    schemes: tuple[str, ...] = ("https",)

    def check(self, url: str) -> str:
        """The same. Raises RequestFailed for any other place."""
        parts = urlsplit(url)
        host = parts.hostname or ""
        known = any(host == h.lstrip(".") or (h[0] == "." and host.endswith(h)) for h in self.hosts)
        if not known or parts.scheme not in self.schemes:
            raise RequestFailed(f"The download was sent to {host[:100]!r}, which is not asked.")
        return url


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """A file of the hub. digest: SHA-256, or git's SHA-1 for a small one; commit: of the repository."""

    name: str
    url: str
    n_bytes: int
    digest: str
    commit: str


@dataclass(slots=True)
class _Count:
    """Bytes that have come of those that will; `tell` hears of every change."""

    tell: Callable[[int, int], None]
    n_total: int
    n_done: int = 0

    def add(self, n_bytes: int) -> None:
        self.n_done += n_bytes
        self.tell(self.n_done, self.n_total)


def pull(
    name: str, source: Source, models: Path, hub: Hub, advance: Callable[[int, int], None]
) -> Path:
    """Download a model to `models/name`; returns the folder. What is there already is left as it is.

    advance: told how many bytes have come, and how many will.
    Raises InputError when the name is taken by something else, RequestFailed when the hub cannot be reached, refuses, or
    sends something else than it announced.
    """
    folder = models / name
    if folder.exists():
        if (folder / _MANIFEST).is_file():
            return folder
        raise InputError(f"{folder} is there already and was not downloaded: remove it first.")
    partial = models / f".{name}.part"
    with _client(hub) as client:
        listed = [_listed(client, hub, source, file) for file in source.files]
        if len({file.commit for file in listed}) != 1:
            raise RequestFailed("The model changed while it was looked at: try again.")
        count = _Count(advance, sum(file.n_bytes for file in listed))
        for file in listed:
            _fetch(client, hub, file, partial / file.name, count)
    manifest = {
        "repository": source.repository,
        "commit": listed[0].commit,
        "files": {file.name: {"bytes": file.n_bytes, "digest": file.digest} for file in listed},
    }
    (partial / _MANIFEST).write_text(json.dumps(manifest, indent=1), "utf-8")
    partial.rename(folder)
    return folder


@contextmanager
def _client(hub: Hub) -> Iterator[httpx.Client]:
    """A client that follows nothing by itself and takes no proxy from the environment; its failures are ours."""
    import httpx

    try:
        with httpx.Client(timeout=_TIMEOUT_S, follow_redirects=False, trust_env=False) as client:
            yield client
    except httpx.HTTPError as error:
        host = urlsplit(hub.url).hostname
        raise RequestFailed(
            f"{host} could not be read ({type(error).__name__}). The same command goes on where this one ended."
        ) from error


def _listed(client: httpx.Client, hub: Hub, source: Source, name: str) -> Listed:
    """What the hub says about a file; the first answer has it, whatever it redirects to."""
    url = f"{hub.url}/{source.repository}/resolve/main/{quote(name)}"
    answer = client.head(hub.check(url), headers={"Accept-Encoding": "identity"})
    if answer.status_code >= 400:
        raise RequestFailed(f"{name} of {source.repository}: the hub answers {answer.status_code}.")
    headers = answer.headers
    digest = (headers.get("x-linked-etag") or headers.get("etag", "")).removeprefix("W/").strip('"')
    size = headers.get("x-linked-size") or headers.get("content-length", "")
    commit = headers.get("x-repo-commit", "")
    if not (_SHA256.fullmatch(digest) or _SHA1.fullmatch(digest)) or not size.isdigit():
        raise RequestFailed(f"{name} of {source.repository}: the hub names no digest and size.")
    if not _SHA1.fullmatch(commit):
        raise RequestFailed(f"{name} of {source.repository}: the hub names no commit.")
    pinned = f"{hub.url}/{source.repository}/resolve/{commit}/{quote(name)}"
    return Listed(name=name, url=pinned, n_bytes=int(size), digest=digest, commit=commit)


def _fetch(client: httpx.Client, hub: Hub, file: Listed, path: Path, count: _Count) -> None:
    """Download to `path` what of the file is not there yet, and check it."""
    import httpx

    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if path.exists() and path.stat().st_size > file.n_bytes:
        path.unlink()
    n_done = path.stat().st_size if path.exists() else 0
    count.add(n_done)
    for attempt in range(_MAX_TRIES):
        try:
            n_done = _append(client, hub, file, path, count)
        except httpx.TransportError:
            if attempt == _MAX_TRIES - 1:
                raise
            continue
        if n_done >= file.n_bytes:
            break
    if _digest(path, file) != file.digest:
        path.unlink()
        raise RequestFailed(
            f"{file.name} is not what the hub announced, and was deleted: try again."
        )


def _append(client: httpx.Client, hub: Hub, file: Listed, path: Path, count: _Count) -> int:
    """Ask for the rest of a file once; returns how much of it is there. Raises httpx.TransportError when it breaks off."""
    n_done = path.stat().st_size if path.exists() else 0
    if n_done == file.n_bytes:
        return n_done
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={n_done}-"} if n_done else {})
    url = file.url
    for _ in range(_MAX_HOPS):
        with client.stream("GET", hub.check(url), headers=headers) as answer:
            if answer.is_redirect:
                url = urljoin(url, answer.headers["location"])
                continue
            if answer.status_code not in (200, 206):
                raise RequestFailed(f"{file.name}: the hub answers {answer.status_code}.")
            is_rest = answer.status_code == 206
            with path.open("ab" if is_rest else "wb") as written:
                if not is_rest:
                    count.add(-n_done)
                    n_done = 0
                for chunk in answer.iter_raw():
                    n_done += len(chunk)
                    if n_done > file.n_bytes:
                        raise RequestFailed(f"{file.name} is longer than the hub announced.")
                    written.write(chunk)
                    count.add(len(chunk))
                written.flush()
                os.fsync(written.fileno())
            return n_done
    raise RequestFailed(f"{file.name}: the hub redirects in circles.")


def _digest(path: Path, file: Listed) -> str:
    """SHA-256, or SHA-1 as git counts a blob: which of them, the hub's digest says by its length."""
    if len(file.digest) == 64:
        with path.open("rb") as content:
            return hashlib.file_digest(content, "sha256").hexdigest()
    blob = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
    blob.update(path.read_bytes())
    return blob.hexdigest()
