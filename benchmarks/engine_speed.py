"""Engines by themselves: load, memory, prefill and decode of a rig's model, bare and under an adapter.

`python -m benchmarks.engine_speed --rig DIR [--engine NAME]… [--threads N]… [--llama-bench PATH]` over a rig that
`benchmarks.true_shape` built. Every engine runs in a process of its own; llama-bench (see `peers_servers`) reads
the same numbers as Q4_0 in the same run. It knows no adapters: for those see `benchmarks.adapter_swap`.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import ml_dtypes
import numpy as np
import psutil

from adapters.composition import Composition, LoraWeights, compose
from benchmarks.harness import Figure, Report, describe_machine, figure, publish, say
from pushkin_runtime.engines.base import (
    DecodePlan,
    Engine,
    EngineOptions,
    KVCache,
    Lora,
    Tokens,
)
from pushkin_runtime.engines.registry import ENGINES, EngineChoice, create_engine
from pushkin_runtime.sampling_types import SamplingParams

if TYPE_CHECKING:
    from benchmarks.true_shape import Rig

PREFILL_CHUNK = 512
KV_TOKENS = 256
ADAPTED = ("k_proj", "v_proj", "o_proj", "gate_proj", "up_proj")
LOAD_BAR_S = 5.0
LIMIT_IS = "the file's bytes at the measured bandwidth"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to measure. depths: tokens already in the cache when decoding begins. rank: of the adapter, 0 for none."""

    prefills: tuple[int, ...]
    depths: tuple[int, ...]
    n_steps: int
    n_repeats: int
    rank: int


@dataclass(slots=True, kw_only=True)
class Speeds:
    """Tokens a second by what was measured, a sample a repeat; seconds and bytes of the loaded engine."""

    samples: dict[str, list[float]]
    load_s: float
    idle_bytes: int
    peak_bytes: int
    kv_bytes_per_token: float


def measure_engine(
    name: str, model: Path, n_threads: int, plan: Plan, cache_dir: Path | None = None
) -> Speeds:
    """Load the engine here and run it: call this in a process of its own."""
    started = time.perf_counter()
    options = EngineOptions(model_dir=model, n_threads=n_threads, cache_dir=cache_dir)
    engine = create_engine(EngineChoice(name, "benchmark"), options)
    load_s = time.perf_counter() - started
    idle_bytes = psutil.Process().memory_info().rss
    samples = _measured(engine, None, plan)
    cache = engine.new_cache()
    engine.prefill(cache, _tokens(KV_TOKENS))
    kv_bytes_per_token = cache.n_bytes / KV_TOKENS
    peak_bytes = _peak_bytes()
    if plan.rank:
        lora = engine.load_lora(_composition(engine, plan.rank))
        for what, values in _measured(engine, lora, plan).items():
            samples[f"{what}.r{plan.rank}"] = values
    engine.close()
    return Speeds(
        samples=samples,
        load_s=load_s,
        idle_bytes=idle_bytes,
        peak_bytes=peak_bytes,
        kv_bytes_per_token=kv_bytes_per_token,
    )


def _measured(engine: Engine, lora: Lora | None, plan: Plan) -> dict[str, list[float]]:
    samples: dict[str, list[float]] = {}
    for n_tokens in plan.prefills:
        engine.prefill(engine.new_cache(lora), _tokens(n_tokens))  # warm: arenas, page faults
        samples[f"prefill.{n_tokens}"] = [
            _prefill_speed(engine, lora, n_tokens) for _ in range(plan.n_repeats)
        ]
    for depth in plan.depths:
        cache = engine.new_cache(lora)
        for start in range(0, depth, PREFILL_CHUNK):
            engine.prefill(cache, _tokens(min(PREFILL_CHUNK, depth - start)))
        samples[f"decode.{depth}"] = [
            _decode_speed(engine, cache, depth, plan.n_steps) for _ in range(plan.n_repeats)
        ]
    return samples


def _prefill_speed(engine: Engine, lora: Lora | None, n_tokens: int) -> float:
    cache = engine.new_cache(lora)
    started = time.perf_counter()
    engine.prefill(cache, _tokens(n_tokens))
    return n_tokens / (time.perf_counter() - started)


def _decode_speed(engine: Engine, cache: KVCache, depth: int, n_steps: int) -> float:
    """Greedy, sampling included, from `depth` on: where the cache is left again."""
    plan = DecodePlan(last_token=7, n_rows=1, sampling=SamplingParams(temperature=0.0), seed=0)
    decoder = engine.decode(cache, plan)
    decoder.step()
    started = time.perf_counter()
    for _ in range(n_steps):
        decoder.step()
    elapsed = time.perf_counter() - started
    decoder.close()
    engine.trim(cache, depth)
    return n_steps / elapsed


def _tokens(n: int) -> Tokens:
    return Tokens(tuple(int(i) for i in np.random.default_rng(n).integers(5, 500, n)))


def _composition(engine: Engine, rank: int) -> Composition:
    """One random adapter of the matrices that the rig's adapters change."""
    rng = np.random.default_rng(rank)
    modules = {
        module: (
            rng.standard_normal((rank, n_in), np.float32) / np.float32(n_in**0.5),
            rng.standard_normal((n_out, rank), np.float32) * np.float32(0.01),
        )
        for module, (n_out, n_in) in engine.base.modules.items()
        if module.endswith(ADAPTED)
    }
    adapter = LoraWeights("random", 1.0, modules)
    return compose([adapter], np.dtype(getattr(ml_dtypes, engine.lora_dtype, engine.lora_dtype)))


def _peak_bytes() -> int:
    unit = 1024 if sys.platform == "linux" else 1
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def measure_llama(binary: Path, rig: Rig, n_threads: int, plan: Plan) -> dict[str, list[float]]:
    """The same figures of llama-bench, flash attention on."""
    common = ["-m", str(rig.gguf), "-t", str(n_threads), "-r", str(plan.n_repeats), "-fa", "1"]
    common += ["-o", "json"]
    samples: dict[str, list[float]] = {}
    for kind, values in (("prefill", plan.prefills), ("decode", plan.depths)):
        listed = ",".join(map(str, values))
        what = (
            ["-p", listed, "-n", "0"] if kind == "prefill" else ["-p", "0", "-n", str(plan.n_steps)]
        )
        depth = [] if kind == "prefill" else ["-d", listed]
        found = subprocess.run(
            [str(binary), *common, *what, *depth], capture_output=True, text=True, check=True
        )
        for record in json.loads(found.stdout):
            n = record["n_prompt"] if kind == "prefill" else record["n_depth"]
            samples[f"{kind}.{n}"] = record["samples_ts"]
    return samples


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; see the module's docstring."""
    # Both bring PyTorch, which an engine's own process must not carry.
    from benchmarks.machine_limits import measure_limits
    from benchmarks.true_shape import open_rig

    arguments = _arguments(argv)
    rig = open_rig(arguments.rig)
    n_bytes = sum(file.stat().st_size for file in rig.model.glob("*.safetensors"))
    plan = Plan(
        prefills=tuple(arguments.prefill),
        depths=tuple(arguments.depth),
        n_steps=arguments.steps,
        n_repeats=arguments.repeats,
        rank=arguments.rank,
    )
    figures: dict[str, Figure] = {}
    for n_threads in arguments.threads:
        limits = measure_limits(n_threads)
        figures[f"{n_threads}t.read_gb_s"] = figure([limits.read_gb_s], "GB/s")
        limit = limits.decode_tok_s(n_bytes)
        llama: dict[str, list[float]] = {}
        if arguments.llama_bench is not None:
            say(f"llama-bench, {n_threads} threads")
            llama = measure_llama(arguments.llama_bench, rig, n_threads, plan)
            figures |= _speed_figures(f"{n_threads}t.llama", llama, limit)
        for name in arguments.engine:
            say(f"{name}, {n_threads} threads")
            spawn = multiprocessing.get_context("spawn")
            with spawn.Pool(1) as pool:
                speeds = pool.apply(
                    measure_engine, (name, rig.model, n_threads, plan, arguments.cache)
                )
            figures |= _engine_figures(f"{n_threads}t.{name}", speeds, llama, limit)
    report = Report(
        benchmark="engine_speed",
        environment={**describe_machine(), "shape": rig.shape, "n_layers": rig.n_layers},
        figures=figures,
        counts={"weight_bytes": n_bytes, "gguf_bytes": rig.gguf.stat().st_size},
        notes=("ratio: medians, against llama-bench on the same numbers in the same run",),
    )
    publish(report, quiet=arguments.json)
    return 0


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rig", type=Path, required=True)
    parser.add_argument("--engine", nargs="+", default=["onnx"], choices=list(ENGINES))
    parser.add_argument("--threads", nargs="+", type=int, default=[1])
    parser.add_argument("--llama-bench", type=Path, help="its binary; without it no peer is run")
    parser.add_argument(
        "--cache", type=Path, help="where engines keep what they build from a model"
    )
    parser.add_argument("--prefill", nargs="*", type=int, default=[128, 512], help="tokens")
    parser.add_argument("--depth", nargs="*", type=int, default=[128, 512, 3000], help="tokens")
    parser.add_argument("--rank", type=int, default=64, help="of the adapter, 0 for none")
    parser.add_argument("--steps", type=int, default=16, help="tokens decoded a repeat")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="only JSON, nothing on stderr")
    return parser.parse_args(argv)


def _speed_figures(prefix: str, samples: dict[str, list[float]], limit: float) -> dict[str, Figure]:
    """limit: decoded tokens a second, were the weights read and nothing else done."""
    return {
        f"{prefix}.{what}": figure(values, "tok/s", limit=limit, limit_is=LIMIT_IS)
        if what.startswith("decode")
        else figure(values, "tok/s")
        for what, values in samples.items()
    }


def _engine_figures(
    prefix: str, speeds: Speeds, llama: dict[str, list[float]], limit: float
) -> dict[str, Figure]:
    figures = _speed_figures(prefix, speeds.samples, limit)
    for what, values in speeds.samples.items():
        peer = llama.get(".".join(what.split(".")[:2]))  # an adapter's name comes third
        if peer is not None:
            ratio = float(np.median(values) / np.median(peer))
            figures[f"{prefix}.{what}.ratio"] = figure([ratio], "of llama-bench, bare", bar=0.95)
    figures[f"{prefix}.load_s"] = figure([speeds.load_s], "s", bar=LOAD_BAR_S)
    figures[f"{prefix}.idle_mb"] = figure([speeds.idle_bytes / 1e6], "MB")
    figures[f"{prefix}.peak_mb"] = figure([speeds.peak_bytes / 1e6], "MB")
    figures[f"{prefix}.kv"] = figure([speeds.kv_bytes_per_token / 1024], "KiB a token")
    return figures


if __name__ == "__main__":
    sys.exit(main())
