"""Adapters are found by name, and what is wrong with one is said in full, without harming the others."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from adapters.draft import Draft
from adapters.errors import (
    AdapterCorrupt,
    AdapterIncompatible,
    AdapterIneffective,
    AdapterNotFound,
    AdapterUnsupported,
)
from adapters.format import BaseModel
from adapters.install import write
from adapters.registry import AdapterRegistry, AdapterSpec, read_weights

MakeDraft = Callable[..., Draft]
EditManifest = Callable[..., None]


def rewrite(folder: Path, edit: Callable[[dict[str, Any]], None], seal: EditManifest) -> None:
    """Change the tensors and make the manifest agree in size and hash."""
    import hashlib

    path = folder / "adapter.safetensors"
    tensors = load_file(path)
    edit(tensors)
    save_file(tensors, path)
    content = path.read_bytes()
    seal(folder, sha256=hashlib.sha256(content).hexdigest(), n_bytes=len(content))


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_what_was_installed_is_what_is_read(
    registry: AdapterRegistry, root: Path, make_draft: MakeDraft, dtype: str
) -> None:
    draft = make_draft("quiet", rank=4, alpha=16, rslora=True, dtype=dtype)
    write(draft, root)

    spec = registry.find("quiet")
    weights = read_weights(spec)

    assert (weights.scale, spec.manifest.rank, spec.root) == (8.0, 4, root)
    assert weights.modules.keys() == draft.modules.keys()
    for module, (a, b) in draft.modules.items():
        assert weights.modules[module][0].dtype == a.dtype
        assert weights.modules[module][0].tobytes() == a.tobytes()
        assert weights.modules[module][1].tobytes() == b.tobytes()


def test_a_known_adapter_is_not_opened_again(
    registry: AdapterRegistry, installed: AdapterSpec
) -> None:
    assert registry.find("quiet") is registry.find("quiet")


def test_an_adapter_imported_again_under_its_name_is_noticed(
    registry: AdapterRegistry, root: Path, make_draft: MakeDraft, installed: AdapterSpec
) -> None:
    before = registry.find("quiet")

    write(make_draft(seed=1), root, replace=True)

    assert registry.find("quiet").manifest.sha256 != before.manifest.sha256
    assert read_weights(registry.find("quiet")).sha256 != before.manifest.sha256
    with pytest.raises(AdapterCorrupt, match="not the one of the manifest"):
        read_weights(before)


def test_the_earlier_root_hides_the_later(
    tmp_path: Path, base: BaseModel, make_draft: MakeDraft
) -> None:
    own, bundled = tmp_path / "own", tmp_path / "bundled"
    write(make_draft("a", seed=1), own)
    for name in ("a", "b"):
        write(make_draft(name), bundled)
    registry = AdapterRegistry([own, tmp_path / "missing", bundled], base)

    assert registry.find("a").root == own
    assert registry.find("b").root == bundled
    assert [(found.name, found.root) for found in registry.list()] == [("a", own), ("b", bundled)]


@pytest.mark.parametrize(
    "name",
    [
        "../quiet",
        "..",
        ".",
        "%2e%2e",
        "a\0b",
        "/etc/passwd",
        "a/b",
        "",
        "A",
        "a" * 65,
        "кот",
        "a\n",
    ],
)
def test_a_name_that_leads_elsewhere_is_no_adapter(
    registry: AdapterRegistry, installed: AdapterSpec, name: str
) -> None:
    with pytest.raises(AdapterNotFound, match="cannot be an adapter"):
        registry.find(name)


def test_the_nearest_names_are_suggested(registry: AdapterRegistry, installed: AdapterSpec) -> None:
    with pytest.raises(AdapterNotFound, match="Did you mean quiet"):
        registry.find("quite")


def test_links_are_refused(registry: AdapterRegistry, root: Path, installed: AdapterSpec) -> None:
    (root / "linked").symlink_to(installed.path, target_is_directory=True)
    shutil.copytree(installed.path, root / "part")
    (root / "part" / "adapter.safetensors").unlink()
    (root / "part" / "adapter.safetensors").symlink_to(installed.path / "adapter.safetensors")

    for name in ("linked", "part"):
        with pytest.raises(AdapterCorrupt, match="symbolic link"):
            registry.find(name)


def test_what_is_not_a_file_does_not_block(
    registry: AdapterRegistry, installed: AdapterSpec
) -> None:
    (installed.path / "adapter.safetensors").unlink()
    os.mkfifo(installed.path / "adapter.safetensors")

    with pytest.raises(AdapterCorrupt, match="not a regular file"):
        registry.find("quiet")


def test_an_unreadable_file_is_named(
    registry: AdapterRegistry, installed: AdapterSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    really = os.open

    def refuse(path: Any, *args: Any, **kwargs: Any) -> int:
        if str(path).endswith(".safetensors"):
            raise PermissionError(13, "Permission denied", path)
        return really(path, *args, **kwargs)

    monkeypatch.setattr(os, "open", refuse)

    with pytest.raises(AdapterCorrupt, match=r"adapter\.safetensors cannot be read: Permission"):
        registry.find("quiet")


def test_another_base_is_named_with_both_digests(root: Path, installed: AdapterSpec) -> None:
    other = BaseModel(id="other", digest="cd" * 32, modules=dict(installed_modules(installed)))

    with pytest.raises(AdapterIncompatible, match=r"abababababab.*other.*cdcdcdcdcdcd"):
        AdapterRegistry([root], other).find("quiet")


def installed_modules(spec: AdapterSpec) -> dict[str, tuple[int, int]]:
    return {
        name.removesuffix(".lora_a"): (
            spec.tensors[name.removesuffix("a") + "b"].shape[0],
            info.shape[1],
        )
        for name, info in spec.tensors.items()
        if name.endswith(".lora_a")
    }


def test_every_wrong_shape_is_in_one_message(
    registry: AdapterRegistry, installed: AdapterSpec, edit_manifest: EditManifest
) -> None:
    def damage(tensors: dict[str, Any]) -> None:
        tensors["layers.0.self_attn.q_proj.lora_a"] = np.ones((4, 7), np.float32)
        tensors["layers.1.mlp.up_proj.lora_b"] = np.ones((9, 4), np.float32)
        del tensors["layers.2.mlp.down_proj.lora_b"]
        tensors["layers.0.input_layernorm.lora_a"] = np.ones((4, 48), np.float32)
        tensors["layers.0.input_layernorm.lora_b"] = np.ones((48, 4), np.float32)
        tensors["surprise"] = np.ones(2, np.float32)

    rewrite(installed.path, damage, edit_manifest)

    with pytest.raises(AdapterCorrupt) as caught:
        registry.find("quiet")

    message = str(caught.value)
    assert "layers.0.self_attn.q_proj.lora_a has shape (4, 7), expected (4, 48)" in message
    assert "layers.1.mlp.up_proj.lora_b has shape (9, 4), expected (80, 4)" in message
    assert "layers.2.mlp.down_proj.lora_b is missing" in message
    assert "layers.0.input_layernorm' is not an adaptable module" in message
    assert "'surprise' is not the lora_a or lora_b of a module" in message


def test_only_shapes_that_differ_are_an_incompatibility(
    registry: AdapterRegistry, installed: AdapterSpec, edit_manifest: EditManifest
) -> None:
    def damage(tensors: dict[str, Any]) -> None:
        tensors["layers.0.self_attn.q_proj.lora_a"] = np.ones((4, 7), np.float32)

    rewrite(installed.path, damage, edit_manifest)

    with pytest.raises(AdapterIncompatible):
        registry.find("quiet")


def test_rank_4096_is_not_served(
    registry: AdapterRegistry, installed: AdapterSpec, edit_manifest: EditManifest
) -> None:
    def damage(tensors: dict[str, Any]) -> None:
        for name, tensor in tensors.items():
            shape = (4096, tensor.shape[1]) if name.endswith("a") else (tensor.shape[0], 4096)
            tensors[name] = np.ones(shape, np.float32)

    rewrite(installed.path, damage, edit_manifest)
    with pytest.raises(AdapterUnsupported, match="at most 128"):
        registry.find("quiet")

    edit_manifest(installed.path, rank=4096, alpha=4096, scale=1)
    with pytest.raises(AdapterUnsupported, match="rank 4096"):
        registry.find("quiet")


def test_the_manifest_must_agree_with_the_file(
    registry: AdapterRegistry, root: Path, installed: AdapterSpec, edit_manifest: EditManifest
) -> None:
    edit_manifest(installed.path, target_modules=["mlp.up_proj"], n_bytes=17)
    with pytest.raises(AdapterCorrupt, match=r"expected 17.*the manifest adapts mlp.up_proj"):
        registry.find("quiet")

    installed.path.rename(root / "renamed")
    with pytest.raises(AdapterCorrupt, match="the manifest is that of quiet"):
        registry.find("renamed")


def test_a_changed_byte_is_found(registry: AdapterRegistry, installed: AdapterSpec) -> None:
    path = installed.path / "adapter.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)

    with pytest.raises(AdapterCorrupt, match="not the one of the manifest"):
        read_weights(registry.find("quiet"))


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite_are_refused(
    registry: AdapterRegistry,
    root: Path,
    make_draft: MakeDraft,
    edit_manifest: EditManifest,
    dtype: str,
    value: float,
) -> None:
    draft = make_draft(dtype=dtype)
    write(draft, root)

    def damage(tensors: dict[str, Any]) -> None:
        tensors["layers.1.mlp.up_proj.lora_b"][3, 1] = value

    rewrite(root / "quiet", damage, edit_manifest)
    with pytest.raises(AdapterCorrupt, match=r"not finite.*layers\.1\.mlp\.up_proj\.lora_b\."):
        read_weights(registry.find("quiet"))

    draft.modules["layers.1.mlp.up_proj"][1][3, 1] = value
    with pytest.raises(AdapterCorrupt, match="not finite"):
        write(draft, root, replace=True)


def test_an_adapter_without_effect_is_refused(
    registry: AdapterRegistry, root: Path, make_draft: MakeDraft, edit_manifest: EditManifest
) -> None:
    draft = make_draft()
    write(draft, root)

    def damage(tensors: dict[str, Any]) -> None:
        for name in tensors:
            if name.endswith("lora_b"):
                tensors[name] = -0.0 * tensors[name]

    rewrite(root / "quiet", damage, edit_manifest)
    with pytest.raises(AdapterIneffective, match="would change nothing"):
        read_weights(registry.find("quiet"))


@pytest.mark.parametrize(
    "content",
    [
        b'{"format": 1, "training": ' + b'{"a":' * 50_000 + b"1" + b"}" * 50_001,
        b"[" * 100_000,
        b'{"format": 1, "name": "quiet", "name": "loud"}',
        b'{"format": 1, "alpha": NaN}',
        b'{"format": 1, "alpha": 1e999}',
        b'{"format": 1, "rank": ' + b"9" * 5000 + b"}",
        b'{"format": 2}',
        b"",
        b"\xff\xfe",
        b"null",
    ],
    ids=["deep", "brackets", "twice", "nan", "1e999", "digits", "format", "empty", "utf16", "null"],
)
def test_a_hostile_manifest_is_refused(
    registry: AdapterRegistry, installed: AdapterSpec, content: bytes
) -> None:
    (installed.path / "adapter.json").write_bytes(content)

    with pytest.raises(AdapterCorrupt, match=r"adapter\.json"):
        registry.find("quiet")


def test_a_manifest_of_100_mb_is_not_read(
    registry: AdapterRegistry, installed: AdapterSpec
) -> None:
    with (installed.path / "adapter.json").open("wb") as file:
        file.truncate(100 << 20)

    with pytest.raises(AdapterCorrupt, match="expected at most 262144"):
        registry.find("quiet")


def test_every_wrong_value_of_a_manifest_is_in_one_message(
    registry: AdapterRegistry, installed: AdapterSpec, edit_manifest: EditManifest
) -> None:
    edit_manifest(
        installed.path, rank=0, alpha=10**400, sha256="x", target_modules=["lm_head"], n_bytes=-1
    )

    with pytest.raises(AdapterCorrupt) as caught:
        registry.find("quiet")

    for part in ("rank is 0", "alpha is 1000", "sha256 is not", "target_modules must", "n_bytes"):
        assert part in str(caught.value)


def test_a_scale_that_rank_and_alpha_deny_is_refused(
    registry: AdapterRegistry, installed: AdapterSpec, edit_manifest: EditManifest
) -> None:
    edit_manifest(installed.path, scale=16.0)

    with pytest.raises(AdapterCorrupt, match=r"scale is 16.0, but alpha / rank is 2"):
        registry.find("quiet")


def test_broken_adapters_are_listed_beside_the_others(
    registry: AdapterRegistry, root: Path, installed: AdapterSpec
) -> None:
    (root / "empty").mkdir()
    (root / "Bad Name").mkdir()
    (root / "notes.txt").write_text("not an adapter")
    shutil.copytree(installed.path, root / "torn")
    os.truncate(root / "torn" / "adapter.safetensors", 1000)

    found = {listed.name: listed for listed in registry.list()}

    assert found["quiet"].spec is not None
    assert found["quiet"].problem is None
    assert {name for name in found if found[name].problem} == {"'Bad Name'", "empty", "torn"}
    assert "adapter.json is missing" in str(found["empty"].problem)
    with pytest.raises(AdapterNotFound):
        registry.find("notes.txt")


def test_ten_thousand_folders_are_listed_in_part_and_found_at_once(
    registry: AdapterRegistry, root: Path, installed: AdapterSpec
) -> None:
    template = json.loads((installed.path / "adapter.json").read_text())
    for index in range(10_000):
        folder = root / f"a{index:05}"
        folder.mkdir()
        if index < 50:
            template["name"] = folder.name
            (folder / "adapter.json").write_text(json.dumps(template))
            os.link(installed.path / "adapter.safetensors", folder / "adapter.safetensors")

    started = time.perf_counter()
    found = registry.list()
    took_s = time.perf_counter() - started

    assert [listed.spec is not None for listed in found[1:51]] == [True] * 50
    assert found[0].name == "*"
    assert "8977 more folders" in str(found[0].problem)
    assert len(found) == 1025
    assert took_s < 5  # 0.15 s on an idle machine
    assert registry.find("quiet").manifest.name == "quiet"
    with pytest.raises(AdapterNotFound):
        registry.find("b00000")
