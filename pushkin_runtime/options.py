"""How a runtime is to be: which model, on what, and within which bounds."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from pushkin_runtime.adapter_pool import AdapterOptions
from pushkin_runtime.liveness import STALL_S
from pushkin_runtime.types import Task


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeOptions:
    """How to run a model.

    context_length: tokens a prompt and its answer may take together, 0 for the model's own limit.
    prefill_chunk: tokens between two looks at cancellation. queue_limit: requests that may wait.
    max_active: generations taking turns. n_threads: of the CPU engines. cache_dir: of what an engine builds from a
    model. adapters: where they are, what they may take, which ones are the defaults. model_roots: where speech
    encoders are. stall_s: a unit of work that takes longer hangs,
    unless the model is known to be slow (`Liveness.limit_s`). idle_unload_s: so long without a request gives the model's memory
    back until the next one, 0 never. lookup_tasks: whose answers are drafted from their prompts (`lookup.py`), which
    changes their speed alone. cache_reuse: tokens in a row behind an edit that a draft has moved instead of read again
    (`cache_reuse.py`), 0 never.
    """

    model_dir: Path
    engine: str = "auto"
    kv_budget_bytes: int = 1 << 30
    context_length: int = 4096
    prefill_chunk: int = 128
    queue_limit: int = 32
    max_active: int = 4
    n_threads: int = 1
    adapters: AdapterOptions = field(default_factory=AdapterOptions)
    model_roots: tuple[Path, ...] = ()
    stall_s: float = STALL_S
    idle_unload_s: float = 0.0
    cache_dir: Path | None = None
    lookup_tasks: frozenset[Task] = frozenset({"rephrase"})
    cache_reuse: int = 0
