"""A draft → an adapter folder, in one step: there is the whole adapter or none."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from adapters.composition import LoraWeights
from adapters.draft import Draft, dtype_name, tensors_of
from adapters.errors import AdapterCorrupt, AdapterExists, listed
from adapters.fit import check_tensors, targets_of
from adapters.format import (
    JSON_NAME,
    WEIGHTS_NAME,
    AdapterManifest,
    is_name,
    parse_manifest,
)
from adapters.registry import AdapterSpec, check_effect, open_adapter
from adapters.tensor_file import TensorInfo, is_finite
from adapters.tensor_writer import Written, header_bytes, raw, write_new

_OLD = ".old~"  # what a crash left of an adapter that was being replaced
_NEW = ".new~"  # what a crash left of one that was being written


def write(draft: Draft, root: Path, *, replace: bool = False) -> AdapterSpec:
    """Check `draft`, write it as a folder in `root`, and return what is installed then.

    The same draft always makes the same bytes. A process that dies in between leaves the old adapter or
    none; the next write to `root` puts the old one back and removes what is left over. While one folder
    takes the other's place there is none of that name for an instant.
    Raises AdapterExists unless `replace`, AdapterError for a draft that could not be used, OSError.
    """
    tensors = tensors_of(draft.modules)
    infos = _check(draft, tensors)
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _alone(root):
        target = root / draft.name
        if target.is_symlink() or (target.exists() and not replace):
            raise AdapterExists(
                f"An adapter {draft.name} is installed already; replace it or choose a name."
            )
        made = root / f".{draft.name}.{secrets.token_hex(4)}{_NEW}"
        try:
            made.mkdir(mode=0o700)
            header = header_bytes({name: (i.dtype, i.shape) for name, i in infos.items()})
            written = write_new(made / WEIGHTS_NAME, [header, *raw(tensors.values())])
            manifest = _manifest(draft, infos, written)
            write_new(made / JSON_NAME, [manifest.to_json()])
            _sync(made)
            _swap(made, target)
        except BaseException:
            shutil.rmtree(made, ignore_errors=True)
            raise
        _sync(root)
    return open_adapter(root, draft.name, draft.base)


def _check(draft: Draft, tensors: dict[str, NDArray[Any]]) -> dict[str, TensorInfo]:
    """Refuse now what the registry would refuse later."""
    if not is_name(draft.name):
        raise AdapterCorrupt(
            f"{ascii(draft.name)[:64]} cannot be an adapter's name: use 1 to 64 of a-z, 0-9, '.', '_', '-'."
        )
    infos = {name: TensorInfo(dtype_name(a), a.shape, 0, 0) for name, a in tensors.items()}
    check_tensors(infos, draft.rank, draft.base).raise_for(draft.name, draft.base)
    broken = [name for name, info in infos.items() if not is_finite(tensors[name], info.dtype)]
    if broken:
        raise AdapterCorrupt(f"{draft.name}: not finite (NaN or infinity): {listed(broken)}.")
    _manifest(draft, infos, Written("0" * 64, 1))
    check_effect(LoraWeights("", draft.scale, draft.modules), draft.name)
    return infos


def _manifest(draft: Draft, infos: dict[str, TensorInfo], written: Written) -> AdapterManifest:
    made = AdapterManifest(
        name=draft.name,
        task=draft.provenance.task,
        rank=draft.rank,
        alpha=draft.alpha,
        scale=draft.scale,
        rslora=draft.rslora,
        target_modules=targets_of(infos),
        base_id=draft.base.id,
        base_digest=draft.base.digest,
        stage=draft.provenance.stage,
        parents=draft.provenance.parents,
        languages=draft.provenance.languages,
        licence=draft.provenance.licence,
        training=dict(draft.provenance.training),
        sha256=written.sha256,
        n_bytes=written.n_bytes,
    )
    return parse_manifest(made.to_json(), draft.name)


@contextlib.contextmanager
def _alone(root: Path) -> Iterator[None]:
    """Hold the only right to write in `root`, after clearing up what a crash left."""
    descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        for left in root.glob(".*~"):
            name = left.name.removeprefix(".").removesuffix(_OLD)
            if left.name.endswith(_OLD) and not (root / name).exists():
                left.rename(root / name)
            elif left.name.endswith((_OLD, _NEW)):
                shutil.rmtree(left, ignore_errors=True)
        yield
    finally:
        os.close(descriptor)


def _swap(made: Path, target: Path) -> None:
    if not target.exists():
        made.rename(target)
        return
    old = target.with_name(f".{target.name}{_OLD}")
    target.rename(old)
    try:
        made.rename(target)
    except OSError:
        old.rename(target)
        raise
    shutil.rmtree(old)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
