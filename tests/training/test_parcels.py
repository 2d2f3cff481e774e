"""What is packed comes out again, and damage is noticed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from training.parcels import join_checkpoint, pack_shards, split_checkpoint, unpack_shards
from training.shards import load_order


def test_all_parts_together_are_the_shards(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    tables = {
        name: rng.integers(0, 16_384, (n, 33), np.uint16) for name, n in (("en", 320), ("ru", 200))
    }
    for name, table in tables.items():
        np.save(tmp_path / f"{name}.npy", table)

    parts = pack_shards(tmp_path, tmp_path / "parts", 12_000)
    counts = unpack_shards(parts, tmp_path / "out")

    assert len(parts) > 2
    assert all(part.stat().st_size < 16_000 for part in parts)
    assert counts == {"en": 320, "ru": 200}
    for name, table in tables.items():
        found = np.load(tmp_path / "out" / f"{name}.npy")
        assert sorted(map(bytes, found)) == sorted(map(bytes, table))
    assert load_order(tmp_path / "out", 0).batch(0, 4).shape == (4, 33)


def test_one_part_alone_holds_both_languages(tmp_path: Path) -> None:
    for name, n_rows in (("en", 300), ("ru", 150)):
        np.save(tmp_path / f"{name}.npy", np.full((n_rows, 9), 5, np.uint16))
    parts = pack_shards(tmp_path, tmp_path / "parts", 900)

    counts = unpack_shards(parts[:1], tmp_path / "out")

    assert counts["en"] / counts["ru"] == pytest.approx(2, rel=0.2)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """Weights that bfloat16 holds exactly."""
    folder = tmp_path / "step-000001"
    folder.mkdir()
    weight = torch.arange(4096).reshape(64, 64).to(torch.bfloat16).float()
    save_file({"a": weight, "b": weight[:3].clone()}, folder / "model.safetensors")
    (folder / "config.json").write_text("{}", encoding="utf-8")
    (folder / "state.json").write_text('{"step": 1}', encoding="utf-8")
    (folder / "optimizer.pt").write_bytes(b"large")
    return folder


def test_a_checkpoint_comes_back(checkpoint: Path, tmp_path: Path) -> None:
    parts = split_checkpoint(checkpoint, tmp_path / "parts", 3000)
    join_checkpoint(tmp_path / "parts", tmp_path / "back")

    assert len(parts) > 2
    assert all(part.stat().st_size <= 3000 for part in parts)
    assert {path.name for path in (tmp_path / "back").iterdir()} == {
        "model.safetensors", "config.json", "state.json",
    }  # fmt: skip
    before = load_file(checkpoint / "model.safetensors")
    after = load_file(tmp_path / "back" / "model.safetensors")
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_missing_and_damaged_parts_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    parts = split_checkpoint(checkpoint, tmp_path / "parts", 3000)
    data = bytearray(parts[1].read_bytes())
    data[50] ^= 1
    parts[1].write_bytes(data)
    with pytest.raises(ValueError, match="damaged"):
        join_checkpoint(tmp_path / "parts", tmp_path / "back")
    parts[1].unlink()
    with pytest.raises(ValueError, match=r"missing: model\.safetensors\.01"):
        join_checkpoint(tmp_path / "parts", tmp_path / "back")
    assert not (tmp_path / "back").exists()


def test_a_part_cannot_write_elsewhere(checkpoint: Path, tmp_path: Path) -> None:
    *_, about = split_checkpoint(checkpoint, tmp_path / "parts", 100_000)
    content = json.loads(about.read_text(encoding="utf-8"))
    content["files"]["../escaped"] = "x"
    about.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(ValueError, match="no file of a checkpoint"):
        join_checkpoint(tmp_path / "parts", tmp_path / "back")
    assert not (tmp_path / "escaped").exists()
