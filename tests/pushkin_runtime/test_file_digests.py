"""A large file is read once; whatever tells that it has changed, or that the memory has, makes it be read again."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from pushkin_runtime import file_digests
from pushkin_runtime.errors import ModelCorrupt
from pushkin_runtime.file_digests import NAME, FileDigests
from pushkin_runtime.model_store import begin_open, open_model

LIE = "0" * 64


@pytest.fixture(autouse=True)
def _remember_small_files_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_digests, "WORTH_BYTES", 4)
    monkeypatch.setattr(file_digests, "SETTLED_NS", 0)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """Where digests are remembered; made by what writes there."""
    return tmp_path / "home" / "cache"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "weights"
    path.write_bytes(b"weights")
    return path


def of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def ask(path: Path, cache: Path | None, expected: str | None = None) -> str:
    """As a process that starts, asks and ends."""
    digests = FileDigests(cache)
    found = digests.sha256(path, expected=expected)
    digests.save()
    return found


def tell_a_lie(cache: Path) -> None:
    """Make every remembered digest another one, in a memory that is whole: an answer tells where it came from."""
    content = (cache / NAME).read_bytes().partition(b"\n")[2]
    files = json.loads(content)
    for entry in files.values():
        entry["sha256"] = LIE
    changed = json.dumps(files).encode()
    (cache / NAME).write_bytes(of(changed).encode() + b"\n" + changed)


def test_a_file_is_read_once(file: Path, cache: Path) -> None:
    assert ask(file, cache) == of(b"weights")
    tell_a_lie(cache)

    assert ask(file, cache) == LIE
    assert ask(file, None) == of(b"weights")


def test_only_its_owner_may_read_it(file: Path, cache: Path) -> None:
    ask(file, cache)

    assert stat.S_IMODE((cache / NAME).stat().st_mode) == 0o600
    assert [path.name for path in cache.iterdir()] == [NAME]


def test_a_changed_file_is_read_again(file: Path, cache: Path) -> None:
    ask(file, cache)
    tell_a_lie(cache)
    file.write_bytes(b"longer weights")

    assert ask(file, cache) == of(b"longer weights")


def test_the_same_size_and_a_forged_time_do_not_hide_a_change(file: Path, cache: Path) -> None:
    """`utime` sets the modification time to any value; the change time it moves with it."""
    before = file.stat()
    ask(file, cache)
    while (
        file.stat().st_ctime_ns == before.st_ctime_ns
    ):  # a tick of the clock may take milliseconds
        file.write_bytes(b"Weights")
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))

    assert file.stat().st_mtime_ns == before.st_mtime_ns
    assert ask(file, cache) == of(b"Weights")


def test_a_file_put_in_the_place_of_another_is_read(
    file: Path, cache: Path, tmp_path: Path
) -> None:
    ask(file, cache)
    (tmp_path / "other").write_bytes(b"Weights")
    (tmp_path / "other").replace(file)

    assert ask(file, cache) == of(b"Weights")


def test_a_file_just_written_is_not_remembered(
    file: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It might change again within the same tick of the file system's clock."""
    monkeypatch.setattr(file_digests, "SETTLED_NS", 3600 * 10**9)

    assert ask(file, cache) == of(b"weights")
    assert str(file) not in (cache / NAME).read_text()


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[: len(content) // 2],
        lambda content: content.replace(of(b"weights").encode(), LIE.encode()),
        lambda content: b"\0" * len(content),
        lambda content: of(b"[]").encode() + b"\n[]",
        lambda content: of(b'{"a":{}}').encode() + b'\n{"a":{}}',
    ],
    ids=["empty", "torn", "a digest changed", "zeros", "a list", "an entry without parts"],
)
def test_a_damaged_memory_is_an_empty_one(
    file: Path, cache: Path, damage: Callable[[bytes], bytes]
) -> None:
    ask(file, cache)
    (cache / NAME).write_bytes(damage((cache / NAME).read_bytes()))

    assert ask(file, cache) == of(b"weights")
    tell_a_lie(cache)  # it is whole again
    assert ask(file, cache) == LIE


def test_a_cache_that_cannot_be_written_changes_no_answer(file: Path, tmp_path: Path) -> None:
    (tmp_path / "a file").write_text("where a folder should be")

    assert ask(file, tmp_path / "a file") == of(b"weights")
    assert ask(file, tmp_path / "a file" / "cache") == of(b"weights")


def test_what_is_not_expected_is_not_believed(file: Path, cache: Path) -> None:
    ask(file, cache)
    tell_a_lie(cache)

    assert ask(file, cache, expected=of(b"weights")) == of(b"weights")
    assert ask(file, cache) == of(b"weights")  # and what was found is remembered


def test_files_that_are_gone_are_forgotten(file: Path, cache: Path, tmp_path: Path) -> None:
    ask(file, cache)
    file.unlink()
    (tmp_path / "other").write_bytes(b"other")
    ask(tmp_path / "other", cache)

    assert str(file) not in (cache / NAME).read_text()


def test_a_model_keeps_its_digest(
    tiny_model: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = open_model(tiny_model).digest

    assert open_model(tiny_model, cache_dir=cache).digest == digest
    with monkeypatch.context() as patched:
        patched.setattr(file_digests, "_sha256", pytest.fail)
        assert open_model(tiny_model, cache_dir=cache).digest == digest


def test_a_memory_that_lies_accuses_no_model(
    quantized_copy: Path, cache: Path, manifest_writer: Callable[[Path], None]
) -> None:
    manifest_writer(quantized_copy)
    digest = open_model(quantized_copy, cache_dir=cache).digest
    tell_a_lie(cache)

    assert open_model(quantized_copy, cache_dir=cache).digest == digest


def test_a_model_changed_while_nobody_ran_is_refused(
    quantized_copy: Path, cache: Path, manifest_writer: Callable[[Path], None]
) -> None:
    manifest_writer(quantized_copy)
    open_model(quantized_copy, cache_dir=cache)
    weights = bytearray((quantized_copy / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (quantized_copy / "changed").write_bytes(weights)
    (quantized_copy / "changed").replace(quantized_copy / "model.safetensors")
    begun = begin_open(quantized_copy, cache_dir=cache)

    with pytest.raises(ModelCorrupt, match=r"model\.safetensors has another SHA-256"):
        _ = begun.digest


@pytest.fixture
def quantized_copy(quantized_model: Path, tmp_path: Path) -> Path:
    """The quantised checkpoint, to be damaged."""
    return Path(shutil.copytree(quantized_model, tmp_path / "model"))
