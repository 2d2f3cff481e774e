"""A tensor file is believed in nothing: what its header says is compared with its size, and with itself."""

from __future__ import annotations

import contextlib
import hashlib
import json
import pickle
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import save_file

from adapters.errors import AdapterCorrupt, AdapterError, AdapterNotFound, AdapterUnsupported
from adapters.tensor_file import DTYPES, is_finite, parse_header, read_header, read_tensors
from adapters.tensor_writer import header_bytes, raw, write_new

A = {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}
B = {"dtype": "F16", "shape": [4], "data_offsets": [24, 32]}


def tensor_file(path: Path, header: Any, payload: bytes = bytes(32)) -> Path:
    content = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(content).to_bytes(8, "little") + content + payload)
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a.safetensors"


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_what_safetensors_wrote_is_read_and_hashed(path: Path, dtype: Any) -> None:
    rng = np.random.default_rng(0)
    arrays = {f"t{i}": rng.standard_normal((3, i + 1)).astype(dtype) for i in range(5)}
    save_file(arrays, path)

    read = read_tensors(path, "a")

    assert read.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert read.n_bytes == path.stat().st_size
    assert read.arrays.keys() == arrays.keys()
    for name, array in arrays.items():
        assert read.arrays[name].dtype == array.dtype
        assert read.arrays[name].tobytes() == array.tobytes()


@pytest.mark.parametrize("dtype", DTYPES)
def test_safetensors_reads_what_we_wrote(path: Path, dtype: str) -> None:
    array = np.arange(12, dtype=np.float32).reshape(3, 4).astype(DTYPES[dtype])

    written = write_new(
        path, [header_bytes({"x": (dtype, (3, 4))}, {"format": "pt"}), *raw([array])]
    )

    assert written.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert written.n_bytes == path.stat().st_size
    with safe_open(path, framework="pt") as opened:
        assert opened.get_tensor("x").float().tolist() == array.tolist()


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ({"a": A}, "the tensors take 24 bytes, the file has 32"),
        ({"a": A, "b": B | {"data_offsets": [26, 34]}}, "starts at 26, expected 24: a gap"),
        ({"a": A, "b": B | {"data_offsets": [16, 24]}}, "starts at 16, expected 24: an overlap"),
        ({"a": A, "b": B | {"data_offsets": [24, 40]}}, "has 16 bytes, F16"),
        ({"a": A, "b": B | {"data_offsets": [32, 24]}}, "has -8 bytes"),
        ({"a": A, "b": B | {"data_offsets": [-8, 0]}}, r"offsets \[-8, 0\]"),
        ({"a": A, "b": B | {"data_offsets": [24, 2**63]}}, "offsets"),
        ({"a": A, "b": B | {"data_offsets": [24]}}, "offsets"),
        ({"a": A, "b": B | {"data_offsets": [24.0, 32.0]}}, "offsets"),
        ({"a": A, "b": B | {"data_offsets": [False, True]}}, "offsets"),
        ({"a": A, "b": B | {"shape": [-4]}}, "shape"),
        ({"a": A, "b": B | {"shape": [2**32, 2**32]}}, "shape"),
        ({"a": A, "b": B | {"shape": [2**24] * 4}}, "takes 158456325028528675187087900672"),
        ({"a": A, "b": B | {"shape": [1] * 5}}, "shape"),
        ({"a": A, "b": B | {"shape": "4"}}, "shape"),
        ({"a": A, "b": B | {"dtype": "I64"}}, "'I64', expected one of F32, F16, BF16"),
        ({"a": A, "b": B | {"dtype": ["F32"]}}, "expected one of"),
        ({"a": A, "b": B | {"extra": 1}}, "just dtype, shape and data_offsets"),
        ({"a": A, "b": 7}, "just dtype, shape and data_offsets"),
        ({"a": A, "b": B, "__metadata__": {"x": 1}}, "__metadata__"),
        ({f"t{i}": 0 for i in range(9000)}, "9000 tensors, expected at most 8192"),
        (b'{"a": 1, "a": 2}', "the key 'a' is there twice"),
        (b'{"a": ' * 5000 + b"1" + b"}" * 5000, "nested too deeply"),
        (b'{"a": NaN}', "NaN is not a number"),
        (b'{"a"', "not valid JSON"),
        (b"\xff\xfe{}", "not valid JSON"),
        (b"[]", "not a JSON object"),
    ],
)
def test_a_header_that_lies_is_refused_before_any_tensor(
    path: Path, header: Any, said: str
) -> None:
    tensor_file(path, header)

    with pytest.raises(AdapterCorrupt, match=said):
        read_header(path, "a.safetensors")


def test_every_lie_is_in_one_message(path: Path) -> None:
    header = {
        "a": A | {"dtype": "I8"},
        "b": B | {"shape": [5]},
        "c": {"dtype": "F32"},
        "d": A | {"shape": [-1]},
    }
    tensor_file(path, header)

    with pytest.raises(AdapterCorrupt, match="4 mismatch") as caught:
        read_header(path, "a.safetensors")
    assert all(f"'{name}' " in str(caught.value) for name in "abcd")

    tensor_file(path, {f"t{i}": 0 for i in range(40)})
    with pytest.raises(AdapterCorrupt, match=r"40 mismatch.*and 28 more"):
        read_header(path, "a.safetensors")


@pytest.mark.parametrize("length", [2**63, 2**64 - 1, 5 << 20, 400])
def test_a_header_length_beyond_the_file_or_the_limit_is_refused(path: Path, length: int) -> None:
    path.write_bytes(length.to_bytes(8, "little") + b"{}" + bytes(100))

    with pytest.raises(AdapterCorrupt, match=f"header is to have {length} bytes"):
        read_header(path, "a.safetensors")


def test_a_truncated_file_is_refused_wherever_it_ends(path: Path) -> None:
    tensor_file(path, {"a": A, "b": B})
    content = path.read_bytes()

    for n_bytes in range(len(content)):
        path.write_bytes(content[:n_bytes])
        with pytest.raises(AdapterCorrupt):
            read_tensors(path, "a.safetensors")


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (pickle.dumps({"a": [1.0] * 50}, protocol=2), "a pickle"),
        (pickle.dumps({"a": [1.0] * 50}, protocol=5), "a pickle"),
        (b"PK\x03\x04" + bytes(80), "zip archive"),
        (b"GGUF" + bytes(80), "a GGUF file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64, "Git LFS pointer"),
        (b"<!doctype html><title>Not found</title>", "a web page"),
    ],
)
def test_what_only_has_the_name_of_safetensors_is_recognised(
    path: Path, content: bytes, kind: str
) -> None:
    path.write_bytes(content)

    with pytest.raises(AdapterUnsupported, match=f"not a safetensors file: it looks like .*{kind}"):
        read_header(path, "a.safetensors")


def test_size_and_kind_of_file_are_checked_first(path: Path, tmp_path: Path) -> None:
    with pytest.raises(AdapterNotFound, match="is missing"):
        read_header(path, "a.safetensors")
    tensor_file(path, {"a": A, "b": B})
    with pytest.raises(AdapterCorrupt, match="expected at most 100"):
        read_header(path, "a.safetensors", max_bytes=100)
    with pytest.raises(AdapterCorrupt, match="not a regular file"):
        read_header(tmp_path, "a.safetensors")
    (tmp_path / "link").symlink_to(path)
    with pytest.raises(AdapterCorrupt, match="symbolic link"):
        read_header(tmp_path / "link", "a.safetensors")


def n_descriptors() -> int:
    return len(list(Path("/dev/fd").iterdir()))


def test_no_descriptor_stays_open(path: Path) -> None:
    tensor_file(path, {"a": A})
    before = n_descriptors()

    for where in (path, path.parent):
        with pytest.raises(AdapterCorrupt):
            read_tensors(where, "a.safetensors")

    assert n_descriptors() == before


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_bit_pattern_is_judged_as_numpy_judges_it(dtype: str) -> None:
    if dtype == "F32":
        rng = np.random.default_rng(0)
        bits = rng.integers(0, 2**32, 20_000, dtype=np.uint32)
        bits[:3] = [0x7F800000, 0xFF800001, 0x7F7FFFFF]
    else:
        bits = np.arange(1 << 16, dtype=np.uint16)
    values = bits.view(DTYPES[dtype])

    with np.errstate(invalid="ignore"):
        expected = np.isfinite(values.astype(np.float64))

    assert [is_finite(values[i : i + 1], dtype) for i in range(0, len(bits), 7)] == list(
        expected[::7]
    )
    assert is_finite(values[expected], dtype)
    assert not is_finite(values, dtype)


Json = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.sampled_from(["F32", "BF16", "I8", "", "\ud800"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["a", "b", "dtype", "shape", "data_offsets", "__metadata__"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)
Entry = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "F16", "BF16", "F64"]) | Json,
        "shape": st.lists(st.integers(-1, 5), max_size=3) | Json,
        "data_offsets": st.lists(st.integers(-1, 64), min_size=2, max_size=2) | Json,
    }
)


@settings(max_examples=150, deadline=None)
@given(
    header=st.dictionaries(st.text(max_size=3), Entry, max_size=4) | Json,
    n_payload=st.integers(0, 100),
)
def test_any_json_is_a_header_or_an_adapter_error(header: Any, n_payload: int) -> None:
    try:
        infos = parse_header(json.dumps(header).encode(), n_payload, "fuzz")
    except AdapterError:
        return
    assert sum(info.stop - info.start for info in infos.values()) == n_payload


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_any_bytes_are_a_header_or_an_adapter_error(data: st.DataObject) -> None:
    content = bytearray(json.dumps({"a": A, "b": B}).encode())
    for _ in range(data.draw(st.integers(0, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))

    with contextlib.suppress(AdapterError):
        parse_header(bytes(content), 32, "fuzz")
    with contextlib.suppress(AdapterError):
        parse_header(data.draw(st.binary(max_size=64)), 32, "fuzz")
