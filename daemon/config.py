"""The configuration, and the only reader of the environment and of TOML.

A value comes from, in rising order: its default here, `$PUSHKIN_HOME/config.toml`, the variable
PUSHKIN_<NAME>, a flag. `Loaded.origins` remembers which one won. Unknown names are errors.
"""

from __future__ import annotations

import os
import re
import sys
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args, get_type_hints

from daemon.errors import ConfigError
from daemon.paths import Paths, paths_for
from pushkin_runtime.types import MAX_ADAPTER_SCALE, AdapterRef

EngineChoice = Literal["auto", "mlx", "onnx", "torch", "scripted", "executorch"]
LogLevel = Literal["debug", "info", "warning", "error"]

_TEXTS = tuple[str, ...]
_MODEL_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_ADAPTER = re.compile(r"([a-z0-9._-]{1,64})(?::(-?\d+(?:\.\d+)?))?")
_TRUTH = {"1": True, "true": True, "yes": True, "on": True} | {
    "0": False,
    "false": False,
    "no": False,
    "off": False,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    """port: on 127.0.0.1 and ::1; 0 takes any free one. auth: whether writing needs a token; admin routes
    always do. unix_socket: "off", "on" (`run/pushkin.sock` in the home), or a whole path. editor_port: where the
    shipped editor is answered, without a token; 0 is nowhere, and the editor itself knows 8080 only.
    """

    port: int = 1799
    auth: bool = True
    unix_socket: str = "off"
    editor_port: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeConfig:
    """How to run a model; the meaning of each is in `pushkin_runtime.runtime.RuntimeOptions`.

    model: a name in `models/`, or an absolute path. stall_limit_s: a step that takes longer hangs, unless
    the model is known to be slow. restart_after_s: after so long without life the process ends, for launchd
    to start it again; 0 keeps it. idle_unload_min: so long without a request gives the model's memory back, and
    the next request waits while it is read again; 0 keeps it.
    """

    model: str = "pushkin-mini"
    engine: EngineChoice = "auto"
    context_length: int = 4096
    prefill_chunk: int = 128
    kv_budget_mb: int = 1024
    cache_reuse: int = 256
    queue_limit: int = 32
    max_active: int = 4
    threads: int = 1
    stall_limit_s: int = 30
    restart_after_s: int = 15
    idle_unload_min: int = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class AdaptersConfig:
    """adapters_budget_mb: memory for adapters that are loaded.

    The others say what a request without `adapters` gets: "auto" is the installed adapter with the task's
    name, if it fits the model; "none"; or names with scales, "persona, continue:0.8".
    """

    adapters_budget_mb: int = 512
    continue_adapters: str = "auto"
    rephrase_adapters: str = "auto"
    story_adapters: str = "auto"


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexConfig:
    """The user's documents; whether any is read at all is decided by their consent, not here. store_text: keep paragraphs'
    text too. folders: those that may be watched, named by their last part. encoder: a sentence-transformers model by name
    or folder, "" for the style encoder; encoder_prefix: what it wants before each text ("query: " for E5)."""

    folders: tuple[str, ...] = ()
    store_text: bool = False
    encoder: str = ""
    encoder_prefix: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PersonaConfig:
    """persona: whether answers are conditioned on the indexed documents unless a request says otherwise."""

    persona: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class DictationConfig:
    """microphone: its name, "" for the default one. earcons: short tones when it listens, obeys and ends. spoken_replies:
    whether a voice says which command was done; the microphone is deaf meanwhile."""

    microphone: str = ""
    earcons: bool = False
    spoken_replies: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class LogConfig:
    """log_level: the lowest level written to daemon.jsonl."""

    log_level: LogLevel = "info"


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """All settings; a section of config.toml each."""

    server: ServerConfig = field(default_factory=ServerConfig)
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)
    adapters: AdaptersConfig = field(default_factory=AdaptersConfig)
    index: IndexConfig = field(default_factory=IndexConfig)
    persona: PersonaConfig = field(default_factory=PersonaConfig)
    dictation: DictationConfig = field(default_factory=DictationConfig)
    log: LogConfig = field(default_factory=LogConfig)


@dataclass(frozen=True, slots=True)
class Loaded:
    """A checked configuration; origins: "server.port" → "default", a file, a variable or a flag."""

    config: Config
    paths: Paths
    origins: Mapping[str, str]
    home_origin: str


_SECTIONS: dict[str, type] = {
    "server": ServerConfig,
    "runtime": RuntimeConfig,
    "adapters": AdaptersConfig,
    "index": IndexConfig,
    "persona": PersonaConfig,
    "dictation": DictationConfig,
    "log": LogConfig,
}


def load(
    flags: Mapping[str, object] | None = None,
    *,
    env: Mapping[str, str] | None = None,
    platform: str = sys.platform,
) -> Loaded:
    """Read every source and return the effective configuration.

    flags: "section.key" → value; None values are flags that were not given.
    env: defaults to the process's environment. Raises ConfigError with all problems at once.
    """
    env = os.environ if env is None else env
    paths, home_origin = locate(env=env, platform=platform)
    reader = _Reader()
    reader.read_toml(paths.config_file)
    reader.read_environment(env)
    reader.read_flags(flags or {})
    config = reader.config()
    reader.problems += _cross_checks(config)
    if reader.problems:
        raise ConfigError(reader.problems)
    return Loaded(config, paths, reader.origins, home_origin)


def locate(
    *, env: Mapping[str, str] | None = None, platform: str = sys.platform
) -> tuple[Paths, str]:
    """Return where state lives and what decided it; never fails, reads no file."""
    env = os.environ if env is None else env
    if env.get("PUSHKIN_HOME"):
        home = Path(env["PUSHKIN_HOME"]).expanduser().absolute()
        return paths_for(home, platform=platform), "PUSHKIN_HOME"
    data_home = Path(env["XDG_DATA_HOME"]) if env.get("XDG_DATA_HOME") else None
    return paths_for(None, platform=platform, data_home=data_home), "default"


def adapter_defaults(text: str) -> tuple[AdapterRef, ...] | None:
    """Return the adapters a setting names; None for "auto". Raises ValueError."""
    if text == "auto":
        return None
    if text == "none":
        return ()
    return parse_adapters(text.split(","))


def folder_roots(folders: Iterable[str]) -> dict[str, Path]:
    """Return the folders of a setting by their names. Raises ValueError."""
    roots: dict[str, Path] = {}
    for text in folders:
        root = Path(text).expanduser()
        if not root.is_absolute() or not root.name or ".." in root.parts or root == Path.home():
            raise ValueError("expected whole paths of folders, such as ~/Documents/Stories")
        if root.name in roots:
            raise ValueError("expected folders with different names")
        roots[root.name] = root
    return roots


def parse_adapters(items: Iterable[str]) -> tuple[AdapterRef, ...]:
    """Read "name" and "name:scale". Raises ValueError for anything else, and for a name given twice."""
    refs: list[AdapterRef] = []
    for item in items:
        match = _ADAPTER.fullmatch(item.strip())
        if match is None or match[1] in (ref.name for ref in refs):
            raise ValueError('expected different names such as "formal" or "formal:0.5"')
        scale = float(match[2] or 1)
        if abs(scale) > MAX_ADAPTER_SCALE:
            raise ValueError(f"expected scales of at most ±{MAX_ADAPTER_SCALE:g}")
        refs.append(AdapterRef(match[1], scale))
    return tuple(refs)


def leaves(config: Config) -> dict[str, object]:
    """Flatten to "section.key" → value, in the order of the dataclasses."""
    return {
        f"{section}.{leaf.name}": getattr(getattr(config, section), leaf.name)
        for section, kind in _SECTIONS.items()
        for leaf in fields(kind)
    }


def _leaf_types() -> dict[str, Any]:
    return {
        f"{section}.{name}": kind
        for section, owner in _SECTIONS.items()
        for name, kind in get_type_hints(owner).items()
    }


class _Reader:
    """Collects values, where they came from, and everything wrong with them."""

    def __init__(self) -> None:
        self.types = _leaf_types()
        self.values: dict[str, object] = {}
        self.origins: dict[str, str] = dict.fromkeys(self.types, "default")
        self.problems: list[str] = []

    def read_toml(self, path: Path) -> None:
        try:
            document = tomllib.loads(path.read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            return
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            self.problems.append(f"{path}: cannot be read: {error}")
            return
        for section, table in document.items():
            if section not in _SECTIONS or not isinstance(table, dict):
                known = [f"[{name}]" for name in _SECTIONS]
                self._unknown(f"[{section}]", known, str(path))
                continue
            for key, value in table.items():
                self._take(f"{section}.{key}", value, str(path), _check_type)

    def read_environment(self, env: Mapping[str, str]) -> None:
        variables = {_variable(name): name for name in self.types}
        for variable, text in env.items():
            if not variable.startswith("PUSHKIN_") or variable == "PUSHKIN_HOME":
                continue
            if variable in variables:
                self._take(variables[variable], text, variable, _parse_text)
            else:
                self._unknown(variable, [*variables, "PUSHKIN_HOME"], "the environment")

    def read_flags(self, flags: Mapping[str, object]) -> None:
        for name, value in flags.items():
            if value is not None:
                flag = name.partition(".")[2].replace("_", "-")
                self._take(name, value, f"--{flag}", _check_type)

    def config(self) -> Config:
        sections: dict[str, Any] = {
            section: owner(
                **{
                    leaf.name: self.values[f"{section}.{leaf.name}"]
                    for leaf in fields(owner)
                    if f"{section}.{leaf.name}" in self.values
                }
            )
            for section, owner in _SECTIONS.items()
        }
        return Config(**sections)

    def _take(
        self, name: str, value: object, origin: str, convert: Callable[[Any, Any], object]
    ) -> None:
        if name not in self.types:
            self._unknown(name, list(self.types), origin)
            return
        try:
            self.values[name] = convert(value, self.types[name])
        except ValueError as error:
            self.problems.append(f"{origin}: {name}: {error}")
            return
        self.origins[name] = origin

    def _unknown(self, name: str, known: list[str], origin: str) -> None:
        from difflib import get_close_matches

        nearest = get_close_matches(name, known, n=1, cutoff=0.5)
        hint = f"; did you mean {nearest[0]}?" if nearest else f"; known: {', '.join(known)}"
        self.problems.append(f"{origin}: unknown name {name}{hint}")


def _variable(name: str) -> str:
    return "PUSHKIN_" + name.partition(".")[2].upper()


def _check_type(value: object, kind: Any) -> object:
    """Return `value` if it is of `kind`; bool is not an int here."""
    if kind == _TEXTS:
        if not isinstance(value, list | tuple) or not all(type(item) is str for item in value):
            raise ValueError(f"expected a list of strings, got {value!r}")
        return tuple(value)
    choices = get_args(kind)
    if choices:
        if value not in choices:
            raise ValueError(f"expected one of {', '.join(choices)}, got {value!r}")
        return value
    if type(value) is not kind:
        raise ValueError(f"expected {kind.__name__}, got {value!r}")
    return value


def _parse_text(text: str, kind: Any) -> object:
    if kind == _TEXTS:
        return tuple(item for item in text.split(os.pathsep) if item)
    if kind is bool:
        if text.lower() not in _TRUTH:
            raise ValueError(f"expected true or false, got {text!r}")
        return _TRUTH[text.lower()]
    if kind is int:
        try:
            return int(text)
        except ValueError:
            raise ValueError(f"expected a whole number, got {text!r}") from None
    return _check_type(text, kind)


def _cross_checks(config: Config) -> list[str]:
    """Return what is wrong with values that have the right type."""
    runtime, adapters = config.runtime, config.adapters
    name_ok = Path(runtime.model).is_absolute() or (
        _MODEL_NAME.fullmatch(runtime.model) and runtime.model.strip(".")
    )
    checks = [
        (0 <= config.server.port <= 65535, "server.port: expected 0 to 65535"),
        (0 <= config.server.editor_port <= 65535, "server.editor_port: expected 0 to 65535"),
        (
            config.server.unix_socket in ("off", "on")
            or Path(config.server.unix_socket).is_absolute(),
            'server.unix_socket: expected "off", "on" or a whole path',
        ),
        (name_ok, "runtime.model: expected a name in the models folder or an absolute path"),
        (
            runtime.context_length == 0 or 64 <= runtime.context_length <= 131072,
            "runtime.context_length: expected 64 to 131072, or 0 for the model's own",
        ),
        (1 <= runtime.prefill_chunk <= 8192, "runtime.prefill_chunk: expected 1 to 8192"),
        (runtime.kv_budget_mb >= 16, "runtime.kv_budget_mb: expected 16 or more"),
        (1 <= runtime.queue_limit <= 1024, "runtime.queue_limit: expected 1 to 1024"),
        (1 <= runtime.max_active <= 64, "runtime.max_active: expected 1 to 64"),
        (1 <= runtime.threads <= 256, "runtime.threads: expected 1 to 256"),
        (1 <= runtime.stall_limit_s <= 3600, "runtime.stall_limit_s: expected 1 to 3600"),
        (0 <= runtime.restart_after_s <= 3600, "runtime.restart_after_s: expected 0 to 3600"),
        (0 <= runtime.cache_reuse <= 131072, "runtime.cache_reuse: expected 0 to 131072"),
        (0 <= runtime.idle_unload_min <= 10080, "runtime.idle_unload_min: expected 0 to 10080"),
        (adapters.adapters_budget_mb >= 1, "adapters.adapters_budget_mb: expected 1 or more"),
    ]
    for task in ("continue", "rephrase", "story"):
        name = f"{task}_adapters"
        try:
            adapter_defaults(getattr(config.adapters, name))
        except ValueError as error:
            checks.append((False, f"adapters.{name}: {error}"))
    try:
        folder_roots(config.index.folders)
    except ValueError as error:
        checks.append((False, f"index.folders: {error}"))
    values = leaves(config)
    return [
        f"{message}, got {values[message.partition(':')[0]]!r}" for ok, message in checks if not ok
    ]
