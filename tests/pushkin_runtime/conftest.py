"""A tiny random Gemma 3 in the three layouts we load, and engines over it.

Six layers (five local, one global) with a window of 16 tokens, so every test crosses the window.
"""

from __future__ import annotations

import hashlib
import json
import queue
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from adapters.format import BaseModel
from pushkin_runtime.adapter_pool import AdapterOptions
from pushkin_runtime.engines import executorch_export
from pushkin_runtime.engines.base import Engine, EngineOptions
from pushkin_runtime.engines.registry import ENGINES, EngineChoice, create_engine
from pushkin_runtime.engines.scripted_engine import BASE, ScriptedEngine
from pushkin_runtime.model_config import parse_config
from pushkin_runtime.model_store import base_model, expected_shapes, open_model
from pushkin_runtime.runtime import Runtime, RuntimeOptions
from pushkin_runtime.sampling_types import SamplingOverrides
from pushkin_runtime.types import AdapterRef, Done, Event, Failed, GenerationRequest
from training.tokenizer import save_tokenizer, train_tokenizer

WINDOW = 16
CONFIG: dict[str, Any] = {
    "model_type": "gemma3_text",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "vocab_size": 512,
    "max_position_embeddings": 512,
    "sliding_window": WINDOW,
    "sliding_window_pattern": 6,
    "query_pre_attn_scalar": 32,
    "rms_norm_eps": 1e-6,
    "rope_parameters": {
        "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1_000_000.0},
        "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
    },
    "tie_word_embeddings": True,
}
TEXT = (
    "The old house stood by the river, and nobody had lived in it since the winter of the great snow. "
    "Старый дом стоял у реки, и никто не жил в нём с той зимы, когда выпал большой снег. "
)


def random_weights(config: dict[str, Any] = CONFIG) -> dict[str, np.ndarray]:
    """Float weights by our names, scaled so that logits spread over a few units."""
    rng = np.random.default_rng(0)
    shapes = expected_shapes(parse_config(config, "tiny"))
    return {
        name: (rng.standard_normal(shape) * (0.3 if "norm" in name else 0.1)).astype(np.float32)
        for name, shape in shapes.items()
    }


def write_model(path: Path, config: dict[str, Any], tensors: dict[str, np.ndarray]) -> Path:
    """Write config, weights and tokenizer, without a manifest."""
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps(config))
    save_file(tensors, path / "model.safetensors")
    save_tokenizer(train_tokenizer(iter([TEXT * 20]), vocab_size=CONFIG["vocab_size"]), path)
    return path


def write_manifest(path: Path) -> None:
    """Write the manifest of everything in the folder."""
    files = {
        f.name: {"sha256": hashlib.sha256(f.read_bytes()).hexdigest(), "n_bytes": f.stat().st_size}
        for f in path.iterdir()
        if f.name != "manifest.json"
    }
    (path / "manifest.json").write_text(json.dumps({"format": 1, "files": files}))


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face text checkpoint."""
    path = tmp_path_factory.mktemp("models") / "tiny"
    return write_model(path, CONFIG, {f"model.{k}": v for k, v in random_weights().items()})


@pytest.fixture(scope="session")
def tiny_base(tiny_model: Path) -> BaseModel:
    """What an adapter of the tiny checkpoint has to fit."""
    return base_model(open_model(tiny_model))


@pytest.fixture(scope="session")
def tiny_weights() -> dict[str, np.ndarray]:
    """The tiny checkpoint's weights by our names."""
    return random_weights()


@pytest.fixture(scope="session")
def multimodal_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same weights in the layout of gemma-3-4b-pt, with a vision part to ignore."""
    nested = {k: v for k, v in CONFIG.items() if k != "vocab_size"}
    config = {
        "model_type": "gemma3",
        "text_config": nested | {"vocab_size": 512},
        "vision_config": {"hidden_size": 32},
    }
    tensors = {f"language_model.model.{k}": v for k, v in random_weights().items()}
    tensors["vision_tower.vision_model.post_layernorm.weight"] = np.ones(32, np.float32)
    tensors["multi_modal_projector.mm_soft_emb_norm.weight"] = np.ones(32, np.float32)
    return write_model(tmp_path_factory.mktemp("models") / "tiny-multimodal", config, tensors)


@pytest.fixture(scope="session")
def quantized_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same weights quantised as mlx-lm does: 4 bits, groups of 64, embeddings too."""
    import mlx.core as mx

    tensors: dict[str, np.ndarray] = {}
    for name, value in random_weights().items():
        if value.ndim == 1:
            tensors[f"model.{name}"] = value
            continue
        parts = mx.quantize(mx.array(value), group_size=64, bits=4)
        for end, part in zip((".weight", ".scales", ".biases"), parts, strict=True):
            tensors[f"model.{name.removesuffix('.weight')}{end}"] = np.array(part)
    config = CONFIG | {"quantization": {"group_size": 64, "bits": 4, "mode": "affine"}}
    return write_model(tmp_path_factory.mktemp("models") / "tiny-int4", config, tensors)


@pytest.fixture
def quantized_with(tmp_path: Path) -> Callable[..., Path]:
    """`quantized_with(bits, biases)`: a checkpoint of random codes in groups of 64, its biases made from its scales."""

    def make(bits: int, biases: Callable[[np.ndarray, int], np.ndarray]) -> Path:
        rng = np.random.default_rng(1)
        step = 0.1 / (2**bits / 12**0.5)  # weights spread over about 0.1
        tensors: dict[str, np.ndarray] = {}
        for name, shape in expected_shapes(parse_config(CONFIG, "tiny")).items():
            stem = f"model.{name.removesuffix('.weight')}"
            if len(shape) == 1:
                tensors[f"{stem}.weight"] = np.zeros(shape, np.float32)
                continue
            n_out, n_in = shape
            scales = (step * rng.uniform(0.5, 1.5, (n_out, n_in // 64))).astype(np.float32)
            codes = rng.integers(0, 1 << 32, (n_out, n_in * bits // 32), np.uint32)
            tensors[f"{stem}.weight"] = codes
            tensors[f"{stem}.scales"] = scales
            tensors[f"{stem}.biases"] = biases(scales, bits)
        config = CONFIG | {"quantization": {"group_size": 64, "bits": bits, "mode": "affine"}}
        return write_model(tmp_path / "quantized", config, tensors)

    return make


@pytest.fixture
def manifest_writer() -> Callable[[Path], None]:
    """`manifest_writer(folder)` writes its manifest.json."""
    return write_manifest


@pytest.fixture(scope="session")
def programs(pytestconfig: pytest.Config) -> Path:
    """Where the ExecuTorch engine keeps its programs, here from one run to the next: an export takes most of a
    minute. Any change to what exports them makes the folder another one."""
    exporter = hashlib.sha256()
    folder = Path(executorch_export.__file__).parent
    for name in ("build", "export", "graph", "partition", "weights"):
        exporter.update((folder / f"executorch_{name}.py").read_bytes())
    assert pytestconfig.cache is not None
    return pytestconfig.cache.mkdir(f"executorch-{exporter.hexdigest()[:16]}")


@pytest.fixture(scope="session", params=[name for name in ENGINES if name != "scripted"])
def engine(request: pytest.FixtureRequest, tiny_model: Path, programs: Path) -> Iterator[Engine]:
    """Each real engine over the tiny checkpoint."""
    options = EngineOptions(model_dir=tiny_model, cache_dir=programs)
    loaded = create_engine(EngineChoice(request.param, "test"), options)
    yield loaded
    loaded.close()


@pytest.fixture(scope="session")
def reference_engine(tiny_model: Path) -> Iterator[Engine]:
    """The torch engine over the tiny checkpoint, to compare with."""
    loaded = create_engine(EngineChoice("torch", "test"), EngineOptions(model_dir=tiny_model))
    yield loaded
    loaded.close()


class Recorder:
    """An event sink a test can wait on."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self.events: list[Event] = []

    def __call__(self, event: Event) -> None:
        self._queue.put(event)

    def next(self, timeout_s: float = 20) -> Event:
        """Return the next event."""
        self.events.append(self._queue.get(timeout=timeout_s))
        return self.events[-1]

    def until(self, kind: type[Event]) -> Event:
        """Return the first event of `kind` from here on."""
        while not isinstance(event := self.next(), kind):
            pass
        return event

    def finish(self) -> Done:
        """Wait for the end; a failure is raised."""
        while not isinstance(event := self.next(), Done):
            if isinstance(event, Failed):
                raise event.error
        return event


@pytest.fixture
def recorder() -> type[Recorder]:
    """The `Recorder` class."""
    return Recorder


@pytest.fixture
def start_runtime() -> Iterator[Callable[..., Runtime]]:
    """`start_runtime(model_dir, engine=...)` or `start_runtime(scripted=engine)`: a ready runtime."""
    started: list[Runtime] = []

    def start(
        model_dir: Path = Path(), *, scripted: Engine | None = None, **options: Any
    ) -> Runtime:
        if scripted is not None:
            runtime = Runtime(
                RuntimeOptions(model_dir=model_dir, engine="scripted", **options),
                create=lambda *_: scripted,
            )
        else:
            runtime = Runtime(RuntimeOptions(model_dir=model_dir, **options))
        runtime.start()
        started.append(runtime)
        runtime.wait_loaded(timeout_s=300)
        return runtime

    yield start
    for runtime in started:
        runtime.close(drain_s=10)


@pytest.fixture
def generate(recorder: type[Recorder]) -> Callable[..., Done]:
    """`generate(runtime, text=..., ...)`: submit and wait."""
    n_made = 0

    def run(runtime: Runtime, **fields: Any) -> Done:
        nonlocal n_made
        n_made += 1
        sink = recorder()
        fields = {"task": "continue", "request_id": f"r{n_made}", **fields}
        runtime.submit(GenerationRequest(**fields), sink)
        return sink.finish()

    return run


@pytest.fixture
def roots(tmp_path: Path, tiny_base: BaseModel, write_adapter: Callable[..., None]) -> Path:
    """A root with the adapters alpha and beta for the tiny model."""
    write_adapter(tmp_path / "adapters", "alpha", tiny_base, seed=1)
    write_adapter(tmp_path / "adapters", "beta", tiny_base, seed=2)
    return tmp_path / "adapters"


@pytest.fixture
def written(generate: Callable[..., Done]) -> Callable[..., str]:
    """`written(runtime, "alpha", ...)`: the greedy continuation of a text under the named adapters."""

    def write(runtime: Runtime, *names: str) -> str:
        done = generate(
            runtime,
            text="The old house stood by the river, and nobody had lived in it since ",
            max_tokens=12,
            sampling=SamplingOverrides(temperature=0.0),
            adapters=tuple(AdapterRef(name) for name in names),
        )
        return done.result.choices[0].text

    return write


@pytest.fixture
def scripted(
    tmp_path: Path, write_adapter: Callable[..., None], start_runtime: Callable[..., Runtime]
) -> Callable[..., Runtime]:
    """`scripted(budget_bytes=..., ...)`: a scripted runtime with the adapters formal and continue."""
    for seed, name in enumerate(("formal", "continue")):
        write_adapter(tmp_path / "root", name, BASE, seed=seed)

    def start(engine: ScriptedEngine | None = None, **options: Any) -> Runtime:
        return start_runtime(
            scripted=engine or ScriptedEngine(),
            adapters=AdapterOptions(roots=(tmp_path / "root",), **options),
        )

    return start
