"""An adapter is installed whole or not at all, and the same one always has the same bytes."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adapters import install
from adapters.draft import Draft
from adapters.errors import (
    AdapterCorrupt,
    AdapterError,
    AdapterExists,
    AdapterIncompatible,
    AdapterIneffective,
    AdapterUnsupported,
)
from adapters.install import write
from adapters.registry import AdapterRegistry, AdapterSpec, read_weights

MakeDraft = Callable[..., Draft]


def names(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir())


def test_the_same_draft_makes_the_same_bytes_in_any_order(
    tmp_path: Path, make_draft: MakeDraft
) -> None:
    draft = make_draft()
    backwards = make_draft(modules=dict(reversed(draft.modules.items())))

    first, second = write(draft, tmp_path / "a"), write(backwards, tmp_path / "b")

    for name in ("adapter.json", "adapter.safetensors"):
        assert (first.path / name).read_bytes() == (second.path / name).read_bytes()


def test_it_is_private(root: Path, installed: AdapterSpec) -> None:
    assert [oct(path.stat().st_mode & 0o777) for path in (root, installed.path)] == ["0o700"] * 2
    assert {path.stat().st_mode & 0o777 for path in installed.path.iterdir()} == {0o600}
    assert names(root) == ["quiet"]


def test_an_installed_adapter_is_replaced_only_on_request(
    root: Path, installed: AdapterSpec, make_draft: MakeDraft
) -> None:
    with pytest.raises(AdapterExists, match="quiet is installed already"):
        write(make_draft(seed=1), root)
    assert read_weights(installed).sha256 == installed.manifest.sha256

    assert (
        write(make_draft(seed=1), root, replace=True).manifest.sha256 != installed.manifest.sha256
    )
    assert names(root) == ["quiet"]


def test_a_link_in_its_place_is_not_followed(
    root: Path, tmp_path: Path, make_draft: MakeDraft
) -> None:
    root.mkdir()
    (root / "quiet").symlink_to(tmp_path / "elsewhere")

    with pytest.raises(AdapterExists):
        write(make_draft(), root, replace=True)
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("name", ["../x", "..", "", "a/b", "A", "a\0", "x" * 65])
def test_a_name_that_leads_elsewhere_writes_nothing(
    root: Path, make_draft: MakeDraft, name: str
) -> None:
    with pytest.raises(AdapterCorrupt, match="cannot be an adapter's name"):
        write(make_draft(name), root)
    assert not root.exists()


def test_a_draft_that_could_not_be_used_writes_nothing(
    root: Path, make_draft: MakeDraft, make_modules: Callable[..., Any]
) -> None:
    wrong = make_modules(4)
    wrong["layers.0.mlp.up_proj"] = (np.ones((4, 5), np.float32), np.ones((80, 4), np.float32))
    wrong["layers.1.mlp.up_proj"] = (np.ones((4, 48), np.float32), np.ones((81, 4), np.float32))
    idle = {module: (a, 0 * b) for module, (a, b) in make_modules(4).items()}
    double = {module: (a.astype(np.float64), b) for module, (a, b) in make_modules(4).items()}

    with pytest.raises(
        AdapterIncompatible, match=r"0\.mlp\.up_proj\.lora_a.*1\.mlp\.up_proj\.lora_b"
    ):
        write(make_draft(modules=wrong), root)
    with pytest.raises(AdapterIneffective):
        write(make_draft(modules=idle), root)
    with pytest.raises(AdapterUnsupported, match="rank 200"):
        write(make_draft(rank=200), root)
    with pytest.raises(AdapterError):
        write(make_draft(modules={}), root)
    assert not root.exists()
    assert write(make_draft(modules=double), root).tensors  # mixed: all float32


@pytest.mark.parametrize("failing", ["rename", "fsync"])
@pytest.mark.parametrize("existing", [False, True], ids=["new", "replacing"])
def test_a_write_that_fails_leaves_what_was_there(
    root: Path,
    make_draft: MakeDraft,
    monkeypatch: pytest.MonkeyPatch,
    failing: str,
    existing: bool,
) -> None:
    before = write(make_draft(), root) if existing else None

    def fail(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    really = Path.rename

    def rename(self: Path, target: Path) -> Path:
        if self.name.endswith(".new~"):
            fail()
        return really(self, target)

    if failing == "rename":
        monkeypatch.setattr(Path, "rename", rename)
    else:
        monkeypatch.setattr(os, "fsync", fail)

    with pytest.raises(OSError, match="No space left"):
        write(make_draft(seed=1), root, replace=True)

    assert names(root) == (["quiet"] if existing else [])
    if before is not None:
        assert read_weights(before).sha256 == before.manifest.sha256


def test_what_a_crash_left_is_put_right_by_the_next_write(
    root: Path, installed: AdapterSpec, make_draft: MakeDraft, registry: AdapterRegistry
) -> None:
    (root / ".other.1234.new~").mkdir()
    installed.path.rename(root / ".quiet.old~")
    assert registry.list() == []

    write(make_draft("new"), root)

    assert names(root) == ["new", "quiet"]
    assert registry.find("quiet").manifest == installed.manifest


def test_writers_wait_for_each_other(root: Path, make_draft: MakeDraft) -> None:
    problems: list[Exception] = []

    def run(seed: int) -> None:
        try:
            write(make_draft(seed=seed), root, replace=True)
        except AdapterError as error:
            problems.append(error)

    threads = [threading.Thread(target=run, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert not problems
    assert names(root) == ["quiet"]
    assert install.open_adapter(root, "quiet", make_draft().base)
