"""Which adapters are installed, found by name and checked before anything of them is loaded."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import islice
from pathlib import Path

from adapters.composition import LoraWeights
from adapters.errors import (
    AdapterCorrupt,
    AdapterError,
    AdapterIneffective,
    AdapterNotFound,
)
from adapters.fit import check_tensors, targets_of
from adapters.format import (
    JSON_NAME,
    WEIGHTS_NAME,
    AdapterManifest,
    BaseModel,
    is_name,
    parse_manifest,
)
from adapters.tensor_file import TensorInfo, read_header, read_tensors
from adapters.untrusted import read_small, short

MAX_LOOKED_AT = 1024  # folders of one root that `list` checks
MAX_ENTRIES = 16_384  # of a root that are read to choose them from
MAX_CACHED = 1024

_Identity = tuple[tuple[int, int, int, int], ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AdapterSpec:
    """An installed adapter whose manifest and header are right and fit the base; nothing is loaded.

    path: its folder. root: the root it was found in. tensors: the header.
    """

    manifest: AdapterManifest
    path: Path
    root: Path
    tensors: Mapping[str, TensorInfo]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Listed:
    """An adapter, or why the folder that has its name is none: exactly one of spec and problem is set."""

    name: str
    root: Path
    spec: AdapterSpec | None = None
    problem: str | None = None


class AdapterRegistry:
    """The adapters in `roots` for one base; an earlier root hides a later one. Any thread.

    What was checked is remembered until one of the adapter's two files is another one or changes.
    """

    def __init__(self, roots: Sequence[Path], base: BaseModel) -> None:
        self._roots = tuple(roots)
        self._base = base
        self._checked: dict[Path, tuple[_Identity, AdapterSpec]] = {}

    def find(self, name: str) -> AdapterSpec:
        """Return the adapter `name`, without looking at any other; known ones cost two stats.

        Raises AdapterNotFound (with the nearest names), AdapterCorrupt, AdapterIncompatible or
        AdapterUnsupported, with every mismatch.
        """
        if not is_name(name):
            raise AdapterNotFound(
                f"{short(name)} cannot be an adapter: names are 1 to 64 of a-z, 0-9, '.', '_', '-'."
            )
        for root in self._roots:
            identity = _identity(root / name)
            if identity is not None or _is_there(root / name):
                return self._known_or_opened(root, name, identity)
        nearest = get_close_matches(name, _some_names(self._roots), n=3)
        hint = (
            f"Did you mean {', '.join(nearest)}?" if nearest else "`pushkin adapters list` has all."
        )
        raise AdapterNotFound(f"No adapter {name} is installed. {hint}")

    def list(self) -> list[Listed]:
        """Return every adapter by name, broken ones with their problem.

        At most MAX_LOOKED_AT folders of a root are looked at; an entry named "*" says when there are more.
        """
        found: dict[str, Listed] = {}
        for root in self._roots:
            names, n_more = _folders(root)
            for name in names:
                if name not in found:
                    found[name] = self._listed(root, name)
            if n_more:
                problem = f"At least {n_more} more folders in {root.name} were not looked at; remove some."
                found.setdefault("*", Listed(name="*", root=root, problem=problem))
        return [found[name] for name in sorted(found)]

    def _known_or_opened(self, root: Path, name: str, identity: _Identity | None) -> AdapterSpec:
        folder = root / name
        known = self._checked.get(folder)
        if known is not None and known[0] == identity:
            return known[1]
        spec = open_adapter(root, name, self._base)
        if identity is not None:
            if len(self._checked) >= MAX_CACHED:
                with suppress(KeyError, StopIteration, RuntimeError):  # another thread was first
                    del self._checked[next(iter(self._checked))]
            self._checked[folder] = (identity, spec)
        return spec

    def _listed(self, root: Path, name: str) -> Listed:
        if not is_name(name):
            problem = "The folder's name cannot be an adapter's: use a-z, 0-9, '.', '_', '-'."
            return Listed(name=short(name), root=root, problem=problem)
        identity = _identity(root / name)
        try:
            return Listed(name=name, root=root, spec=self._known_or_opened(root, name, identity))
        except AdapterError as error:
            return Listed(name=name, root=root, problem=str(error))


def open_adapter(root: Path, name: str, base: BaseModel) -> AdapterSpec:
    """Check the folder `name` in `root`: manifest, header, shapes. Raises AdapterError subclasses."""
    with _folder(root / name, name) as descriptor:
        try:
            content = read_small(JSON_NAME, f"{name}: {JSON_NAME}", dir_fd=descriptor)
            infos, found = read_header(WEIGHTS_NAME, _weights_of(name), dir_fd=descriptor)
        except AdapterNotFound as error:
            raise AdapterCorrupt(
                f"{error} An adapter is a folder with {JSON_NAME} and {WEIGHTS_NAME}."
            ) from error
    manifest = parse_manifest(content, name)
    problems = check_tensors(infos, manifest.rank, base)
    if manifest.name != name:
        problems.corrupt.append(f"the manifest is that of {manifest.name}")
    if manifest.n_bytes != found.st_size:
        problems.corrupt.append(
            f"{WEIGHTS_NAME} has {found.st_size} bytes, expected {manifest.n_bytes}"
        )
    if targets_of(infos) != _in_order(manifest.target_modules):
        problems.corrupt.append(
            f"the manifest adapts {', '.join(manifest.target_modules)}, "
            f"the file {', '.join(targets_of(infos)) or 'nothing'}"
        )
    if manifest.base_digest != base.digest:
        problems.incompatible.insert(
            0,
            f"made for {short(manifest.base_id)} (digest {manifest.base_digest[:12]}), "
            f"this is {base.id} (digest {base.digest[:12]})",
        )
    problems.raise_for(name, base)
    return AdapterSpec(manifest=manifest, path=root / name, root=root, tensors=infos)


def read_weights(spec: AdapterSpec) -> LoraWeights:
    """Read the adapter's matrices. Any thread; 60 MB take about 60 ms of processor time, mostly SHA-256.

    Raises AdapterCorrupt when the file is not the one of the manifest or not finite, AdapterIneffective
    when no module changes anything.
    """
    manifest = spec.manifest
    where = _weights_of(manifest.name)
    read = read_tensors(spec.path / WEIGHTS_NAME, where)
    if read.sha256 != manifest.sha256 or dict(read.infos) != dict(spec.tensors):
        raise AdapterCorrupt(
            f"{where} is not the one of the manifest: SHA-256 {read.sha256[:12]}, "
            f"expected {manifest.sha256[:12]}. Install it again from its source."
        )
    modules = {
        name.removesuffix(".lora_a"): (a, read.arrays[name.removesuffix("lora_a") + "lora_b"])
        for name, a in read.arrays.items()
        if name.endswith(".lora_a")
    }
    check_effect(LoraWeights(read.sha256, manifest.scale, modules), manifest.name)
    return LoraWeights(read.sha256, manifest.scale, modules)


def check_effect(weights: LoraWeights, where: str) -> None:
    """Raise AdapterIneffective when every module's update is zero."""
    if not any(a.any() and b.any() for a, b in weights.modules.values()):
        raise AdapterIneffective(
            f"{where}: every lora_b or lora_a is zero, so that it would change nothing; "
            "it was saved before it was trained."
        )


def _some_names(roots: Sequence[Path]) -> list[str]:
    """Names to suggest; a few hundred are enough for that."""
    names: list[str] = []
    for root in roots:
        with suppress(OSError), os.scandir(root) as entries:
            names += [entry.name for entry in islice(entries, 256)]
    return [name for name in names if is_name(name)]


def _weights_of(name: str) -> str:
    return f"{name}: {WEIGHTS_NAME}"


def _in_order(targets: tuple[str, ...]) -> tuple[str, ...]:
    return targets_of(
        {f"layers.0.{target}.lora_a": TensorInfo("F32", (), 0, 0) for target in targets}
    )


def _is_there(folder: Path) -> bool:
    """A folder, or a link, which is refused later with a reason."""
    try:
        mode = folder.lstat().st_mode
    except OSError:
        return False
    return stat.S_ISDIR(mode) or stat.S_ISLNK(mode)


def _identity(folder: Path) -> _Identity | None:
    """What changes when one of the two files is replaced or rewritten; None when one cannot be looked at."""
    try:
        found = [(folder / name).lstat() for name in (JSON_NAME, WEIGHTS_NAME)]
    except OSError:
        return None
    return tuple((f.st_dev, f.st_ino, f.st_mtime_ns, f.st_size) for f in found)


@contextmanager
def _folder(path: Path, name: str) -> Iterator[int]:
    """Open a folder, so that its files are opened in it and nowhere else."""
    if path.is_symlink():
        raise AdapterCorrupt(f"{name}: is a symbolic link; put the folder itself there.")
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise AdapterCorrupt(f"{name}: cannot be opened: {error.strerror}.") from error
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _folders(root: Path) -> tuple[list[str], int]:
    """Names of the first folders (and links) of a root, and how many more there are at least."""
    try:
        with os.scandir(root) as entries:
            names = sorted(
                entry.name
                for entry in islice(entries, MAX_ENTRIES)
                if entry.is_dir(follow_symlinks=False) or entry.is_symlink()
                if not entry.name.endswith("~")
            )
    except OSError:
        return [], 0
    return names[:MAX_LOOKED_AT], max(0, len(names) - MAX_LOOKED_AT)
