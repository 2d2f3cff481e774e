"""A model folder → a checked `ModelSpec`; nothing is loaded, every mismatch is reported at once.

A folder holds `config.json`, `tokenizer.json`, one or more `*.safetensors` and, for models we ship or
download, `manifest.json`: {"format": 1, "files": {name: {"sha256": hex, "n_bytes": int}}}.
Only safetensors is ever opened; tensor names and shapes are checked from the file headers.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from adapters.format import TARGETS, BaseModel
from pushkin_runtime.errors import ModelCorrupt, ModelNotFound
from pushkin_runtime.file_digests import FileDigests
from pushkin_runtime.model_config import ModelConfig, our_name, parse_config
from pushkin_runtime.tokenizer import TextTokenizer
from pushkin_runtime.types import ModelInfo

MAX_LISTED = 12  # mismatches spelled out in one message; the rest are counted

_FLOATS = ("F32", "F16", "BF16")


@dataclass(frozen=True, slots=True)
class TensorFile:
    """One tensor: its name in our convention, its name in the file, the file."""

    name: str
    stored_name: str
    path: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """A model folder, verified as soon as `digest` has been asked for.

    tensors: by our name, e.g. `layers.0.self_attn.q_proj.weight`; quantised ones have
    `.scales` and `.biases` beside `.weight` (mlx-lm's layout).
    """

    id: str
    path: Path
    config: ModelConfig
    n_bytes: int
    n_parameters: int
    tensors: dict[str, TensorFile]
    identity: Future[str]

    @property
    def digest(self) -> str:
        """SHA-256 (hex) over the names and hashes of the files; part of every KV cache key.

        Waits until they have been read. Raises ModelCorrupt when one is not what the manifest says, OSError.
        """
        return self.identity.result()

    @property
    def quantization(self) -> str:
        """For people: what `Quantization.label` says, or "none"."""
        quantization = self.config.quantization
        return "none" if quantization is None else quantization.label


def open_model(path: Path, *, cache_dir: Path | None = None) -> ModelSpec:
    """Check the model folder `path` and describe it.

    cache_dir: where the hashes of large files are remembered (`file_digests.py`); None: nowhere.
    Raises ModelNotFound (folder or required file missing), ModelCorrupt (size, SHA-256, header, names or
    shapes differ), ModelUnsupported (not a Gemma 3 we can run) or OSError.
    """
    spec = begin_open(path, cache_dir=cache_dir)
    spec.identity.result()
    return spec


def begin_open(path: Path, *, cache_dir: Path | None = None) -> ModelSpec:
    """As `open_model`, but the files are hashed on a thread while the caller goes on.

    Everything is checked except SHA-256: who loads the model in the meantime asks for `digest` before it is used.
    """
    weights = require_files(path)
    files = {f.name: f for f in (path / "config.json", path / "tokenizer.json", *weights)}
    expected = _read_manifest(path, set(files))
    config = parse_config(_read_json(path / "config.json"), path.name)
    tensors, shapes = _scan(weights)
    n_parameters = _check_shapes(path, config, shapes)
    hashed = {name: path / name for name in expected} or files
    return ModelSpec(
        id=path.name,
        path=path,
        config=config,
        n_bytes=sum(f.stat().st_size for f in weights),
        n_parameters=n_parameters,
        tensors=tensors,
        identity=_on_a_thread(lambda: _identity(path, hashed, expected, FileDigests(cache_dir))),
    )


def read_config(path: Path) -> ModelConfig:
    """Return the architecture of the model folder `path`, checking nothing else.

    Raises ModelCorrupt, ModelUnsupported or OSError.
    """
    return parse_config(_read_json(path / "config.json"), path.name)


def open_tokenizer(spec: ModelSpec) -> TextTokenizer:
    """Load the model's tokenizer. Raises ModelCorrupt when it does not fit the embeddings."""
    return TextTokenizer(spec.path / "tokenizer.json", spec.config.vocab_size)


def model_info(spec: ModelSpec, context_length: int) -> ModelInfo:
    """Return the public description of a model loaded with room for `context_length` tokens."""
    return ModelInfo(
        id=spec.id,
        digest=spec.digest,
        n_parameters=spec.n_parameters,
        n_bytes=spec.n_bytes,
        n_layers=spec.config.n_layers,
        hidden_size=spec.config.hidden_size,
        vocab_size=spec.config.vocab_size,
        context_length=context_length,
        window=spec.config.sliding_window,
        quantization=spec.quantization,
    )


def base_model(spec: ModelSpec) -> BaseModel:
    """Return what an adapter of this model has to fit."""
    modules: dict[str, tuple[int, int]] = {}
    for name, shape in expected_shapes(spec.config).items():
        module = name.removesuffix(".weight")
        if module.endswith(TARGETS) and len(shape) == 2:
            modules[module] = shape
    return BaseModel(id=spec.id, digest=spec.digest, modules=modules)


def require_files(path: Path) -> list[Path]:
    """Return the weight files of a model folder that has everything it must have.

    Raises ModelNotFound otherwise; cheap enough to ask before an engine is imported.
    """
    if not path.is_dir():
        raise ModelNotFound(
            f"No model folder at {path}. Expected a folder with config.json, tokenizer.json and "
            "*.safetensors; name one with `model` under [runtime] in config.toml."
        )
    weights = sorted(path.glob("*.safetensors"))
    missing = [n for n in ("config.json", "tokenizer.json") if not (path / n).is_file()]
    missing += [] if weights else ["*.safetensors"]
    if missing:
        raise ModelNotFound(
            f"{path}: missing {', '.join(missing)}. The folder is incomplete: copy or download it again."
        )
    return weights


def expected_shapes(config: ModelConfig) -> dict[str, tuple[int, int] | tuple[int]]:
    """Every weight the architecture needs: our name → float shape (out, in) or (n,)."""
    d, hd = config.hidden_size, config.head_dim
    shapes: dict[str, tuple[int, int] | tuple[int]] = {
        "embed_tokens.weight": (config.vocab_size, d),
        "norm.weight": (d,),
    }
    if not config.tied_embeddings:
        shapes["lm_head.weight"] = (config.vocab_size, d)
    for i in range(config.n_layers):
        p = f"layers.{i}."
        shapes |= {
            p + "self_attn.q_proj.weight": (config.n_heads * hd, d),
            p + "self_attn.k_proj.weight": (config.n_kv_heads * hd, d),
            p + "self_attn.v_proj.weight": (config.n_kv_heads * hd, d),
            p + "self_attn.o_proj.weight": (d, config.n_heads * hd),
            p + "self_attn.q_norm.weight": (hd,),
            p + "self_attn.k_norm.weight": (hd,),
            p + "mlp.gate_proj.weight": (config.intermediate_size, d),
            p + "mlp.up_proj.weight": (config.intermediate_size, d),
            p + "mlp.down_proj.weight": (d, config.intermediate_size),
            p + "input_layernorm.weight": (d,),
            p + "post_attention_layernorm.weight": (d,),
            p + "pre_feedforward_layernorm.weight": (d,),
            p + "post_feedforward_layernorm.weight": (d,),
        }
    return shapes


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except (ValueError, UnicodeDecodeError) as error:
        raise ModelCorrupt(f"{path}: not valid JSON ({error}). Copy the model again.") from error
    if not isinstance(value, dict):
        raise ModelCorrupt(f"{path}: expected a JSON object, got {type(value).__name__}.")
    return value


def _read_manifest(path: Path, needed: set[str]) -> dict[str, str]:
    """Return the SHA-256 of every file the manifest names, {} without one; names and sizes are checked."""
    manifest = path / "manifest.json"
    if not manifest.is_file():
        return {}
    files = _read_json(manifest).get("files")
    if not isinstance(files, dict) or not files:
        raise ModelCorrupt(f"{manifest}: expected a non-empty object under 'files'.")
    problems = [f"{name} is not in the manifest" for name in sorted(needed - files.keys())]
    expected: dict[str, str] = {}
    whole: dict[str, Path] = {}
    for name, entry in sorted(files.items()):
        if Path(name).name != name:
            raise ModelCorrupt(f"{manifest}: file names must not contain folders.")
        file = path / name
        expected[name] = str(entry.get("sha256", ""))
        if not file.is_file():
            problems.append(f"{name} is missing")
        elif file.stat().st_size != entry.get("n_bytes"):
            problems.append(
                f"{name} has {file.stat().st_size} bytes, expected {entry.get('n_bytes')}"
            )
        else:
            whole[name] = file
    if problems:
        hashes = {name: FileDigests().sha256(file) for name, file in whole.items()}
        problems += _changed(hashes, expected)
        raise _corrupt(path, problems)
    return expected


def _identity(
    path: Path, files: dict[str, Path], expected: dict[str, str], digests: FileDigests
) -> str:
    """Return the digest of a model of these files. Raises ModelCorrupt when one is not what is expected of it."""
    hashes = {name: digests.sha256(f, expected=expected.get(name)) for name, f in files.items()}
    digests.save()
    if problems := _changed(hashes, expected):
        raise _corrupt(path, problems)
    return hashlib.sha256(
        "".join(f"{name} {hashes[name]}\n" for name in sorted(hashes)).encode()
    ).hexdigest()


def _changed(hashes: dict[str, str], expected: dict[str, str]) -> list[str]:
    return [
        f"{name} has another SHA-256 than the manifest"
        for name, found in hashes.items()
        if found != expected.get(name, found)
    ]


def _on_a_thread(work: Callable[[], str]) -> Future[str]:
    """Start `work` on a thread that no exit of the process waits for."""
    future: Future[str] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:  # noqa: BLE001 - whoever waits gets it
            future.set_exception(error)

    threading.Thread(target=run, name="model-hashes", daemon=True).start()
    return future


def _scan(weights: list[Path]) -> tuple[dict[str, TensorFile], dict[str, tuple[str, list[int]]]]:
    tensors: dict[str, TensorFile] = {}
    shapes: dict[str, tuple[str, list[int]]] = {}
    for file in weights:
        try:
            with safe_open(file, framework="np") as opened:
                for stored in opened.keys():  # noqa: SIM118 - not a dict
                    name = our_name(stored)
                    if name is None:
                        continue
                    part = opened.get_slice(stored)
                    tensors[name] = TensorFile(name, stored, file)
                    shapes[name] = (part.get_dtype(), list(part.get_shape()))
        except (SafetensorError, OSError) as error:
            raise ModelCorrupt(
                f"{file}: not a readable safetensors file ({error}). It is truncated or damaged: "
                "copy or download the model again."
            ) from error
    return tensors, shapes


def _check_shapes(path: Path, config: ModelConfig, found: dict[str, tuple[str, list[int]]]) -> int:
    """Compare every tensor with the architecture; return the number of parameters."""
    expected = expected_shapes(config)
    problems: list[str] = []
    known: set[str] = set()
    for name, shape in expected.items():
        known.add(name)
        if name not in found:
            problems.append(f"{name} is missing")
            continue
        dtype, got = found[name]
        if dtype == "U32":
            known |= {name.replace(".weight", end) for end in (".scales", ".biases")}
            problems += _quantized_problems(name, shape, config, found)
        elif dtype not in _FLOATS:
            problems.append(f"{name} has dtype {dtype}, expected one of {', '.join(_FLOATS)}")
        elif tuple(got) != shape:
            problems.append(f"{name} has shape {tuple(got)}, expected {shape}")
    ignorable = {"lm_head.weight", "lm_head.scales", "lm_head.biases"}
    problems += [
        f"{name} is not part of this model" for name in sorted(found.keys() - known - ignorable)
    ]
    if problems:
        raise _corrupt(path, problems)
    return sum(shape[0] * (shape[1] if len(shape) == 2 else 1) for shape in expected.values())


def _quantized_problems(
    name: str,
    shape: tuple[int, ...],
    config: ModelConfig,
    found: dict[str, tuple[str, list[int]]],
) -> Iterator[str]:
    quantization = config.quantization
    if quantization is None or len(shape) != 2:
        yield f"{name} is quantised but config.json has no matching 'quantization'"
        return
    out, inner = shape
    own = quantization.of(name.removesuffix(".weight"))
    wanted = {
        ".weight": (out, inner * own.bits // 32),
        ".scales": (out, inner // own.group_size),
        ".biases": (out, inner // own.group_size),
    }
    for end, expected in wanted.items():
        part = name.replace(".weight", end)
        if part not in found:
            yield f"{part} is missing"
        elif tuple(found[part][1]) != expected:
            yield f"{part} has shape {tuple(found[part][1])}, expected {expected}"


def _corrupt(path: Path, problems: list[str]) -> ModelCorrupt:
    listed = "; ".join(problems[:MAX_LISTED])
    more = f"; and {len(problems) - MAX_LISTED} more" if len(problems) > MAX_LISTED else ""
    return ModelCorrupt(
        f"{path}: {len(problems)} mismatch(es): {listed}{more}. Copy or download the model again."
    )
