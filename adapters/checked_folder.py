"""What is trained beside an adapter lies in two files: KIND.json, which vouches for KIND.safetensors.

Both are read with the care that adapters get: no links, a checked header, finite numbers, the SHA-256 that
the manifest names. The manifest's `facts` are for people; nothing here depends on them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from adapters.errors import AdapterError
from adapters.tensor_file import DTYPES, read_tensors
from adapters.tensor_writer import Written, header_bytes, raw, write_new
from adapters.untrusted import parse_json, read_small

FORMAT = 1
MAX_BYTES = 64 << 20
_KEYS = {"format", "kind", "sha256", "n_bytes", "settings", "licence", "languages", "facts"}
Made = TypeVar("Made")
Failure = Callable[[str], Exception]  # the error type of whoever reads


@dataclass(frozen=True, slots=True, eq=False)
class CheckedFolder:
    """kind: the files' stem. sha256: of the tensors' file. settings: what the reader needs beside tensors. failure:
    what is raised."""

    kind: str
    sha256: str
    settings: Mapping[str, Any]
    facts: Mapping[str, Any]
    arrays: Mapping[str, NDArray[Any]]
    failure: Failure

    def build(self, make: Callable[[Mapping[str, NDArray[Any]]], Made]) -> Made:
        """Return make(arrays). Raises `failure` when a tensor is missing or does not fit."""
        try:
            return make(self.arrays)
        except KeyError as error:
            raise self.failure(f"{self.kind}: the tensor {error} is missing.") from error
        except (ValueError, TypeError) as error:
            raise self.failure(f"{self.kind}: {str(error)[:300]}.") from error


def read_folder(folder: Path, kind: str, failure: Failure) -> CheckedFolder:
    """Return the checked content. Raises `failure` with what is wrong."""
    try:
        manifest = parse_json(read_small(folder / f"{kind}.json", f"{kind}.json"))
        tensors = read_tensors(
            folder / f"{kind}.safetensors", f"{kind}.safetensors", max_bytes=MAX_BYTES
        )
    except AdapterError as error:
        raise failure(str(error)) from error
    except ValueError as error:
        raise failure(f"{kind}.json is not valid JSON: {str(error)[:120]}.") from error
    if not isinstance(manifest, dict) or manifest.keys() != _KEYS:
        raise failure(f"{kind}.json must have just the keys {', '.join(sorted(_KEYS))}.")
    if (manifest["format"], manifest["kind"]) != (FORMAT, kind):
        raise failure(f'{kind}.json: expected "format": {FORMAT}, "kind": "{kind}".')
    if (manifest["sha256"], manifest["n_bytes"]) != (tensors.sha256, tensors.n_bytes):
        raise failure(
            f"{kind}.safetensors is not the file that {kind}.json describes: copy both again."
        )
    if not isinstance(manifest["settings"], dict) or not isinstance(manifest["facts"], dict):
        raise failure(f"{kind}.json: settings and facts must be objects.")
    return CheckedFolder(
        kind, tensors.sha256, manifest["settings"], manifest["facts"], tensors.arrays, failure
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """What a manifest says beside the digest. settings: numbers and strings that the reader needs."""

    settings: Mapping[str, Any]
    licence: str
    languages: tuple[str, ...] = ("en", "ru")
    facts: Mapping[str, Any]


def write_folder(
    folder: Path, kind: str, arrays: Mapping[str, NDArray[Any]], about: About
) -> Written:
    """Write both files, the manifest last, each to a temporary name and renamed; a card is left alone."""
    folder.mkdir(parents=True, exist_ok=True)
    names = {np.dtype(dtype): name for name, dtype in DTYPES.items()}
    ordered = {name: np.ascontiguousarray(array) for name, array in sorted(arrays.items())}
    header = header_bytes({name: (names[a.dtype], a.shape) for name, a in ordered.items()})
    written = _replace(folder / f"{kind}.safetensors", [header, *raw(ordered.values())])
    manifest = {
        "format": FORMAT,
        "kind": kind,
        "sha256": written.sha256,
        "n_bytes": written.n_bytes,
        "settings": dict(about.settings),
        "licence": about.licence,
        "languages": list(about.languages),
        "facts": dict(about.facts),
    }
    text = json.dumps(manifest, ensure_ascii=False, indent=2) + "\n"
    _replace(folder / f"{kind}.json", [text.encode()])
    return written


def _replace(path: Path, parts: list[bytes | memoryview]) -> Written:
    temporary = path.with_name(f".{path.name}.new")
    temporary.unlink(missing_ok=True)
    written = write_new(temporary, parts)
    temporary.replace(path)
    return written
