"""GGUF LoRA comes in with llama.cpp's meaning; a hostile file ends in an error, at once."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.draft import Draft
from adapters.errors import AdapterCorrupt, AdapterError, AdapterUnsupported
from adapters.format import BaseModel
from adapters.gguf_file import read_gguf
from adapters.gguf_format import import_gguf
from adapters.install import write
from adapters.registry import read_weights

NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
Kind = gguf.GGMLQuantizationType


def write_gguf(
    path: Path,
    modules: dict[str, tuple[Any, Any]],
    *,
    kind: Kind = Kind.F16,
    alpha: float = 8.0,
    architecture: str = "gemma3",
    adapter: str = "lora",
) -> Path:
    """What llama.cpp's convert_lora_to_gguf.py writes."""
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_type("adapter")
    writer.add_string("adapter.type", adapter)
    writer.add_float32("adapter.lora.alpha", alpha)
    writer.add_array("general.tags", ["a", "b"])
    for module, pair in modules.items():
        _, layer, target = module.split(".", 2)
        for part, array in zip("ab", pair, strict=True):
            stored = gguf.quantize(np.asarray(array, np.float32), kind)
            name = f"blk.{layer}.{NAMES[target]}.weight.lora_{part}"
            writer.add_tensor(name, stored, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture
def adapter(tmp_path: Path, make_modules: Callable[..., Any]) -> Path:
    return write_gguf(tmp_path / "adapter.gguf", make_modules(4))


@pytest.mark.parametrize("kind", [Kind.F32, Kind.F16, Kind.BF16, Kind.Q8_0], ids=lambda k: k.name)
def test_every_kind_of_tensor_is_read_as_the_gguf_package_reads_it(
    base: BaseModel, make_modules: Callable[..., Any], tmp_path: Path, kind: Kind
) -> None:
    if kind == Kind.Q8_0:  # blocks of 32 along the rows: rank and inputs must be multiples of 32
        modules = {
            "layers.0.self_attn.o_proj": make_modules(32)["layers.0.self_attn.o_proj"],
            "layers.1.self_attn.o_proj": make_modules(32)["layers.1.self_attn.o_proj"],
        }
    else:
        modules = make_modules(4)
    path = write_gguf(tmp_path / "adapter.gguf", modules, kind=kind)
    expected = {
        t.name: gguf.dequantize(t.data, t.tensor_type) for t in gguf.GGUFReader(path).tensors
    }

    draft = import_gguf(path, name="a", base=base)
    weights = read_weights(write(draft, tmp_path / "adapters"))

    assert weights.scale == 8.0 / draft.rank
    assert weights.modules.keys() == modules.keys()
    for module, pair in weights.modules.items():
        _, layer, target = module.split(".", 2)
        for part, array in zip("ab", pair, strict=True):
            stored = expected[f"blk.{layer}.{NAMES[target]}.weight.lora_{part}"]
            assert np.array_equal(array.astype(np.float32), stored)


def test_matrices_are_not_transposed(
    base: BaseModel, make_modules: Callable[..., Any], tmp_path: Path
) -> None:
    modules = make_modules(4, dtype="bfloat16")
    draft = import_gguf(
        write_gguf(tmp_path / "a.gguf", modules, kind=Kind.BF16), name="a", base=base
    )

    for module, (a, b) in draft.modules.items():
        assert np.array_equal(a.astype(ml_dtypes.bfloat16), modules[module][0])
        assert np.array_equal(b.astype(ml_dtypes.bfloat16), modules[module][1])


def test_alpha_0_is_a_factor_of_1(
    base: BaseModel, make_modules: Callable[..., Any], tmp_path: Path
) -> None:
    path = write_gguf(tmp_path / "a.gguf", make_modules(4), alpha=0.0)

    assert import_gguf(path, name="a", base=base).scale == 1.0


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"architecture": "llama"}, "expected 'gemma3'"),
        ({"adapter": "control_vector"}, "expected 'lora'"),
        ({"kind": Kind.Q4_0}, "expected one of F32"),
    ],
    ids=["architecture", "adapter", "kind"],
)
def test_what_cannot_be_served_is_refused(
    base: BaseModel,
    make_modules: Callable[..., Any],
    tmp_path: Path,
    changes: dict[str, Any],
    said: str,
) -> None:
    modules = {"layers.0.self_attn.o_proj": make_modules(32)["layers.0.self_attn.o_proj"]}
    path = write_gguf(tmp_path / "a.gguf", modules, **changes)

    with pytest.raises(AdapterUnsupported, match=said):
        import_gguf(path, name="a", base=base)


def test_a_tensor_without_a_place_is_refused(
    base: BaseModel,
    make_modules: Callable[..., Any],
    tmp_path: Path,
    make_draft: Callable[..., Draft],
) -> None:
    path = write_gguf(tmp_path / "a.gguf", make_modules(4))
    path.write_bytes(
        path.read_bytes().replace(b"blk.0.attn_q.weight.lora_a", b"blk.0.attn_x.weight.lora_a")
    )

    with pytest.raises(AdapterUnsupported, match=r"attn_x.*q_proj has only one"):
        import_gguf(path, name="a", base=base)


def header(n_tensors: int, n_fields: int, rest: bytes = b"") -> bytes:
    return b"GGUF" + struct.pack("<IQQ", 3, n_tensors, n_fields) + rest


def text(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"GGUF",
        b"PK\x03\x04" + bytes(60),
        struct.pack("<4sI", b"GGUF", 9) + bytes(60),
        header(2**63, 0),
        header(0, 2**63),
        header(0, 1, struct.pack("<Q", 2**60) + bytes(99)),
        header(0, 1, text(b"a") + struct.pack("<IIQ", 9, 0, 2**60) + bytes(99)),
        header(0, 1, text(b"a") + struct.pack("<IIQ", 9, 9, 1) + bytes(99)),
        header(0, 1, text(b"a") + struct.pack("<I", 77) + bytes(99)),
        header(0, 2, (text(b"a") + struct.pack("<II", 4, 1)) * 2),
        header(0, 1, text(b"general.alignment") + struct.pack("<II", 4, 0)),
        header(1, 0, text(b"a") + struct.pack("<I4Q", 4, *[2**62] * 4) + struct.pack("<IQ", 0, 0)),
        header(1, 0, text(b"a") + struct.pack("<IQ", 1, 8) + struct.pack("<IQ", 0, 2**62)),
        header(1, 0, text(b"a") + struct.pack("<IQ", 1, 0) + struct.pack("<IQ", 30, 0)),
        header(1, 0, text(b"a") + struct.pack("<I", 2**31)),
        header(1, 0, text(b"\xff\xfe")),
    ],
    ids=[
        *("empty", "magic", "zip", "version", "tensors", "fields", "text", "array", "arrays"),
        *("kind", "twice", "alignment", "product", "offset", "zero", "dimensions", "utf8"),
    ],
)
def test_junk_ends_in_an_error_at_once(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "junk.gguf"
    path.write_bytes(content)

    with pytest.raises(AdapterError, match=r"junk\.gguf"):
        read_gguf(path, path.name)


def test_a_truncated_file_is_corrupt_wherever_it_ends(adapter: Path) -> None:
    content = adapter.read_bytes()
    for n_bytes in range(0, len(content) - 1, 997):
        adapter.write_bytes(content[:n_bytes])
        with pytest.raises((AdapterCorrupt, AdapterUnsupported)):
            read_gguf(adapter, "a")


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_damage_is_an_adapter_error_or_harmless(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzz.gguf"
    if not path.exists():
        write_gguf(path, {"layers.0.self_attn.o_proj": (np.ones((4, 64)), np.ones((48, 4)))})
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        position = data.draw(st.integers(0, len(content) - 1))
        content[position] = data.draw(st.integers(0, 255))
    damaged = path.with_suffix(".damaged")
    damaged.write_bytes(content)

    with contextlib.suppress(AdapterError):
        read_gguf(damaged, "fuzz")
