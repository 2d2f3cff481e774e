"""The adapters of one model as the commands see them: found, described, and their errors put into ours."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from daemon.cli_options import load_config
from daemon.errors import DaemonError, InputError, LoadFailed, RequestFailed
from daemon.paths import adapter_roots, find_model

if TYPE_CHECKING:
    from adapters.format import BaseModel
    from adapters.registry import AdapterRegistry, AdapterSpec
    from daemon.config import Loaded
    from pushkin_runtime.model_store import ModelSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Shelf:
    """A checked model and the adapters that are installed for it."""

    loaded: Loaded
    model: ModelSpec
    base: BaseModel
    registry: AdapterRegistry

    @property
    def own(self) -> Path:
        """Where adapters are installed."""
        return self.loaded.paths.adapters

    def origin(self, root: Path) -> str:
        """Whose root it is: "home" or "bundled"."""
        return "home" if root == self.own else "bundled"

    def describe(self, spec: AdapterSpec) -> dict[str, Any]:
        """Everything `adapter.json` says, and where it lies."""
        return {
            **asdict(spec.manifest),
            "n_modules": len(spec.tensors) // 2,
            "origin": self.origin(spec.root),
            "folder": str(spec.path),
        }


def open_shelf(model: str | None) -> Shelf:
    """Check the model (None: the configured one); no adapter is looked at yet.

    Raises DaemonError.
    """
    from adapters.registry import AdapterRegistry
    from pushkin_runtime.model_store import base_model, open_model

    loaded = load_config(model=model)
    folder = find_model(loaded.config.runtime.model, loaded.paths)
    with translated():
        spec = open_model(folder)
    base = base_model(spec)
    registry = AdapterRegistry(adapter_roots(folder, loaded.paths), base)
    return Shelf(loaded=loaded, model=spec, base=base, registry=registry)


@contextlib.contextmanager
def translated() -> Iterator[None]:
    """Turn the errors of adapters and models into ours, in this one place."""
    from adapters.errors import AdapterError, AdapterExists, AdapterNotFound
    from pushkin_runtime.errors import EngineUnavailable, InvalidRequest, ModelError

    try:
        yield
    except (AdapterNotFound, AdapterExists, InvalidRequest) as error:
        raise InputError(str(error)) from error
    except AdapterError as error:
        raise RequestFailed(str(error)) from error
    except EngineUnavailable as error:
        raise RequestFailed(str(error)) from error
    except ModelError as error:
        raise LoadFailed(str(error)) from error


def problem_of(spec: AdapterSpec) -> str | None:
    """Read the whole adapter; what is wrong with it, if anything."""
    from adapters.registry import read_weights

    try:
        with translated():
            read_weights(spec)
    except DaemonError as error:
        return str(error)
    return None


def name_from(source: Path) -> str:
    """An adapter's name from that of its source. Raises InputError when none can be made."""
    stem = source.stem if source.suffix == ".gguf" else source.name
    name = re.sub(r"[^a-z0-9._-]+", "-", stem.lower()).strip("-.")[:64]
    if not name:
        raise InputError(f"{source}: no name can be made from this; give one with --name.")
    return name
